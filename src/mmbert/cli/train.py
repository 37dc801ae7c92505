"""``mmbert pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/nano.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes: phases.extend.mask_rate=0.2 ...")] = None,
    phase: Annotated[
        list[str] | None, typer.Option(help="Only this phase; what it follows must be finished. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data folder. Default: the recipe's `shards`, else `data` in the run's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print size, cost and mixture; train nothing.")] = False,
    devices: Annotated[int, typer.Option(help="Dry run: how many devices.")] = 8,
    device_tflops: Annotated[float, typer.Option(help="Dry run: peak of one device; an H100 in dense bf16.")] = 990.0,
    mfu: Annotated[float, typer.Option(help="Dry run: part of the peak that training reaches.")] = 0.4,
) -> None:
    """Train the phases of a recipe on prepared data. Stopped, it goes on where it was.

    Several processes: `torchrun --nproc-per-node 8 -m mmbert pretrain RECIPE`.
    """
    from mmbert.recipe import Recipe

    wanted = Recipe.load(recipe, overrides or [])
    if dry_run:
        from mmbert.planning import Hardware, print_plan
        from mmbert.planning import dry_run as plan

        print_plan(plan(wanted, folder=recipe.parent, hardware=Hardware(devices, device_tflops, mfu)))
        return
    from mmbert.training.distributed import is_main
    from mmbert.training.pretrain import pretrain as train

    folder = out or Path("runs") / wanted.name
    shards = data or (Path(wanted.shards) if wanted.shards else folder / "data")
    for name, model in train(wanted, folder, shards, phases=phase or None).items():
        if is_main():
            typer.echo(f"{name}\t{model}")
