"""Read and write recipe files: YAML 1.2, ``extends``, overrides, and errors that name place and fix.

Also what all parts of a recipe share (``Spec``) and how counts of tokens are written (``Tokens``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mmbert.errors import ConfigError, DataError, TrainingError
from mmbert.files import write_text
from mmbert.io.delimited import read_tsv
from mmbert.io.row_errors import shown
from mmbert.io.stream import read_text, text_lines
from mmbert.recipe_errors import explain
from mmbert.recipe_names import RECIPES, beside_or_shipped, find_recipe

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}

COUNT = r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmbgtKMBGT]?)\s*$"
"""A count of tokens as text."""


def parse_count(value: Any) -> Any:
    """Return ``2.3T``, ``500k`` or ``4_718_592`` as an int; anything else is left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.match(COUNT, value)
    if match is None:
        raise ValueError(f"not a count: {value!r} (write 4096, 500k, 3B or 2.3T)")
    count = Decimal(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()]
    if count != int(count):
        raise ValueError(f"not a whole count: {value!r} is {count} tokens")
    return int(count)


Tokens = Annotated[
    int,
    BeforeValidator(parse_count),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": COUNT}]}),
]
"""A count of tokens: 4096, 1_000, 500k, 3B, 2.3T."""


class Spec(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs, which pydantic would read as 1 and 0."""
        field = cls.model_fields[info.field_name or ""]
        if _flags(value) and not _takes_flags(field.annotation):
            raise ValueError("should be a number or text, not true or false")
        return value

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """Remove what null takes back: an entry of a map, or a value where null is not allowed."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for key, value in values.items():
            field = cls.model_fields.get(key)
            forms = () if field is None else (field.annotation, *get_args(field.annotation))
            if value is None and forms and type(None) not in forms:
                continue
            is_map = isinstance(value, dict) and any(get_origin(form) is dict for form in forms)
            kept[key] = {k: v for k, v in value.items() if v is not None} if is_map else value
        return kept


def _flags(value: Any) -> bool:
    """Return whether a value, or one in a list or map of plain values, is true or false."""
    if isinstance(value, dict | list | tuple):
        return any(map(_flags, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _takes_flags(annotation: Any) -> bool:
    """Return whether true and false are allowed in a value of this type; an inner Spec checks its own."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(isinstance(argument, bool) for argument in arguments)
    return any(map(_takes_flags, arguments))


class SpecFile(Spec):
    """Options that stand in a file of their own."""

    command: ClassVar[str | None] = None
    """The command whose recipes of the package ``load`` finds by name (``mmbert.recipe_names``)."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a file, or a recipe of the package by its name, with ``key.path=value`` overrides.

        Raises ConfigError with the dotted path of what is wrong.
        """
        file = find_recipe(path, cls.command)
        return cls.of_values(read_recipe(file, list(overrides)), file)

    @classmethod
    def of_values(cls, values: dict[str, Any], path: Path) -> Self:
        """Check plain values. Raises ConfigError, which names ``path``."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, path, values)) from error

    def save(self, path: Path) -> None:
        """Write all of it, every default included."""
        write_recipe(path, self.model_dump(mode="json"))


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Return the file's values with ``extends``, ``a.b=c`` overrides and the lists of languages it names resolved."""
    values = apply_overrides(_read_extended(path, seen=()), overrides)
    _read_lists(values, path.parent)  # those named by overrides
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Change values in place by ``a.b=c``, and return them. Raises ConfigError for another form."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not of the form key.path=value")
        assign(values, key.split("."), _yaml(text, f"override {override!r}"))
    return values


def read_languages(folder: Path, reference: str) -> list[str]:
    """Return codes from a list (one a line, ``#`` comments) or from ``table.tsv#column=value,value``."""
    name, _, condition = reference.partition("#")
    path = next((path for path in (folder / name, Path(name)) if path.is_file()), RECIPES / name)
    if not path.is_file():
        raise ConfigError(f"no such list of languages: {name} (looked in {folder.resolve()} and {Path.cwd()})")
    if condition:
        column, _, wanted = condition.partition("=")
        rows = [row for _, row in read_tsv(path)]
        if not rows or column not in rows[0] or not wanted:
            columns = ", ".join(rows[0]) if rows else "(none: it is empty)"
            raise ConfigError(f"{reference}: expected table.tsv#column=value with one of the columns {columns}")
        codes = [row.get("code") or row.get("language") or "" for row in rows if row[column] in wanted.split(",")]
    else:
        codes = [word for line in text_lines(path) for word in line.split("#")[0].split()]
    if not codes or not all(codes):
        raise ConfigError(f"{reference} names no language")
    return codes


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # leaves on one line, so that 1833 languages are not 1833 lines
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(values, stream)
    write_text(path, stream.getvalue())


def refuse_changes(folder: Path, begun: Any, now: Any) -> None:
    """Raise TrainingError, naming the first keys that differ, if a run was begun in the folder with other values."""
    changes = list(_differences(begun, now))
    if changes:
        more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
        raise TrainingError(
            f"{folder} was begun with another recipe: {'; '.join(changes[:3])}{more}: "
            "put it back, or give another --out"
        )


def _differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted keys that differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
    elif before != now:
        yield f"{place} is {shown(now)}, was {shown(before)}"


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return a file's values merged over those of the file it extends; paths in it are relative to its own folder."""
    if path.resolve() in seen:
        chain = " -> ".join(each.name for each in (*seen, path))
        raise ConfigError(f"{path} extends itself: {chain}")
    try:
        values = _yaml(read_text(path), str(path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a map of options")
    _read_lists(values, path.parent)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends should be the path or name of one recipe (given: {parent})")
    try:
        extended = find_recipe(beside_or_shipped(path.parent, parent))
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from error
    inherited = _read_extended(extended, (*seen, path.resolve()))
    _move_tables(inherited, extended.parent, path.parent)
    return _merge(inherited, values)


def _read_lists(values: dict[str, Any], folder: Path) -> None:
    """Put the codes where a phase names a list of languages."""
    for phase in _maps(values.get("phases")):
        data = phase.get("data")
        if isinstance(data, dict) and isinstance(data.get("languages"), str) and data["languages"] != "all":
            data["languages"] = read_languages(folder, data["languages"])


def _move_tables(values: dict[str, Any], old: Path, new: Path) -> None:
    """Make the paths of an extended file (tables of counts, a suite's ``tune``) relative to the file that is loaded."""
    if old.resolve() == new.resolve():
        return

    def moved(reference: str) -> str:
        """Return an absolute path, but a name or path of the package's as it is, since every folder finds those."""
        found = beside_or_shipped(old, reference)
        # Absolute, it would change with the installation, and a run resumes only with the recipe it began with.
        return reference if found.is_relative_to(RECIPES) else str(found.resolve())

    if isinstance(values.get("tune"), str):
        values["tune"] = moved(values["tune"])
    tables = set()  # YAML aliases make several phases share one map
    for phase in _maps(values.get("phases")):
        data = phase.get("data")
        for budget in _maps(data.get("mixture") if isinstance(data, dict) else None):
            counts = budget.get("counts")
            if isinstance(counts, dict) and isinstance(counts.get("file"), str) and id(counts) not in tables:
                tables.add(id(counts))
                counts["file"] = moved(counts["file"])


def _maps(value: Any) -> list[dict[str, Any]]:
    return [each for each in value.values() if isinstance(each, dict)] if isinstance(value, dict) else []


def _yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


def assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value at the place of nested keys, making the maps on the way."""
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, dict) else {}  # a copy: a YAML alias shares it with another key
        values = values[key]
    values[keys[-1]] = value
