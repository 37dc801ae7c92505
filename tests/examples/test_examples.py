"""Every example runs as its docstring says, on little models with random weights."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))

TEXTS = [
    "All human beings are born free and equal. They are endowed with reason.",
    "Tous les êtres humains naissent libres et égaux.",
    "Watu wote wamezaliwa huru. Hadhi na haki zao ni sawa.",
]

ARGUMENTS: dict[str, tuple[str, list[str]]] = {
    "embed": ("masks", TEXTS),
    "fill_mask": ("masks", ["All human beings are <mask> free.", "Watu wote <mask>."]),
    "classify": ("classes", ["texts.txt"]),
    "tag": ("tags", TEXTS),
    "answer": ("spans", ["Who is born free?", "texts.txt"]),
    "rerank": ("ranks", ["who is born free?", "texts.txt"]),
    "long_documents": ("masks", ["reason", "texts.txt"]),
    "search": ("masks", ["texts.txt", "born free"]),
}
"""The model of each, and what follows it."""

PRINTED = {
    "embed": r"( +1\.00| +-?0\.\d\d){3}   All human",
    "fill_mask": r" +\d+\.\d%  '.*' +All human beings are.* free\.",
    "classify": r"0\.\d{3}\t(yes|no)",
    "tag": r" +\d+-\d+ +X +[01]\.\d\d  \S",
    "answer": r" +\d+\.\d%  line [123]: '",
    "rerank": r"0\.\d{3}  texts\.txt:[123]  \S",
    "long_documents": r"-?[01]\.\d{3}  characters [\d,]+ to [\d,]+: '",
    "search": r"0\.\d{3}  texts\.txt:[123]  \S",
}


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path, model: Path) -> list[str]:
    monkeypatch.setattr(sys, "argv", [str(path), str(model), *ARGUMENTS[path.stem][1]])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = heads / ARGUMENTS[path.stem][0]
    lines = call(monkeypatch, capsys, path, model)
    assert any(re.match(PRINTED[path.stem], line) for line in lines), lines
    if path.stem == "search":  # again: the index is opened
        assert call(monkeypatch, capsys, path, model) == lines


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_how_it_is_called(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 30
    assert f"    python examples/{path.name} " in text


def ends(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_is_wrong_is_one_line(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if ARGUMENTS[path.stem][0] == "masks":  # the demo's model is the default
        assert "no such model folder: runs/nano/final" in str(ends(monkeypatch, path))
        return
    assert ends(monkeypatch, path) == 2
    assert "usage:" in capsys.readouterr().err
    said = str(ends(monkeypatch, path, str(heads / "masks")))
    assert re.search(r" needs a ModernBertFor\w+: .*mmbert finetune \w+ model=", said)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["search", "long_documents"])
def test_a_file_that_is_not_there_is_one_line(heads: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments = ["absent.txt", "a"] if name == "search" else ["a", "absent.txt"]
    path = next(path for path in EXAMPLES if path.stem == name)
    monkeypatch.chdir(heads.parent)
    assert "absent.txt" in str(ends(monkeypatch, path, str(heads / "masks"), *arguments))
