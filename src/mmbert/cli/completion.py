"""``mmbert completion``: print what makes a shell complete commands, options and names of recipes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print a script for a shell that completes commands, options and names of recipes.

    bash: `mmbert completion bash > ~/.local/share/bash-completion/completions/mmbert`

    zsh: `mmbert completion zsh > ~/.zfunc/_mmbert`, with `fpath+=~/.zfunc` before `compinit` in .zshrc

    fish: `mmbert completion fish > ~/.config/fish/completions/mmbert.fish`
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # imported there for others

    typer.echo(get_completion_script(prog_name="mmbert", complete_var="_MMBERT_COMPLETE", shell=shell.value))
