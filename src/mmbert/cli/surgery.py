"""Models in, models out: ``mmbert merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/nano.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes: merge.density=0.3 ...")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
) -> None:
    """Merge the ends of a run's phases as the recipe says, into RUN/final."""
    from mmbert.errors import ConfigError
    from mmbert.recipe import Recipe
    from mmbert.run import merge_phases

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or Path("runs") / wanted.name
    if wanted.merge is None:
        raise ConfigError(f"{recipe} has no merge: say which phases under `merge`")
    merge_phases(wanted, folder, folder / "final")
    typer.echo(folder / "final")
