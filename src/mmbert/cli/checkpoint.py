"""``mmbert checkpoint``: export the model of a training checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.options import OutFolder

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Checkpoints of a training run."""


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder: RUN/PHASE/step-000123.")],
    out: OutFolder,
) -> None:
    """Write the model and tokenizer of a checkpoint as a Hugging Face folder."""
    from mmbert.training.export import export

    typer.echo(export(checkpoint, out))
