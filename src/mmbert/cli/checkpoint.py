"""``mmbert checkpoint``: what a training run saved, for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Checkpoints of a training run."""


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="RUN/PHASE/step-000123.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write the model of a checkpoint in Hugging Face form, with its tokenizer, however many processes saved it."""
    from mmbert.training.export import export

    typer.echo(export(checkpoint, out))
