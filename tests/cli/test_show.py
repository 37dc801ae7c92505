"""Answers on a terminal are tables; in a pipe, and with --json, JSON lines."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from mmbert.cli import show
from mmbert.cli.main import main

TEXTS = ["All human beings are born free and equal.", "Watu wote wamezaliwa huru."]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> object:
    def call(*arguments: str | Path, terminal: bool = True) -> list[str]:
        """Lines on standard output, a terminal of 60 columns."""
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments), "--device", "cpu"])
        out = Terminal() if terminal else io.StringIO()
        out.buffer = io.BytesIO()  # type: ignore[attr-defined,misc]
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return (out.getvalue() or out.buffer.getvalue().decode()).splitlines()  # type: ignore[attr-defined]

    return call


def test_masks(heads: Path, ask: object) -> None:
    lines = ask("fill-mask", heads / "masks", "-t", "Watu <mask> wamezaliwa.", "-k", 2)  # type: ignore[operator]
    assert lines[0] == "Watu <mask> wamezaliwa."
    assert [line.split()[0][-1] for line in lines[1:]] == ["%", "%"]
    lines = ask("fill-mask", heads / "masks", "-t", "Watu <mask>.", "--json")  # type: ignore[operator]
    assert len(json.loads(lines[0])["fills"]) == 5


def test_every_command_has_a_form_for_people(heads: Path, ask: object, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    for arguments, first in (
        (("classify", heads / "classes", texts), None),
        (("tag", heads / "tags", texts), TEXTS[0]),
        (("answer", heads / "spans", "-q", "Who is free?", texts), "Who is free?"),
        (("rerank", heads / "ranks", "-q", "free?", texts), "free?"),
    ):
        lines = ask(*arguments)  # type: ignore[operator]
        assert first in (None, lines[0])
        assert all(len(line) <= 60 and not line.startswith("{") for line in lines)
        assert all(json.loads(line) for line in ask(*arguments, terminal=False))  # type: ignore[operator]


def test_hits(heads: Path, ask: object, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    ask("index", "build", heads / "masks", texts, "--out", tmp_path / "index")  # type: ignore[operator]
    lines = ask("index", "query", tmp_path / "index", "huru")  # type: ignore[operator]
    assert lines[0] == "huru"
    assert len(lines) == 3
    rows = ask("index", "query", tmp_path / "index", "huru", "--json")  # type: ignore[operator]
    assert len(json.loads(rows[0])["hits"]) == 2


def test_a_text_is_cut_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    (line,) = show.classes("one\n two " * 30, {"score": 0.5, "labels": ["a", "b"]})
    assert len(line) == 70
    assert line.startswith(" 0.500  a, b ")
    assert line.endswith("…")
