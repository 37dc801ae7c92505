"""``--push USER/NAME`` of the commands that write a model folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.added_options import with_options

Push = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="USER/NAME", help="Upload the folder to this repository of the hub, created if need be."
    ),
]
Private = Annotated[bool, typer.Option("--private", help="--push creates the repository as a private one.")]


def pushes(function: Callable[..., Path | None]) -> Callable[..., Any]:
    """Give ``--push`` and ``--private`` to a command that returns the folder which it wrote, or None."""

    @functools.wraps(function)
    def command(*arguments: Any, push: str | None, private: bool, **options: Any) -> None:
        if push is not None:
            from mmbert.hub import check_upload

            check_upload(push)  # before anything is computed
        folder = function(*arguments, **options)
        if push is None or folder is None:
            return
        from mmbert.files import is_main_process
        from mmbert.hub import upload

        if is_main_process():
            typer.echo(f"uploaded    {upload(folder, push, private=private)}")

    return with_options(command, function, {"push": (Push, None), "private": (Private, False)})
