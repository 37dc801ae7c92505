"""Everything in docs/guides/embed.md runs, on random weights."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_folders import write_sentence_model
from sentence_transformers.sentence_transformer.modules import Pooling

from mmbert.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "embed.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sentence_model(tmp_path / "runs" / "nano" / "final", bare, [Pooling(32, "mean")], prompts={"query": "Q: "})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 6
    for code in blocks("python"):
        exec(code, names)
    assert "(0, 12) Chapter one. (600, 32)" in capsys.readouterr().out


def test_commands(place: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (block,) = blocks("bash")
    printed = []
    for line in block.strip().splitlines():
        text = line.partition(" < ")[0]
        monkeypatch.setattr(sys, "argv", shlex.split(text))
        with Path("examples/texts.txt").open(encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            with pytest.raises(SystemExit) as caught:
                main()
        assert not caught.value.code
        printed.append(len(capfdbinary.readouterr().out.splitlines()))
    assert printed == [0, 0, 16, 1]
    assert np.load("vectors.npy").shape == (16, 32)
    assert len(Path("vectors.jsonl").read_text().splitlines()) == 30
