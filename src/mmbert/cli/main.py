"""The command line. Heavy imports are inside the commands, so that ``--help`` is fast."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # imported there for others

from mmbert.cli.log_options import Quiet, Verbose, add_log_options, set_up_log
from mmbert.cli.options import Overrides, RecipeFile, RunFolder
from mmbert.errors import MissingExtra, MMBertError
from mmbert.extras import extra_of
from mmbert.version import __version__

app = typer.Typer(
    name="mmbert",
    help="Train, fine-tune, evaluate, search with and serve multilingual encoders by the mmBERT recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmbert {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Verbose = False,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    set_up_log(verbose, quiet)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
) -> None:
    """Run a whole recipe: data, tokenizer, training phases, merge, evaluation, report.

    The same command resumes if interrupted.
    """
    from mmbert.pipeline import run as run_recipe
    from mmbert.recipe import Recipe

    result = run_recipe(Recipe.load(recipe, overrides or []), out=out)
    typer.echo(f"model   {result.model}")
    typer.echo(f"report  {result.report}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, such as runs/nano.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Also write tables (Markdown) and plots (SVG) into this folder.")
    ] = None,
) -> None:
    """Write RUN/report.html from the files of each run."""
    from mmbert.reporting.markdown import write_markdown
    from mmbert.reporting.page import write_report

    for folder in runs:
        typer.echo(write_report(folder, folder / "report.html"))
        if markdown is not None:
            typer.echo(write_markdown(folder, markdown / folder.name))


def _add_commands() -> None:
    from mmbert.cli import (
        checkpoint,
        completion,
        data,
        distill,
        doctor,
        embed,
        estimate,
        evaluate,
        export,
        finetune,
        index,
        predict,
        recipes,
        serve,
        store,
        surgery,
        tokenizer,
        train,
    )

    app.add_typer(data.app, name="data", help="Prepare text and shards, inspect them, plan the mixture.")
    app.add_typer(tokenizer.app, name="tokenizer", help="Train a tokenizer or measure one.")
    app.command()(train.pretrain)
    app.command()(finetune.finetune)
    app.command()(distill.distill)
    app.command()(evaluate.evaluate)
    app.command()(surgery.merge)
    app.command()(surgery.trim)
    app.command()(surgery.extend)
    app.command()(surgery.convert)
    app.command()(export.export)
    app.add_typer(checkpoint.app, name="checkpoint", help="Export the model of a training checkpoint.")
    app.command()(embed.embed)
    app.command()(estimate.estimate)
    for command in (predict.fill_mask, predict.classify, predict.tag, predict.answer, predict.rerank):
        app.command()(command)
    app.add_typer(index.app, name="index", help="Build a search index of texts and search it.")
    app.command()(store.store)
    app.command()(serve.serve)
    app.command()(recipes.recipes)
    app.command()(recipes.examples)
    app.command()(doctor.doctor)
    app.command()(completion.completion)
    add_log_options(app)


_add_commands()
completion_init()  # what `mmbert completion` prints asks this program in the way of typer's scripts


def main() -> None:
    """Run the command line. Errors of the package print one line and exit with 2; bugs show their traceback."""
    try:
        app()
    except MMBertError as error:
        sys.stderr.write(f"mmbert: {error}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or extra_of(error.name) is None:
            raise
        sys.stderr.write(f"mmbert: {MissingExtra(error.name, '')}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("mmbert: interrupted; the same command resumes from the last checkpoint\n")
        sys.exit(130)
    finally:
        gc.freeze()  # the interpreter's exit would collect all objects again, which takes a second with torch


if __name__ == "__main__":
    main()
