"""Everything in docs/guides/tasks.md runs, on random weights."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from task_folders import save_theirs

from mmbert.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "tasks.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("guide")
    for name, head, options in (
        ("nano", "MaskedLM", {}),
        ("classify", "SequenceClassification", {"num_labels": 3}),
        ("ner", "TokenClassification", {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}),
        ("qa", "QuestionAnswering", {}),
        ("rerank", "SequenceClassification", {"num_labels": 1}),
        ("choice", "MultipleChoice", {}),
    ):
        save_theirs(root / "runs" / name / "final", head, **options)  # type: ignore[arg-type]
    (root / "examples").symlink_to(ROOT / "examples")
    return root


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("python")
    assert len(found) == 6
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert capsys.readouterr().out.count("\n") >= 3 + 1 + 1 + 2 + 1
    assert names["logits"].shape == (2, 3)  # type: ignore[attr-defined]
    assert len(names["found"]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_the_commands_run(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    text = (place / arguments[arguments.index("-o") + 1]).read_text() if "-o" in arguments else said.out
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert text
