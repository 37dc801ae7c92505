"""``mmbert recipes`` and ``mmbert examples``: hand out the files that the package brings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.options import complete_recipe

_USES = {
    "run": "mmbert run RECIPE      (and pretrain, merge, data prepare, data plan, data scale, tokenizer train)",
    "finetune": "mmbert finetune RECIPE",
    "evaluate": "mmbert evaluate MODEL RECIPE",
}


SUFFIXES = (".py", ".ipynb", ".txt", ".jsonl", ".html", ".js")
"""Of the example files that are handed out."""


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe instead of the list.", autocompletion=complete_recipe())
    ] = None,
) -> None:
    """List the recipes of the package, or print one: `mmbert recipes nano > my.yaml` makes a copy to change."""
    from mmbert.recipe_names import shipped, shipped_recipe

    if name is not None:
        typer.echo(shipped_recipe(name).path.read_text(encoding="utf-8"), nl=False)
        return
    width = max(map(len, shipped()))
    for number, (command, use) in enumerate(_USES.items()):
        typer.echo(f"{chr(10) if number else ''}{use}")
        for recipe in shipped().values():
            if recipe.command == command:
                typer.echo(f"  {recipe.name:<{width}}  {recipe.summary}")


def examples(
    out: Annotated[Path, typer.Argument(help="Folder to write. Files that are there are left as they are.")] = Path(
        "examples"
    ),
) -> None:
    """Write the example files that the guides use: small data sets, scripts, a notebook, a search page."""
    from mmbert.files import write_text

    source = _examples()
    files = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES)
    new = [path for path in files if not (out / path.relative_to(source)).exists()]
    for path in new:
        write_text(out / path.relative_to(source), path.read_text(encoding="utf-8"))
    typer.echo(f"{out}: {len(files)} files, {len(new)} of them new")


def _examples() -> Path:
    """Return the folder of the examples: in the package, or where that is installed from a clone, in the clone."""
    from importlib.resources import files

    packaged = Path(str(files("mmbert"))) / "examples"
    return packaged if packaged.is_dir() else packaged.parents[2] / "examples"
