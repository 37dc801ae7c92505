"""Lines in, JSON lines out: what each command says, going on after a stop, and one line for what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow.parquet
import pytest

from mmbert import Answerer, Classifier, FillMask, Reranker, Tagger
from mmbert.cli.input import open_lines
from mmbert.cli.main import main
from mmbert.errors import DataError

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
]


@pytest.fixture
def models(heads: Path) -> Path:
    return heads


Command = Callable[..., list[Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str | Path, stdin: str = "") -> list[Any]:
        """The lines of a command that must succeed."""
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments), "--precision", "fp32"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 0, said
        return [json.loads(line) for line in said.out.splitlines()]

    return call


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str | Path) -> str:
        """The last line of a command that must fail."""
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 2, said
        assert "Traceback" not in said.err
        return said.err.strip().splitlines()[-1]

    return call


def lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values), encoding="utf-8")
    return path


def test_classify(models: Path, run: Command, tmp_path: Path) -> None:
    expected = Classifier.load(models / "classes", precision="fp32")(TEXTS)
    found = run("classify", models / "classes", stdin="\n".join(TEXTS))
    assert [line["label"] for line in found] == [one.label for one in expected]
    assert found[0]["scores"] == pytest.approx(expected[0].scores, abs=1e-5)
    records = [{"id": n, "body": a, "other": b} for n, (a, b) in enumerate(pairwise(TEXTS))]
    source = lines(tmp_path / "pairs.jsonl", records)
    pairs = run("classify", models / "classes", source, "--text-field", "body", "--pair-field", "other")
    assert [line["id"] for line in pairs] == [0, 1]
    one = Classifier.load(models / "classes", precision="fp32")((TEXTS[0], TEXTS[1]))
    assert pairs[0]["score"] == pytest.approx(one.score, abs=1e-5)


def test_tag(models: Path, run: Command) -> None:
    found = run("tag", models / "tags", "-t", TEXTS[0], "-t", TEXTS[1], "--strategy", "max")
    expected = Tagger.load(models / "tags", precision="fp32")(TEXTS[:2], strategy="max")
    for line, entities, text in zip(found, expected, TEXTS, strict=False):
        assert [(e["label"], e["start"], e["end"]) for e in line["entities"]] == [
            (e.label, e.start, e.end) for e in entities
        ]
        assert all(text[e["start"] : e["end"]] == e["text"] for e in line["entities"])
    assert found[0]["entities"]


def test_fill_mask(models: Path, run: Command, tmp_path: Path) -> None:
    asked = ["All human beings are born <mask>.", "Watu <mask> wamezaliwa <mask>."]
    one, two = run("fill-mask", models / "masks", lines(tmp_path / "asked.txt", asked), "-k", 2)
    expected = FillMask.load(models / "masks", precision="fp32")(asked, top_k=2)
    assert [fill["token"] for fill in one["fills"]] == [fill.token for fill in expected[0]]
    assert [[fill["id"] for fill in fills] for fills in two["fills"]] == [[f.id for f in fs] for fs in expected[1]]


def test_answer(models: Path, run: Command, tmp_path: Path) -> None:
    expected = Answerer.load(models / "spans", precision="fp32")("Who is free?", TEXTS[0], top_k=2)
    record = lines(tmp_path / "asked.jsonl", [{"question": "Who is free?", "context": TEXTS[0], "id": "a"}])
    context = lines(tmp_path / "context.txt", [TEXTS[0]])
    model = (models / "spans", "--precision", "fp32")
    for found in (
        run("answer", *model, record, "-k", 2),
        run("answer", *model, "-q", "Who is free?", "-k", 2, stdin=TEXTS[0]),
        run("answer", *model, "--context-file", context, "-k", 2, stdin="Who is free?"),
        run("answer", *model, "--context", TEXTS[0], "-k", 2, stdin="Who is free?"),
        run("answer", *model, "-q", "Who is free?", "--context", TEXTS[0], "-k", 2),
    ):
        # In any order: with random weights the two scores may be next to equal.
        assert {answer["text"] for answer in found[0]["answers"]} == {answer.text for answer in expected}
    with_none = run("answer", models / "spans", record, "--no-answer", "-k", 10_000)[0]["answers"]
    assert "" in [answer["text"] for answer in with_none]


def test_rerank(models: Path, run: Command, tmp_path: Path) -> None:
    expected = Reranker.load(models / "ranks", precision="fp32")("free?", TEXTS)
    found = run("rerank", models / "ranks", "-q", "free?", stdin="\n".join(TEXTS))
    assert [line["index"] for line in found] == [one.index for one in expected]
    assert [line["text"] for line in found] == [one.text for one in expected]
    source = lines(tmp_path / "asked.jsonl", [{"query": "free?", "documents": TEXTS, "id": 7}] * 2)
    first, second = run("rerank", models / "ranks", source, "--top-k", 2)
    assert first == second
    assert first["id"] == 7
    assert [one["index"] for one in first["ranked"]] == [one.index for one in expected[:2]]
    out = tmp_path / "ranked.jsonl"
    run("rerank", models / "ranks", "-q", "free?", "-o", out, stdin="\n".join(TEXTS))
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == [one.index for one in expected]


def test_a_stopped_command_goes_on(models: Path, run: Command, fails: Any, tmp_path: Path) -> None:
    texts = [f"{text} {n}" for n in range(4) for text in TEXTS]
    source = lines(tmp_path / "texts.txt", texts)
    run("classify", models / "classes", source, "-o", tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == 12
    assert not list(tmp_path.glob("*partial"))

    out = tmp_path / "stopped.jsonl"
    lines(source, [*texts[:7], "\\"])
    source.write_bytes(source.read_bytes().replace(b"\\", b"\xff"))
    assert "texts.txt:8: not UTF-8" in fails("classify", models / "classes", source, "-o", out, "--precision", "fp32")
    assert not out.exists()
    partial = out.with_name("stopped.jsonl.partial")
    # stopped while it wrote: five lines and a half
    partial.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]) + whole.splitlines()[5][:20])
    lines(source, texts)
    same = ("-o", out, "--precision", "fp32")
    assert "another threshold" in fails("classify", models / "classes", source, *same, "--threshold", "0.1")
    assert "another model" in fails("classify", models / "ranks", source, *same)
    run("classify", models / "classes", source, "-o", out)
    for found, expected in zip(out.read_bytes().splitlines(), whole.splitlines(), strict=True):
        assert json.loads(found)["label"] == json.loads(expected)["label"]
        assert json.loads(found)["score"] == pytest.approx(json.loads(expected)["score"], abs=1e-5)
    assert not list(tmp_path.glob("*partial"))
    assert "exists already" in fails("classify", models / "classes", source, "-o", out)


def test_answers_that_were_damaged_are_computed_again(models: Path, run: Command, fails: Any, tmp_path: Path) -> None:
    texts = [f"{text} {n}" for n in range(4) for text in TEXTS]
    source, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    lines(source, texts)
    same = ("classify", models / "classes", source, "--precision", "fp32", "-o")
    run(*same, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines()
    source.write_bytes(("\n".join(texts[:7]) + "\n").encode() + b"\xff\n")
    assert "texts.txt:8: not UTF-8" in fails(*same, out)
    begun = [line + b"\n" for line in whole[:7]]
    out.with_name("out.jsonl.sums.partial").write_bytes(b"".join(crc32(line).to_bytes(4, "little") for line in begun))
    begun[4] = begun[4].replace(b"0.", b"9.", 1)
    out.with_name("out.jsonl.partial").write_bytes(b"".join(begun))
    lines(source, texts)
    run(*same, out)
    for found, expected in zip(out.read_bytes().splitlines(), whole, strict=True):
        assert json.loads(found)["score"] == pytest.approx(json.loads(expected)["score"], abs=1e-5)
    assert not list(tmp_path.glob("*partial"))


def test_parquet_holds_what_json_lines_hold(models: Path, run: Command, fails: Any, tmp_path: Path) -> None:
    texts = [{"text": text, "id": n} for n, text in enumerate([*TEXTS, "<mask>", "<mask> <mask>"] * 2)]
    source = lines(tmp_path / "texts.jsonl", texts)
    masked = lines(tmp_path / "masked.jsonl", texts[3:5])
    asked = lines(
        tmp_path / "asked.jsonl",
        [{"query": "free?", "documents": TEXTS, "id": "a"}, {"query": "?", "documents": TEXTS}],
    )
    for command, where, options in (
        ("classify", "classes", [source]),
        ("tag", "tags", [source]),
        ("fill-mask", "masks", [masked, "-k", 2]),
        ("rerank", "ranks", [asked]),
        ("rerank", "ranks", [source, "-q", "free?"]),
    ):
        out = tmp_path / "out.parquet"
        run(command, models / where, *options, "-o", out)
        rows = pyarrow.parquet.read_table(out).to_pylist()
        expected = run(command, models / where, *options)
        if command == "fill-mask":  # one mask or several: a list of lists
            assert len(expected[0]["fills"]) == len(expected[1]["fills"]) == 2
            expected[0]["fills"] = [expected[0]["fills"]]
        if options == [asked]:
            expected[1]["id"] = None
        assert rows == expected
        out.unlink()
        assert not list(tmp_path.glob("*partial"))
    lines(tmp_path / "bad.jsonl", [*texts[:5], {"text": 3}])
    assert "text is int" in fails(
        "classify", models / "classes", tmp_path / "bad.jsonl", "-o", out, "--precision", "fp32"
    )
    assert not out.exists()
    assert out.with_name("out.parquet.jsonl.partial").exists()
    lines(tmp_path / "bad.jsonl", texts)
    run("classify", models / "classes", tmp_path / "bad.jsonl", "-o", out)
    assert pyarrow.parquet.read_table(out)["id"].to_pylist() == list(range(10))


def test_what_is_wrong_is_one_line_with_its_place(models: Path, fails: Any, tmp_path: Path) -> None:
    masks = models / "masks"
    said = fails("fill-mask", masks, lines(tmp_path / "a.txt", ["born <mask>", "nothing"]))
    assert said.startswith(f"mmbert: {tmp_path}/a.txt:2: the text has no <mask>")
    said = fails("fill-mask", masks, "-t", "nothing")
    assert said.startswith("mmbert: --text 1: the text has no <mask>")
    said = fails("fill-mask", masks, lines(tmp_path / "b.jsonl", [{"text": "<mask>"}, {"body": "<mask>"}]))
    assert said == f"mmbert: {tmp_path}/b.jsonl:2 has no field 'text' (it has body): choose it with --text-field"
    said = fails("fill-mask", masks, lines(tmp_path / "c.jsonl", [{"text": "<mask>"}, "born"]))
    assert f"{tmp_path}/c.jsonl:2: not JSON" in said
    said = fails("tag", models / "tags", lines(tmp_path / "d.jsonl", [{"text": "a"}, {"text": "\ud800"}]))
    assert said.startswith(f"mmbert: {tmp_path}/d.jsonl:2: text holds a lone surrogate")
    said = fails("tag", models / "tags", lines(tmp_path / "e.jsonl", [{"text": 3}]))
    assert said == f"mmbert: {tmp_path}/e.jsonl:1: text is int, not text: choose the field with --text-field"
    said = fails("rerank", models / "ranks", lines(tmp_path / "f.jsonl", [{"query": "", "documents": ["a"]}]))
    assert said == f"mmbert: {tmp_path}/f.jsonl:1: the query is empty"
    said = fails("rerank", models / "ranks", lines(tmp_path / "g.jsonl", [{"query": "a", "documents": 3}]))
    assert said == f"mmbert: {tmp_path}/g.jsonl:1: documents are int: expected a list of str"
    said = fails("answer", models / "spans", lines(tmp_path / "h.txt", ["Who?"]))
    assert said == f"mmbert: {tmp_path}/h.txt:1 is not a JSON object: this command takes lines with a field 'question'"
    hint = " (a text itself is given as --text TEXT)"
    assert fails("tag", models / "tags", tmp_path / "none") == f"mmbert: no such file: {tmp_path}/none{hint}"
    assert fails("tag", models / "tags", "a text " * 99).endswith(hint)
    said = fails("tag", masks, "-t", "a")
    assert "use mmbert.FillMask" in said
    assert said.endswith(f"or tune it: mmbert finetune ner model={masks}")


def test_a_text_is_not_taken_for_a_file_nor_a_file_for_a_text(models: Path, fails: Any, tmp_path: Path) -> None:
    file = lines(tmp_path / "notes", ["Watu wote wamezaliwa huru."])
    tags, spans = models / "tags", models / "spans"
    instead = "looks like a file: give FILE as an argument, without the option"
    assert fails("tag", tags, "--text", file) == f"mmbert: --text takes the text itself, and {file} {instead}"
    assert fails("embed", models / "masks", "-t", "absent.txt").endswith(instead)
    assert fails("tag", tags, file, "-t", "a") == f"mmbert: {file} and --text are two inputs: give one of them"
    said = fails("answer", spans, "-q", "Who?", "--context", "article.txt")
    assert said.endswith("article.txt looks like a file: give --context-file FILE")
    said = fails("answer", spans, "-q", "Who?", "--context-file", "Nia lives in Dodoma.")
    assert said.endswith("no such file: Nia lives in Dodoma. (a text itself: --context TEXT)")
    assert "are two texts" in fails("answer", spans, "-q", "Who?", "-c", "Nia", "--context-file", file)
    assert "no such model folder" in fails("tag", tmp_path / "nowhere", "-t", "a")


def test_lines_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb") as file:
        file.write("\ufeffa\u2028b\r\n\n{not json\n".encode())
    assert [line.value for line in open_lines(str(path))] == ["a\u2028b", "", "{not json"]
    for content, expected in (
        (b"\n\na\n", ["", "", "a"]),
        (b"\n \n", ["", " "]),
        (b"", []),
        (b'\n{"a": 1}\n\n{"a": 2}\n\n', [{"a": 1}, {"a": 2}]),
    ):
        (tmp_path / "b.txt").write_bytes(content)
        assert [line.value for line in open_lines(str(tmp_path / "b.txt"))] == expected
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="is cut short"):
        list(open_lines(str(path)))


def test_bad_rows_are_passed_over_on_request(
    models: Path, tmp_path: Path, run: Command, fails: Callable[..., str]
) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    good = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    rows = [
        json.dumps(good[0]),
        '{"id": 8, "text": null}',
        json.dumps(good[1]),
        "{",
        json.dumps({**good[2], "id": 2.0}),
    ]
    path.write_text("\n".join(rows))
    assert f"{path}:2: text is NoneType, not text" in fails(
        "classify", models / "classes", path, "-o", out, "--precision", "fp32"
    )
    run("classify", models / "classes", path, "-o", out, "--skip-bad-rows")  # goes on behind the first line
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    clean = tmp_path / "clean.jsonl"
    clean.write_text("".join(json.dumps(row) + "\n" for row in good))
    assert answers == run("classify", models / "classes", clean)
    path.write_text('{"body": "a"}\n')
    assert "all 1 rows are bad, the first: " in fails("classify", models / "classes", path, "--skip-bad-rows")


def test_rows_of_tables(models: Path, tmp_path: Path, run: Command) -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
    (tmp_path / "a.csv").write_text(
        ",id,text\n" + "".join(f'{row["id"]},{row["id"]},"{row["text"]}"\n' for row in rows)
    )
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = [run("classify", models / "classes", tmp_path / f"a.{form}") for form in ("csv", "json", "parquet")]
    assert [answer["id"] for answer in found[0]] == ["0", "1", "2"]
    assert found[0] == found[1] == found[2]
