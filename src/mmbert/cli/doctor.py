"""``mmbert doctor``: check this machine and a model folder, or print the schema of recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmbert.doctor.model import Examination


def doctor(
    model: Annotated[str | None, typer.Argument(help="Model folder or hub name to check.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="Device for the check of MODEL: auto, cpu, cuda or cuda:1.")] = "auto",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes for editors: doctor --schema > FILE.")
    ] = False,
) -> None:
    """Show what mmbert uses on this machine and why. With MODEL, check the folder and which libraries can load it.

    Changes nothing. Exit status: 0 no problem, 1 problems in MODEL (each is printed with its fix), 2 no such model.
    """
    if schema:
        _print_schema(model)
        return
    from mmbert.doctor.machine import describe_machine
    from mmbert.doctor.model import examine

    examined = None if model is None else examine(model, device=device)
    machine = describe_machine()
    if as_json:
        typer.echo(json.dumps(_as_json(machine, examined), ensure_ascii=False, indent=1))
    else:
        for line in _lines(machine, examined):
            typer.echo(line)
    if examined is not None and examined.problems:
        raise typer.Exit(1)


def _as_json(machine: dict[str, str], examined: Examination | None) -> dict[str, Any]:
    if examined is None:
        return {"machine": machine}
    return {
        "machine": machine,
        "model": examined.facts,
        "readers": [asdict(verdict) for verdict in examined.readers],
        "problems": [problem._asdict() for problem in examined.problems],
    }


def _lines(machine: dict[str, str], examined: Examination | None) -> Iterator[str]:
    yield from _table(machine)
    if examined is None:
        return
    yield ""
    yield from _table(examined.facts)
    yield ""
    yield from _table({each.reader: ": ".join(filter(None, (each.reads, each.why))) for each in examined.readers})
    yield ""
    yield from (f"problem: {problem}" for problem in examined.problems)
    if not examined.problems:
        yield "no problems"
    elif examined.portable:
        command = f"mmbert export {examined.facts['folder']} --format {examined.portable} --out DIR"
        yield f"{command} writes it for all of them"


def _table(rows: dict[str, Any]) -> Iterator[str]:
    width = max(map(len, rows)) + 2
    return (f"{name:<{width}}{_text(value)}" for name, value in rows.items())


def _text(value: Any) -> str:
    """Return a fact as text: ``layers 22, width 768``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_schema(model: str | None) -> None:
    from mmbert.errors import ConfigError
    from mmbert.recipe import Recipe
    from mmbert.recipe_schema import editor_schema

    if model is not None:
        raise ConfigError(
            f"--schema takes nothing beside it (given: {model}): mmbert doctor --schema > recipe.schema.json"
        )
    typer.echo(json.dumps(editor_schema(Recipe.model_json_schema()), indent=2, ensure_ascii=False))
