"""Options of ``--on ray`` that do not go together: one line each, before Ray or a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmbert.cli.main import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "embed M a.txt --workers 2",
            "--workers, --cpus-per-worker, --ray-address, --price and --keep go with --on ray",
        ),
        ("embed M a.txt b.txt", "a.txt and b.txt are two inputs: give one of them, or all with --on ray"),
        ("classify M --text hello --on ray -o out", "--on ray reads files: give files, folders or URLs as INPUT"),
        ("tag M - --on ray -o out", "--on ray reads files: give files, folders or URLs as INPUT"),
        ("tag M a.txt --on ray", "--on ray writes a folder: give it with --out"),
        ("rerank M a.txt --query q --on ray -o out", "--query ranks all lines together: with --on ray give lines"),
        ("embed M nothing --on ray -o out", "no such file or folder: "),
        ("embed M a.txt --on ray -o out", "no such model folder: M"),
    ],
)
def test_one_line(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a text\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["mmbert", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    [printed] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert printed.startswith(f"mmbert: {said}")
    assert not (tmp_path / "out").exists()
