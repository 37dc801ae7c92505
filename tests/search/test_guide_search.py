"""Everything in docs/guides/search.md runs, on random weights."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from little_models import TEXTS

from mmbert.cli.main import main

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "search.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tuned").symlink_to(folder)
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in TEXTS[:5]), encoding="utf-8")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "one.txt").write_text(TEXTS[5], encoding="utf-8")
    news = [
        {"url": f"page{n}", "body": text, "lang": lang, "year": 1949 + n}
        for n, (text, lang) in enumerate(zip(TEXTS[6:], ["tha", "eng", "eng", "fra"], strict=True))
    ]
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(value) + "\n" for value in news), encoding="utf-8")
    (tmp_path / "queries.txt").write_text("droit à la vie\n", encoding="utf-8")
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
    said = {}
    for line in block.strip().splitlines():
        text, _, redirected = line.partition(" < ")
        monkeypatch.setattr(sys, "argv", shlex.split(text))
        with Path(redirected or "queries.txt").open(encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            with pytest.raises(SystemExit) as caught:
                main()
        assert not caught.value.code, capfd.readouterr().err
        said[line] = capfd.readouterr().out
    outputs = list(said.values())
    assert [len(json.loads(line)["hits"]) for line in outputs[2].splitlines()] == [3, 3]
    assert [hit["id"] for hit in json.loads(outputs[3])["hits"]] == ["page3"]
    assert json.loads(outputs[6])["records"] == len(TEXTS) - 1
