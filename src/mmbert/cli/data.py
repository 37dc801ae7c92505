"""``mmbert data``: prepare text and shards, inspect them, plan the mixture."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.options import DataFolder, Overrides, RecipeFile

app = typer.Typer(no_args_is_help=True)


class Executor(StrEnum):
    """Where tasks run."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


@app.command()
def prepare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: DataFolder = None,
) -> None:
    """Read and clean text, train or load the tokenizer, write shards. The same command resumes if interrupted."""
    from mmbert.data.prepare import prepare_data
    from mmbert.recipe import Recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or (Path(wanted.shards) if wanted.shards else Path("runs") / wanted.name / "data")
    manifest, tokenizer = prepare_data(wanted, folder)
    languages = {stream.language for stream in manifest.streams}
    typer.echo(f"shards     {folder / 'shards'}: {manifest.tokens:,} tokens in {len(languages)} languages")
    typer.echo(f"tokenizer  {folder / 'tokenizer'}: {tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint}")


@app.command()
def scale(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: DataFolder = None,
    executor: Annotated[
        Executor, typer.Option(help="What runs the tasks: this machine, Slurm or Ray.")
    ] = Executor.local,
    tasks: Annotated[
        int, typer.Option(min=1, help="Number of tasks that the files of the sources are divided among.")
    ] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Number of tasks that run at the same time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Slurm: only write and print the launch files.")] = False,
    partition: Annotated[str | None, typer.Option(help="Slurm: partition.")] = None,
    time: Annotated[str, typer.Option(help="Slurm: time limit of a task.")] = "24:00:00",
    memory_gb: Annotated[int, typer.Option(min=1, help="Slurm and Ray: memory of a task in GB.")] = 4,
    setup: Annotated[
        str | None, typer.Option(help="Slurm: command to run before each task, such as 'source .venv/bin/activate'.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Slurm: more sbatch options, such as account=mine. May be repeated.")
    ] = None,
) -> None:
    """Run `prepare` as many datatrove tasks, on one machine, Slurm or Ray. The same command resumes if interrupted."""
    from mmbert.data.distributed.launch import Cluster, prepare_at_scale
    from mmbert.recipe import Recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or (Path(wanted.shards) if wanted.shards else Path("runs") / wanted.name / "data")
    options = {name: value for name, _, value in (option.partition("=") for option in sbatch or ())}
    cluster = Cluster(partition, time, memory_gb, setup, options)
    files = prepare_at_scale(
        wanted, folder, executor=executor.value, tasks=tasks, workers=workers, cluster=cluster, dry_run=dry_run
    )
    for file in files:
        typer.echo(f"# {file}")
        if dry_run:
            typer.echo(file.read_text(encoding="utf-8"))
    if not files:
        typer.echo(f"prepared   {folder}: `mmbert data show {folder}` lists the streams")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Data folder, such as runs/nano/data.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard and check its checksum.")] = False,
) -> None:
    """List the streams of a data folder, largest first: tokens, documents, and what was dropped for which reason."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = ("source", "language", "name", "tokens", "documents", "characters", "bytes/token", "held out", "dropped")
    rows = sorted(_rows(folder, verify=verify), key=lambda row: (-(row[0] or 0), -row[1], row[2]))
    console = Console()
    if not console.is_terminal:  # for other programs: tab-separated, nothing cut
        typer.echo("\t".join(columns))
        for row in rows:
            typer.echo("\t".join(row[2]))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        is_text = column in ("source", "language", "name", "dropped")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=column != "dropped")
    for row in rows:
        table.add_row(*row[2])
    console.print(table)


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    phase: Annotated[
        list[str] | None, typer.Option(help="Only this phase. May be repeated. Default: all phases.")
    ] = None,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Also plot the shares into this file: .html, .svg or .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what each phase draws of every language: share, tokens and epochs.

    Without prepared shards the sizes are the recipe's counts.
    """
    import json

    from mmbert.data import mixture_report
    from mmbert.recipe import Recipe
    from mmbert.recipe_names import find_recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = data or (Path(wanted.shards) if wanted.shards else Path("runs") / wanted.name / "data")
    drawn = mixture_report.mixtures(wanted, find_recipe(recipe).parent, folder / "shards", phase or ())
    rows = mixture_report.language_rows(drawn)
    if out is not None:
        from mmbert.reporting.mixture_plot import draw_mixture

        draw_mixture(rows, list(drawn), out, title=wanted.name)
    if as_json:
        typer.echo(json.dumps(mixture_report.as_json(wanted, drawn, rows), ensure_ascii=False, indent=1))
    else:
        typer.echo(mixture_report.table(wanted, drawn, rows))
    if out is not None:
        typer.echo(f"picture  {out}", err=True)


def _rows(folder: Path, *, verify: bool) -> Iterator[tuple[int | None, int, list[str]]]:
    """Yield (tokens, characters, cells) of every stream; tokens are None before it is tokenised."""
    from mmbert import languages
    from mmbert.data.manifest import FILE, Manifest
    from mmbert.data.store import Report, report_path
    from mmbert.errors import DataError

    shards = folder / "shards"
    has_shards, has_report = (shards / FILE).is_file(), report_path(folder).is_file()
    if not has_shards and not has_report:
        raise DataError(f"{folder} holds neither prepared text nor shards: run `mmbert data prepare` first")
    streams = Manifest.load(shards, verify=verify).streams if has_shards else ()
    tokenised = {(stream.source, stream.language): stream for stream in streams}
    sources = Report.load(folder).sources if has_report else {}
    counted = {(name, code): counts for name, source in sources.items() for code, counts in source.languages.items()}
    for source, language in sorted({*tokenised, *counted}):
        stream, counts = tokenised.get((source, language)), counted.get((source, language))
        documents = counts.documents if counts else stream.documents if stream else 0
        characters = counts.characters if counts else stream.characters if stream else 0
        dropped = ", ".join(f"{number} {reason}" for reason, number in counts.dropped.items()) if counts else ""
        yield (
            stream.tokens if stream else None,
            characters,
            [
                source,
                language,
                languages.name(language),
                f"{stream.tokens}" if stream else "",
                f"{documents}",
                f"{characters}",
                f"{stream.bytes / stream.tokens:.2f}" if stream else "",
                f"{counts.heldout_documents}" if counts else "",
                dropped,
            ],
        )
