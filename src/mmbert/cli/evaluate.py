"""``mmbert evaluate``: a model, or several, on the tasks of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.options import recipe_argument


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder or hub name, pretrained or tuned.")],
    recipe: Annotated[Path, recipe_argument("evaluate", "A suite", "xtreme")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes: data=DIR seeds=[1,2,3] tasks.sib200.limit=100 tune_changes.training.batch=256 ..."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of results and of the models tuned on the way; tables are in NAME/ in it.")
    ] = Path("results"),
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="untrained: the same architecture, fresh weights. Without a model: characters (n-grams), "
            "character-unigrams. May be repeated."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="A further model, evaluated in the same way. May be repeated.")
    ] = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Take the model as it is, where the suite would tune it first.")
    ] = False,
) -> None:
    """Evaluate a model on tasks: fine-tune as each task's protocol says, predict, score, compare. Stopped, it goes on.

    Tables go to stdout and, with LaTeX, JSON and plots, into OUT/NAME. What is there is not computed again.
    """
    from mmbert.evaluation.evaluate import evaluate as evaluate_suite
    from mmbert.evaluation.suite import Suite
    from mmbert.reporting.scores import write_scores

    suite = Suite.load(recipe, overrides or [])
    found = evaluate_suite(model, suite, out=out, baselines=baseline or [], beside=beside or [], tune=not no_tune)
    written = write_scores(found, out / suite.name)
    typer.echo(written.read_text(encoding="utf-8"))
