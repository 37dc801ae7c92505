"""``mmbert recipes``: list the recipes of the package, or print one."""

from __future__ import annotations

from typing import Annotated

import typer

from mmbert.cli.options import complete_recipe

_USES = {
    "run": "mmbert run RECIPE      (and pretrain, merge, data prepare, data plan, data scale, tokenizer train)",
    "finetune": "mmbert finetune RECIPE",
    "evaluate": "mmbert evaluate MODEL RECIPE",
}


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
