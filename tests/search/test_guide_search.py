"""Everything in docs/guides/search.md runs, on random weights."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from mmbert.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "search.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs" / "nano").mkdir(parents=True)
    (tmp_path / "runs" / "nano" / "final").symlink_to(folder)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 6
    for code in blocks("python"):
        exec(code, names)
    said = capsys.readouterr().out
    assert "3 True" in said
    assert "Changed(added=0, updated=1, same=0)" in said


def test_commands(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("bash")
    outputs = []
    for line in block.strip().splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code, capfd.readouterr().err
        outputs.append(capfd.readouterr().out)
    assert [len(json.loads(line)["hits"]) for line in outputs[2].splitlines()] == [3, 3]
    assert {hit["metadata"]["label"] for hit in json.loads(outputs[3])["hits"]} == {"travel"}
    assert json.loads(outputs[6])["records"] == 16 + 45 - 1
