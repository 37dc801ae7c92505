"""Everything in docs/guides/serve.md and clients.md runs: requests against a real server, commands up to its start."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmbert.cli.main import main
from mmbert.serving.server import Server

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
ADDRESS = "http://127.0.0.1:8000"
OF_INDEX = "http://127.0.0.1:8002"
"""The address of the server with an index."""
OFTEN_ABSENT = ("langchain_openai", "llama_index", "haystack")


MODELS = {"final": "tuned", "nano": "tuned", "topics": "sentiment"}
"""Names of models in the guides, and those of the tests' server."""

HEADS = {"nano": "pretrained", "classify": "sentiment", "ner": "names"}


def as_served(text: str) -> str:
    return re.sub(r'"(final|nano|topics)"', lambda match: f'"{MODELS[match[1]]}"', text)


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)


def lines(beginning: str) -> list[str]:
    found = [
        line
        for guide in ("serve.md", "clients.md", "deploy.md")
        for b in blocks(guide, "sh")
        for line in b.splitlines()
    ]
    return [line for line in found if re.match(rf"(\w+=\S+ )?{beginning}", line)]


@pytest.mark.parametrize("line", lines("curl "))
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_requests_are_answered(line: str, guided: str) -> None:
    arguments = shlex.split(as_served(line).replace(ADDRESS, guided).replace(OF_INDEX, guided))
    done = subprocess.run([*arguments, "--silent", "--fail-with-body"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)


@pytest.mark.parametrize("line", lines("mmbert serve "))
def test_commands_are_understood(line: str, indexes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the server's start: that is tested elsewhere, and hub names are not downloaded."""
    (tmp_path / "texts.served").symlink_to(indexes / "lines")
    monkeypatch.chdir(tmp_path)
    started: list[Server] = []
    *environment, rest = re.fullmatch(r"(?:(\w+)=(\S+) )?(.*)", line).groups()  # type: ignore[union-attr]
    if environment[0]:
        monkeypatch.setenv(*environment)
    monkeypatch.setattr(Server, "start", lambda self: started.append(self) or sys.exit(0))
    monkeypatch.setattr(Server, "stop", lambda self: self._socket.close())
    arguments = shlex.split(rest)
    monkeypatch.setattr(sys, "argv", [*arguments, *([] if "--port" in arguments else ["--port", "0"])])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert started


@pytest.mark.parametrize("block", blocks("clients.md", "python"))
def test_clients_do_what_the_guide_says(
    block: str, guided: str, served_head: Any, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in OFTEN_ABSENT:
        if f"from {package}" in block:
            pytest.importorskip(package)
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    told = re.sub(
        rf"{ADDRESS}(?P<rest>\S*\)  # mmbert serve runs/(?P<model>\w+)/final)",
        lambda match: served_head(HEADS[match["model"]]).rstrip("/") + match["rest"], as_served(block),
    )  # fmt: skip
    exec(compile(told.replace(ADDRESS, guided.rstrip("/")), "clients.md", "exec"), names)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """Later blocks use what earlier ones made."""
    return {}
