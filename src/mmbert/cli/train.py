"""``mmbert pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbert.estimate.hardware import DEVICES

PANEL = "With --dry-run (docs/scaling.md)"


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
    replay: Annotated[
        bool, typer.Option("--replay", help="Repeat the step at which a loss or gradient stopped the run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print size, memory, time and mixture.")] = False,
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.", rich_help_panel=PANEL)] = "h100",
    devices: Annotated[int, typer.Option(help="Devices in a node.", rich_help_panel=PANEL)] = 8,
    nodes: Annotated[int, typer.Option(help="Nodes.", rich_help_panel=PANEL)] = 1,
    utilisation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=NUMBER",
            help="The part of a published figure, in (0, 1], that is reached: of matrices, attention, memory or links. "
            "May be repeated. Default: assumptions, which are printed.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    network: Annotated[
        float | None,
        typer.Option(
            help="GB/s, one way, of each device to other nodes. Default: as in the maker's own nodes.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    length: Annotated[
        float | None,
        typer.Option(help="Tokens of a document. Default: the phase's context, the longest.", rich_help_panel=PANEL),
    ] = None,
) -> None:
    """Train the phases of a recipe on prepared data. If it is interrupted, the same command resumes it.

    Several processes: `torchrun --nproc-per-node 8 -m mmbert pretrain RECIPE`.
    """
    from mmbert.recipe import Recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or Path("runs") / wanted.name
    prepared = data or (Path(wanted.shards) if wanted.shards else folder / "data")
    if dry_run:
        from mmbert.estimate.dry_run import dry_run as estimate
        from mmbert.estimate.hardware import Machine
        from mmbert.estimate.print_estimate import print_estimate

        bytes_a_second = None if network is None else network * 1e9
        machine = Machine.named(device, devices, nodes, utilisation=utilisation or (), network=bytes_a_second)
        print_estimate(estimate(wanted, folder=recipe.parent, data=prepared, machine=machine, length=length))
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
