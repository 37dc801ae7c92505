"""``mmbert evaluate``: evaluate models on the tasks of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or hub name, pretrained or fine-tuned.")],
    recipe: Annotated[Path, typer.Argument(help="Suite file, such as recipes/evaluate/xtreme.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Options to change: data=DIR seeds=[1,2,3] tasks.sib200.limit=100 tune_changes.training.batch=256 ..."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the results and the fine-tuned models; tables are in its folder NAME.")
    ] = Path("results"),
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Baseline to evaluate too: untrained (the same architecture with random weights), characters "
            "(character n-grams, no model) or bag (single characters, no model). May be repeated."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another model to evaluate in the same way. May be repeated.")
    ] = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Do not fine-tune first, even where the suite asks for it.")
    ] = False,
) -> None:
    """Evaluate models on tasks: fine-tune by the protocol of each task, predict, score, compare.

    Prints tables, and writes them with LaTeX, JSON and plots into OUT/NAME. The same command resumes if interrupted.
    """
    from mmbert.evaluation.evaluate import evaluate as run
    from mmbert.evaluation.suite import Suite
    from mmbert.reporting.scores import write_scores

    suite = Suite.load(recipe, overrides or [])
    found = run(model, suite, out=out, baselines=baseline or [], beside=beside or [], tune=not no_tune)
    written = write_scores(found, out / suite.name)
    typer.echo(written.read_text(encoding="utf-8"))
