"""Everything in docs/guides/embed.md runs, on random weights."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_folders import TEXTS, write_sentence_model
from sentence_transformers.sentence_transformer.modules import Pooling

from mmbert.cli.main import main

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "embed.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sentence_model(tmp_path / "models" / "tuned", bare, [Pooling(32, "mean")], prompts={"query": "Q: "})
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in TEXTS), encoding="utf-8")
    lines = [json.dumps({"url": f"page{n}", "body": text}) + "\n" for n, text in enumerate(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
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
    lines = block.strip().splitlines()
    for line in lines:
        text, _, redirected = line.partition(" < ")
        monkeypatch.setattr(sys, "argv", shlex.split(text))
        with Path("texts.txt").open(encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            with pytest.raises(SystemExit) as caught:
                main()
        assert not caught.value.code
        assert len(capfdbinary.readouterr().out.splitlines()) == (len(TEXTS) if redirected else 0)
    assert len(lines) == 3
    assert np.load("vectors.npy").shape == (len(TEXTS), 32)
    assert Path("vectors.parquet").is_file()
