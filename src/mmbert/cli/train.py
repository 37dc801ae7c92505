"""``mmbert pretrain``: train the phases of a recipe, or estimate what that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.options import Overrides, RecipeFile, RunFolder
from mmbert.estimate.hardware import DEVICES

UTILISATION = (
    "Fraction of the data sheet's figure that is reached, in (0, 1], for matrices, attention, memory or links. "
    "May be repeated. Default: assumptions, which are printed."
)


def _of_dry_run(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel="With --dry-run (docs/scaling.md)")


def pretrain(
    recipe: RecipeFile,
    overrides: Overrides = None,
    phase: Annotated[
        list[str] | None, typer.Option(help="Only this phase; the phase before it must be finished. May be repeated.")
    ] = None,
    out: RunFolder = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder. Default: the recipe's `shards`, else `data` in the run's folder.")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Repeat the step at which a loss or gradient spike stopped the run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print model size, memory, time and mixture; train nothing.")
    ] = False,
    device: Annotated[str, _of_dry_run(f"One of {', '.join(DEVICES)}.")] = "h100",
    devices: Annotated[int, _of_dry_run("Devices per node.")] = 8,
    nodes: Annotated[int, _of_dry_run("Number of nodes.")] = 1,
    utilisation: Annotated[list[str] | None, _of_dry_run(UTILISATION, metavar="PART=NUMBER")] = None,
    network: Annotated[
        float | None,
        _of_dry_run("Bandwidth of a device to other nodes in GB/s, one way. Default: that of the maker's nodes."),
    ] = None,
    length: Annotated[float | None, _of_dry_run("Tokens of a document. Default: the context of the phase.")] = None,
) -> None:
    """Train the phases of a recipe on prepared data. The same command resumes if interrupted.

    With several processes: `torchrun --nproc-per-node 8 -m mmbert pretrain RECIPE`.
    """
    from mmbert.recipe import Recipe
    from mmbert.recipe_names import find_recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or Path("runs") / wanted.name
    prepared = data or (Path(wanted.shards) if wanted.shards else folder / "data")
    if dry_run:
        from mmbert.estimate.dry_run import dry_run as estimate
        from mmbert.estimate.hardware import Machine
        from mmbert.estimate.print_estimate import print_estimate

        bytes_a_second = None if network is None else network * 1e9
        machine = Machine.named(device, devices, nodes, utilisation=utilisation or (), network=bytes_a_second)
        print_estimate(
            estimate(wanted, folder=find_recipe(recipe).parent, data=prepared, machine=machine, length=length)
        )
        return
    from mmbert.files import is_main_process
    from mmbert.training.pretrain import pretrain as train

    if replay:
        from mmbert.training.replay import replay as repeat

        typer.echo(repeat(wanted, folder, prepared, phases=phase).to_text())
        return
    for name, model in train(wanted, folder, prepared, phases=phase or None).items():
        if is_main_process():
            typer.echo(f"{name}\t{model}")
