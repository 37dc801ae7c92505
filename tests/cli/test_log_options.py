"""``--quiet`` and ``--verbose`` of every command, ``--version``, and completion as a shell asks for it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmbert.cli.main import app
from mmbert.version import __version__

PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmbert'; from mmbert.cli.main import main; main()"]


def mmbert(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}".strip())


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both_options(name: str) -> None:
    found = {option: param.name for param in COMMANDS[name].params for option in param.opts}
    assert {option: found[option] for option in ("--verbose", "-v", "--quiet")} == {
        "--verbose": "verbose", "-v": "verbose", "--quiet": "quiet",
    }  # fmt: skip
    assert COMMANDS[name].help


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "eng_Latn.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": f"The {number} words of a text."}) + "\n" for number in range(300))
    return path


@pytest.mark.parametrize(("before", "behind"), [((), ("--quiet",)), (("--quiet",), ())])
def test_quiet_leaves_the_result_alone(text: Path, tmp_path: Path, before: tuple[str, ...], behind: Any) -> None:
    words = ("tokenizer", "train", text, "--vocab-size", "600", "--out")
    loud = mmbert(*words, tmp_path / "loud")
    quiet = mmbert(*before, *words, tmp_path / "quiet", *behind)
    # A warning is left of the log: the text is too small for the vocabulary.
    assert "the text gives only" in quiet.stderr
    assert quiet.stderr.count("\n") == 1 < loud.stderr.count("\n")
    assert quiet.stdout == loud.stdout.replace("loud", "quiet")
    assert quiet.returncode == loud.returncode == 0


def test_what_is_wrong_is_said_all_the_same() -> None:
    ended = mmbert("run", "nona", "--quiet")
    assert (ended.returncode, ended.stderr[:8], ended.stderr.count("\n")) == (2, "mmbert: ", 1)


@pytest.mark.parametrize("words", [("--quiet", "-v", "recipes"), ("recipes", "--quiet", "--verbose")])
def test_both_at_once_are_refused(words: tuple[str, ...]) -> None:
    ended = mmbert(*words)
    assert ended.returncode == 2
    assert "--verbose and --quiet exclude each other" in ended.stderr


def test_version() -> None:
    assert mmbert("--version").stdout == f"mmbert {__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmbert run na", {"nano"}),
        ("mmbert finetune distil", {"distil", "distil-classify", "distil-tag"}),
        ("mmbert evaluate MODEL ml", set()),
        ("mmbert evaluate MODEL mt", {"mteb", "mteb-multilingual"}),
        ("mmbert data p", {"prepare", "plan"}),
        ("mmbert finetune ner --dr", {"--dry-run"}),
    ],
)
def test_bash_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    """By the script itself, with a program of this name on the path."""
    bash = shutil.which("bash")
    assert bash is not None
    program = tmp_path / "mmbert"
    program.write_text(f'#!/bin/sh\nexec \'{PROGRAM[0]}\' -c "{PROGRAM[2]}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    words = line.split()
    script = (
        'eval "$(mmbert completion bash)"\n'
        f"COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}\n"
        '_mmbert_completion mmbert\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    ended = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert set(ended.stdout.split()) == expected


def test_zsh_and_fish_show_what_a_recipe_is() -> None:
    """Neither shell is here: the program is asked as typer's scripts for them do."""
    assert "#compdef mmbert" in mmbert("completion", "zsh").stdout
    assert "complete --command mmbert" in mmbert("completion", "fish").stdout
    asked = {"_MMBERT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "mmbert run nan"}
    assert "The whole recipe at laptop size" in mmbert(**asked).stdout
    asked = {"_MMBERT_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "laptop size" in mmbert(**asked, _TYPER_COMPLETE_ARGS="mmbert run nan").stdout
