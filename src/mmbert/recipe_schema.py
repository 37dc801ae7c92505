"""The JSON schema of a recipe file, for editors: names, forms and explanations of all options while one types."""

from __future__ import annotations

from typing import Any


def editor_schema(recipe: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a recipe *file*, for editors, from that of the model.

    A file may name a list of languages where the model holds codes, and one that ``extends`` another may leave out what
    is required and write null to remove something.
    """
    definitions = recipe.pop("$defs")
    definitions["Recipe"] = {key: value for key, value in recipe.items() if key != "title"}
    definitions["PhaseData"]["properties"]["languages"]["anyOf"].append({"type": "string"})
    for name, definition in list(definitions.items()):
        definitions[f"{name}Change"] = _as_change(definition)
    extends = {"type": "string", "description": "The path of a recipe to start from, relative to this one."}
    definitions["RecipeChange"]["properties"]["extends"] = extends
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mmbert recipe",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": "#/$defs/RecipeChange"},
        "else": {"$ref": "#/$defs/Recipe"},
        "$defs": definitions,
    }


def _as_change(schema: Any) -> Any:
    """The schema of a part of something: nothing is required, everything may be null."""
    if isinstance(schema, list):
        return [_as_change(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _as_change(value) for key, value in schema.items() if key not in ("required", "default")}
    if "$ref" in changed:
        changed["$ref"] += "Change"
    if isinstance(changed.get("properties"), dict):
        changed["properties"] = {name: _or_null(value) for name, value in changed["properties"].items()}
    if isinstance(changed.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(changed["additionalProperties"])
    return changed


def _or_null(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}
