"""``--push USER/NAME`` of the commands that write a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Push = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="USER/NAME", help="Upload the folder to this repository of the hub, created if need be."
    ),
]
Private = Annotated[bool, typer.Option("--private", help="--push creates the repository as a private one.")]


def check_push(name: str | None) -> None:
    """Raise ConfigError, before anything is computed, if an upload to ``name`` could not begin."""
    if name is not None:
        from mmbert.hub import check_upload

        check_upload(name)


def push_folder(folder: Path, name: str | None, private: bool) -> None:
    """Upload a written folder, if ``name`` is given, and print where it is."""
    from mmbert.files import is_main_process

    if name is None or not is_main_process():
        return
    from mmbert.hub import upload

    typer.echo(f"uploaded    {upload(folder, name, private=private)}")
