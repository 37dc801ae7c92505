"""``--verbose`` and ``--quiet`` of every command: they may stand before its name or behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mmbert.cli.added_options import with_options
from mmbert.log import setup

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more details on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log only warnings and errors, without progress bars.")]


def add_log_options(app: typer.Typer) -> None:
    """Give both options to the commands of ``app`` and of its groups."""
    for info in app.registered_commands:
        assert info.callback is not None, "a command has a function"
        info.callback = _with_log_options(info.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None, "a group has commands"
        add_log_options(group.typer_instance)


def set_up_log(verbose: bool, quiet: bool) -> None:
    """Set what is logged. Raises a usage error for both options at once."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other")
    setup(verbose=verbose, quiet=quiet)


def _with_log_options(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def command(*arguments: Any, verbose: bool, quiet: bool, **options: Any) -> Any:
        if verbose or quiet:  # else what stands before the command's name applies
            set_up_log(verbose, quiet)
        return function(*arguments, **options)

    return with_options(command, function, {"verbose": (Verbose, False), "quiet": (Quiet, False)})
