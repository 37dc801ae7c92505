"""``mmbert finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 8
"""Figures of a split that are printed: of many languages there may be hundreds."""


def finetune(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/finetune/ner.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes: model=models/nano data.train.path=train.jsonl ...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try all values of the recipe's `sweep` and keep the best on dev.")
    ] = False,
) -> None:
    """Tune a model on a task; the tuned model is RUN/final. Stopped, it goes on; finished, it does nothing.

    Several processes: `torchrun --nproc-per-node 8 -m mmbert finetune RECIPE`.
    """
    from mmbert.finetuning.finetune import finetune as run
    from mmbert.finetuning.finetune import main_process
    from mmbert.finetuning.recipe import FinetuneRecipe

    result = run(FinetuneRecipe.load(recipe, overrides or []), out=out, sweep=sweep)
    if not main_process():
        return
    for trial in result.trials:
        changes = ", ".join(f"{key}={value}" for key, value in trial["changes"].items())
        typer.echo(f"trial   {trial['chosen']:.4f}  {changes}")
    for split, numbers in result.metrics.items():
        shown = "  ".join(f"{name} {value:.4f}" for name, value in list(numbers.items())[:SHOWN])
        more = len(numbers) - SHOWN
        typer.echo(
            f"{split:<7} {shown}" + (f"  and {more} more in {result.folder.parent}/result.json" if more > 0 else "")
        )
    typer.echo(f"model   {result.folder}")
