"""``mmbert index``: files in, JSON lines out, and one line for what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from little_models import TEXTS

from mmbert.cli.index import parse_where
from mmbert.cli.main import main
from mmbert.errors import ConfigError
from mmbert.inference.embedder import Embedder


@pytest.fixture
def place(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model, and texts in each form."""
    (tmp_path / "model").symlink_to(folder)
    (tmp_path / "lines.txt").write_text("".join(text + "\n\n" for text in TEXTS[:3]), encoding="utf-8")
    objects = [{"url": f"u{n}", "body": text, "year": 2000 + n} for n, text in enumerate(TEXTS[3:6])]
    with gzip.open(tmp_path / "objects.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in objects)
    pages = tmp_path / "pages" / "deep"
    pages.mkdir(parents=True)
    (pages / "one.txt").write_text(TEXTS[6] + "\nsecond line\n", encoding="utf-8")
    (pages / "blank.txt").write_text("\n")
    (pages / "picture.png").write_bytes(b"\x89PNG")
    more = json.dumps({"id": 7, "text": TEXTS[7]}) + "\n"
    (pages.parent / "more.jsonl.gz").write_bytes(gzip.compress(more.encode()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any, stdin: str = "") -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["mmbert", "index", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def answers(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_from_files_to_hits(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    build = ["build", "model", "lines.txt", "pages", "--out", "index", "--precision", "fp32", "--device", "cpu"]
    assert call(monkeypatch, *build) == 0
    assert "5 records added: 5 in index" in capfd.readouterr().err
    assert call(monkeypatch, *build) == 0
    assert "0 records added, 5 unchanged: 5 in index" in capfd.readouterr().err
    assert call(monkeypatch, "add", "index", "objects.jsonl.gz", "--text-field", "body", "--id-field", "url") == 0
    assert "3 records added: 8 in index" in capfd.readouterr().err

    assert call(monkeypatch, "query", "index", "free", "droits", "--top-k", 20) == 0
    found = answers(capfd)
    assert [answer["query"] for answer in found] == ["free", "droits"]
    hits = {hit["id"]: hit for hit in found[0]["hits"]}
    assert sorted(map(str, hits)) == [
        "7", "deep/one.txt", "lines.txt:1", "lines.txt:3", "lines.txt:5", "u0", "u1", "u2"
    ]  # fmt: skip
    assert hits["deep/one.txt"]["text"] == TEXTS[6] + "\nsecond line\n"
    assert hits["u1"]["metadata"] == {"year": 2001}
    assert hits["lines.txt:3"]["end"] == len(TEXTS[1])
    scores = [hit["score"] for hit in found[0]["hits"]]
    assert scores == sorted(scores, reverse=True)

    assert call(monkeypatch, "query", "index", "--where", "year>2000", "--hybrid", stdin="free\n\nequal\n") == 0
    found = answers(capfd)
    assert [answer["query"] for answer in found] == ["free", "equal"]
    assert all({hit["id"] for hit in answer["hits"]} == {"u1", "u2"} for answer in found)

    assert call(monkeypatch, "delete", "index", "7", "u0", "nothing") == 0
    assert "2 of 3 records removed" in capfd.readouterr().err
    assert call(monkeypatch, "compact", "index") == 0
    assert "2 rows" in capfd.readouterr().err
    assert call(monkeypatch, "show", "index") == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["records"], shown["removed"], shown["metadata"]) == (6, 0, ["year"])
    assert shown["model_hash"] == Embedder.load("model").loaded.model_hash
    (place / "lines.txt").write_text("another text\n", encoding="utf-8")
    assert call(monkeypatch, "add", "index", "lines.txt") == 2
    assert "'lines.txt:1') exists already with another text" in capfd.readouterr().err
    assert call(monkeypatch, "add", "index", "lines.txt", "--update") == 0
    assert "0 records added, 1 updated: 6 in index" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "model", "missing.txt", "--out", "new"], "no such file: missing.txt"),
        (["build", "model", "empty", "--out", "new"], "no .txt, .text, .md, .jsonl, .ndjson in empty"),
        (["build", "model", "latin.txt", "--out", "new"], "latin.txt:1: not UTF-8 at byte 1"),
        (["build", "model", "bad.jsonl", "--out", "new"], "bad.jsonl:2"),
        (["build", "model", "number.jsonl", "--out", "new"], "number.jsonl:1: text is int, not text"),
        (["build", "model", "lines.txt", "--out", "new", "--output", "int4"], "output 'int4'"),
        (["build", "nowhere", "lines.txt", "--out", "new"], "nowhere"),
        (["build", "model", "lines.txt", "--out", "pages"], "pages exists already"),
        (["query", "pages", "text"], "no index in pages"),
        (["show", "nowhere"], "no index in nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (place / "empty").mkdir()
    (place / "latin.txt").write_bytes("é\n".encode("latin-1"))
    (place / "bad.jsonl").write_text('{"text": "a"}\n{"words": "b"}\n')
    (place / "number.jsonl").write_text('{"text": 1}\n')
    assert call(monkeypatch, *arguments) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mmbert: ")]
    assert len(told) == 1
    assert said in told[0]


def test_conditions() -> None:
    assert parse_where(["lang=fra_Latn", "year>=2020", "year < 2024", "draft!=true"]) == {
        "lang": {"=": "fra_Latn"}, "year": {">=": 2020, "<": 2024}, "draft": {"not": True}
    }  # fmt: skip
    assert parse_where(['n="2020"', "x=null", "a=b=c", "t=[1]"]) == {
        "n": {"=": "2020"}, "x": None, "a": {"=": "b=c"}, "t": {"=": "[1]"}
    }  # fmt: skip
    assert parse_where(['{"lang": ["a", "b"], "y": {"not": {"<": 3}}}']) == {
        "lang": ["a", "b"], "y": {"not": {"<": 3}}
    }  # fmt: skip
    for wrong in (["lang"], ["{lang}"], ["=x"], ["x<null"], ["x=1", "x=2"], ["x=null", "x=1"]):
        with pytest.raises(ConfigError, match="--where"):
            parse_where(wrong)
