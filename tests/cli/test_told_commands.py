"""Commands that README, guides and messages name: each parses as the command line has it, and its recipe loads."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import blocks, not_printed, pages

import mmbert
from mmbert.cli.main import app
from mmbert.evaluation.suite import Suite
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.recipe import Recipe
from mmbert.recipe_names import shipped

ROOT = Path(__file__).parents[2]
CLI: Any = typer.main.get_command(app)
READ_BY = {"finetune": FinetuneRecipe, "evaluate": Suite}
"""What reads the recipe of a command; the others read ``Recipe``."""

STOPS = ("|", ">", "<", "&", ";", "2>", ">>", "&&", "#")


def mmbert_words(line: str) -> list[str] | None:
    """The arguments of ``mmbert`` in a line of shell, up to a pipe or comment; None without it."""
    try:
        words = shlex.split(line.replace("[RECIPE]", "RECIPE"), comments=True)
    except ValueError:
        return None
    for place, word in enumerate(words):
        if word == "mmbert" and all("=" in before or before in ("time",) for before in words[:place]):
            rest = words[place + 1 :]
            end = next((number for number, each in enumerate(rest) if each.startswith(STOPS)), len(rest))
            return rest[:end]
    return None


def told() -> list[tuple[str, str]]:
    found = []
    for page in pages():
        for block in blocks(page):
            found += [(page.name, line) for line in block.lines if mmbert_words(line)]
    return found


def parse(words: list[str]) -> tuple[Any, str]:
    """The context of the innermost command, all arguments converted and checked. Raises a usage error."""
    command, name = CLI, "mmbert"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        name, words = words[0], words[1:]
        command = command.commands[name]
    return command.make_context(name, list(words)), name


def test_what_a_page_shows_is_looked_for_on_the_screen() -> None:
    screen = "12:00:01 step 6 of 30, dev: f1 0.5000\n         kept: step 6\ndev     f1 0.5000\n"
    assert not not_printed(["step 6 of 30, dev: f1 0.4999", "...", "dev ..."], screen)
    assert not_printed(["dev     f1 0.5000", "kept: step 6"], screen) == ["kept: step 6"]  # in another order
    assert not_printed(["step 6 of 30, dev: accuracy 0.5"], screen) == ["step 6 of 30, dev: accuracy 0.5"]


def test_pages_tell_commands() -> None:
    assert len(told()) > 80


@pytest.mark.parametrize(("page", "line"), told())
def test_a_line_of_a_page(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = mmbert_words(line)
    assert words is not None
    context, name = parse(words)
    recipe = context.params.get("recipe")
    assert not str(recipe).startswith("recipes/")
    if str(recipe) in shipped():
        overrides = context.params.get("overrides") or []
        READ_BY.get(name, Recipe).load(recipe, overrides)
    if name == "train" and context.params["texts"][0] in shipped():
        Recipe.load(context.params["texts"][0])


def messages() -> list[tuple[str, str]]:
    """(place, text) of every string in the package that is no docstring, with ``X`` where something is filled in."""
    found = []
    package = Path(mmbert.__file__).parent
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
                found.append((f"{path.relative_to(package)}:{node.lineno}", "".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                found.append((f"{path.relative_to(package)}:{node.lineno}", node.value))
    return found


def options(command: Any) -> set[str]:
    return {"--help", *(name for param in command.params for name in (*param.opts, *param.secondary_opts))}


def commands(command: Any = CLI) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


def test_commands_in_messages_exist() -> None:
    checked = 0
    for place, text in messages():
        for line in re.findall(r"(?<![\w./-])mmbert ((?:[a-z]+-)?[a-z]+\b[^`'\"\n;,()]*)", text):
            words = line.split()
            if words[0] not in CLI.commands:
                assert not re.search(r"`mmbert " + words[0], text), f"{place}: no command mmbert {words[0]}"
                continue
            command = CLI.commands[words[0]]
            if hasattr(command, "commands"):
                if len(words) == 1:  # the group itself
                    continue
                assert words[1].rstrip(".:") in command.commands, f"{place}: no command mmbert {' '.join(words[:2])}"
                command = command.commands[words[1].rstrip(".:")]
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0].rstrip(".:") in options(command), f"{place}: {line} has no {word}"
            if words[0] == "finetune" and re.fullmatch(r"[a-z][a-z-]*", "".join(words[1:2])):
                assert words[1] in shipped(), f"{place}: no recipe {words[1]}"
            checked += 1
    assert checked > 20


def test_options_in_messages_exist() -> None:
    known = {name for command in commands() for name in options(command)}
    known.add("--nproc-per-node")  # torchrun's
    for place, text in messages():
        if place.startswith("data/distributed") or " " not in text:  # Slurm's own, and arguments of other programs
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text):
            assert option in known, f"{place}: no command has {option}"


def test_public_names_in_messages_exist() -> None:
    for place, text in messages():
        for name in re.findall(r"(?<![\w.])mmbert\.([A-Z]\w+)", text):
            assert hasattr(mmbert, name), f"{place}: no mmbert.{name}"


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: str(command.name))
def test_help_prints_what_is_written(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word in angle or square brackets is taken for markup."""
    from typer.testing import CliRunner

    path = next(path for path in paths() if path[1] is command)[0]
    printed = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "4000", "TERMINAL_WIDTH": "4000"}).output
    flat = " ".join(printed.split())
    for text in [command.help or "", *(getattr(param, "help", None) or "" for param in command.params)]:
        for paragraph in text.split("\n\n"):
            assert " ".join(paragraph.replace("`", "").split()) in flat


def paths(command: Any = CLI, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))
