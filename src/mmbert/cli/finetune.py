"""``mmbert finetune``: tune a model on a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbert.cli.options import RunFolder, recipe_argument
from mmbert.cli.push import pushes

if TYPE_CHECKING:
    from mmbert.finetuning.finetune import FinetuneResult


@pushes
def finetune(
    recipe: Annotated[Path, recipe_argument("finetune", "A recipe", "ner")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Options to change: model=runs/nano/final data.train.path=train.jsonl ..."),
    ] = None,
    out: RunFolder = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Try all values of the recipe's `sweep` and keep the model with the best dev score."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the recipe, local data and model, and print the plan; train nothing."),
    ] = False,
) -> Path | None:
    """Fine-tune a model on a task and write it to RUN/final. The same command resumes if interrupted.

    With several processes: `torchrun --nproc-per-node 8 -m mmbert finetune RECIPE`.
    """
    from mmbert.finetuning.recipe import FinetuneRecipe

    wanted = FinetuneRecipe.load(recipe, overrides or [])
    if dry_run:
        from mmbert.finetuning.dry_run import dry_run as plan
        from mmbert.finetuning.dry_run import show

        typer.echo(show(plan(wanted, out or Path("runs") / wanted.name)))
        return None
    from mmbert.finetuning.finetune import finetune as run

    result = run(wanted, out=out, sweep=sweep)
    show_result(result)
    return result.folder


def show_result(result: FinetuneResult) -> None:
    """Print what a run measured, and where its model is."""
    from mmbert.files import is_main_process
    from mmbert.finetuning.figures import summarise

    if not is_main_process():
        return
    for trial in result.trials:
        changes = ", ".join(f"{key}={value}" for key, value in trial["changes"].items())
        typer.echo(f"trial   {trial['chosen']:.4f}  {changes}")
    for split, numbers in result.metrics.items():
        typer.echo(f"{split:<7} {summarise(numbers)}")
    typer.echo(f"all     {result.folder.parent / 'result.json'}")
    typer.echo(f"model   {result.folder}")
