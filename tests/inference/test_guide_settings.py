"""What docs/guides/settings.md says to type works, and its figures are of a tool that runs."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from sentence_folders import TEXTS
from typer.testing import CliRunner

from mmbert.cli.main import app

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "settings.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def place(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(heads / "masks", tmp_path / "runs" / "nano" / "final")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(place: Path) -> None:
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(code, names)
    assert names["vectors"].shape == (3, 16)  # type: ignore[attr-defined]
    assert len(names["parts"]) > 1  # type: ignore[arg-type]
    assert names["sentences"].texts[:2] == ["Chapter one.", "It was a dark night."]  # type: ignore[attr-defined]


def test_doctor(place: Path) -> None:
    (block,) = blocks("bash")
    for line in block.strip().splitlines():
        arguments = shlex.split(line, comments=True)[1:]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "precision " in result.stdout


def test_the_tool_of_its_figures(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("texts.txt").write_text("\n".join(TEXTS * 2), encoding="utf-8")
    options = ["runs/nano/final", "texts.txt", "--rounds", "1", "--precisions", "fp32", "bf16"]
    monkeypatch.setattr(sys, "argv", ["settings.py", *options])
    runpy.run_path(str(ROOT / "benchmarks" / "settings.py"), run_name="__main__")
    said = capsys.readouterr().out
    for heading in (
        "| precision | faster |",
        "| texts | faster |",
        "| time | vectors |",
        "| vectors | bytes | found |",
    ):
        assert heading in said
    assert re.search(r"\| `float16` \| 32 \| (100|9\d)\.\d% \|", said)
