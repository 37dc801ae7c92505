"""``mmbert embed``: forms in and out, and work that is stopped."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from sentence_folders import TEXTS, write_sentence_model
from sentence_transformers.sentence_transformer.modules import Pooling

from mmbert.cli.main import main
from mmbert.errors import ConfigError, DataError
from mmbert.inference import bulk
from mmbert.inference.bulk import embed_to_file
from mmbert.inference.embedder import Embedder


@pytest.fixture(scope="module")
def folder(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tuned") / "model"
    return write_sentence_model(place, bare, [Pooling(32, "mean")], prompts={"query": "Q: "})


@pytest.fixture(scope="module")
def embed(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu", precision="fp32")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(text + "\n" for text in TEXTS), encoding="utf-8")
    return path


def command(folder: Path, *arguments: Any) -> list[str]:
    return ["embed", str(folder), *map(str, arguments), "--precision", "fp32", "--device", "cpu"]


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: Any, stdin: bytes = b"") -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["mmbert", *command(folder, *arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_lines_to_stdout(
    folder: Path, embed: Embedder, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "".join(line + "\n" for line in TEXTS).encode()
    assert call(monkeypatch, folder, "--prompt", "query", "--dimensions", 8, "--part-size", 4, stdin=text) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == list(range(1, len(TEXTS) + 1))
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert abs(found - embed(TEXTS, prompt="query", dimensions=8)).max() < 1e-6


@pytest.mark.parametrize("form", ["npy", "jsonl", "parquet"])
@pytest.mark.parametrize("output", ["float32", "float16", "int8", "ubinary"])
def test_forms(folder: Path, embed: Embedder, tmp_path: Path, form: str, output: Any) -> None:
    out = tmp_path / f"vectors.{form}"
    embed.ranges = None
    records = [(f"text {number}" if number % 2 else number, text) for number, text in enumerate(TEXTS)]
    assert embed_to_file(embed, iter(records), out, output=output, part_size=4) == len(TEXTS)
    wanted = embed(TEXTS, output=output)
    if form == "npy":
        found = np.load(out)
        assert found.dtype == wanted.dtype
    elif form == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["id"] for row in rows] == [key for key, _ in records]
        found = np.array([row["embedding"] for row in rows])
    else:
        table = pyarrow.parquet.read_table(out)
        assert table["id"].to_pylist() == [str(key) for key, _ in records]
        found = np.stack([row.values.to_numpy() for row in table["embedding"].combine_chunks()])
        assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    bound = {"float32": 1e-6, "float16": 1e-3, "int8": 1, "ubinary": 0}[output]
    assert abs(found.astype(np.float32) - wanted.astype(np.float32)).max() <= bound
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [out.name, *([f"{out.name}.ranges.npy"] if output == "int8" else [])]
    )


def test_json_lines(folder: Path, embed: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "texts.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"name": f"n{i}", "words": text}) + "\n\n" for i, text in enumerate(TEXTS))
    out = tmp_path / "vectors.jsonl"
    options = ["--text-field", "words", "--id-field", "name", "-o", out]
    assert call(monkeypatch, folder, path, *options) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(len(TEXTS))]
    assert abs(np.array([row["embedding"] for row in rows]) - embed(TEXTS)).max() < 1e-6


def test_killed_and_called_again(folder: Path, lines: Path, tmp_path: Path) -> None:
    lines.write_text(lines.read_text(encoding="utf-8") * 40, encoding="utf-8")
    whole, out = tmp_path / "whole.npy", tmp_path / "stopped.npy"
    start = [sys.executable, "-m", "mmbert"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMBERT_QUIET": "1"}
    first = subprocess.Popen([*start, *command(folder, lines, "-o", out, "--part-size", 5)], env=environment)
    parts = tmp_path / "stopped.npy.parts.partial"
    until = time.monotonic() + 120
    while not (parts / "000002.json").is_file():
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert len(kept) < 81
    embedder = Embedder.load(folder, device="cpu", precision="fp32")
    records = list(enumerate(lines.read_text(encoding="utf-8").splitlines(), 1))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        stack = np.stack
        patch.setattr(bulk.np, "stack", lambda rows: made.append(len(rows)) or stack(rows))
        embed_to_file(embedder, records, out, part_size=5)
    assert len(made) == 80 - (len(kept) - 1)  # what was there was not computed again
    embed_to_file(embedder, records, whole, part_size=5)
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


class _StopError(Exception):
    pass


def _stopped(embed: Embedder, out: Path, texts: list[str], after: int, **options: Any) -> None:
    def records() -> Any:
        for number, text in enumerate(texts):
            if number == after:
                raise _StopError
            yield number, text

    with pytest.raises(_StopError):
        embed_to_file(embed, records(), out, part_size=3, **options)


def test_damaged_pieces_are_computed_again(embed: Embedder, tmp_path: Path) -> None:
    embed.ranges = None
    out, whole, records = tmp_path / "vectors.npy", tmp_path / "whole.npy", list(enumerate(TEXTS))
    embed_to_file(embed, records, whole, part_size=3)
    _stopped(embed, out, TEXTS, 7)
    parts = tmp_path / "vectors.npy.parts.partial"
    kept = {path.name: path.read_bytes() for path in parts.iterdir() if path.name[0].isdigit()}
    draw = random.Random(0)
    assert len(kept) == 4
    for _ in range(60):
        name = draw.choice(sorted(kept))
        content = bytearray(kept[name])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        parts.mkdir(exist_ok=True)
        for each, right in kept.items():
            (parts / each).write_bytes(content if each == name else right)
        out.unlink(missing_ok=True)
        try:
            embed_to_file(embed, records, out, part_size=3)
        except DataError:
            assert name.endswith(".json"), "the stated hash of the texts was hit"
            shutil.rmtree(parts)
        else:
            assert out.read_bytes() == whole.read_bytes(), name


def test_another_job_is_not_mixed_in(embed: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    embed.ranges = None
    _stopped(embed, out, TEXTS, 7, output="int8")
    records = list(enumerate(TEXTS))
    with pytest.raises(ConfigError, match="begun with dimensions 32, now it is 8"):
        embed_to_file(embed, records, out, part_size=3, output="int8", dimensions=8)
    with pytest.raises(ConfigError, match="begun with part_size 3"):
        embed_to_file(embed, records, out, output="int8")
    with pytest.raises(DataError, match="texts of part 1 changed"):
        embed_to_file(embed, [*records[:3], (3, "other"), *records[4:]], out, part_size=3, output="int8")
    ranges = embed.ranges
    embed.ranges = None
    embed_to_file(embed, records, out, part_size=3, output="int8")
    assert (np.load(tmp_path / "vectors.npy.ranges.npy") == ranges).all()
    given = Embedder(embed.loaded)
    given.ranges = ranges * 2
    _stopped(given, tmp_path / "given.npy", TEXTS, 7, output="int8")
    embed_to_file(given, records, tmp_path / "given.npy", part_size=3, output="int8")
    assert (np.load(tmp_path / "given.npy") != np.load(out)).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.txt"], "no such file: missing.txt"),
        (["-", "-o", "x.csv"], ".npy, .jsonl, .parquet"),
        (["-", "--output", "int4"], "int4"),
        (["-", "--output", "int8"], "needs --ranges"),
        (["-", "--ranges", "missing.npy"], "holds no ranges"),
        (["-", "-o", "none.npy"], "no text to embed"),
        (["broken.jsonl"], "broken.jsonl:2 has no field 'text' (it has words): choose it with --text-field"),
        (["number.jsonl"], "number.jsonl:1: text is int, not text"),
        (["latin.txt"], "latin.txt:1: not UTF-8 at byte 1"),
        (["surrogate.jsonl"], "surrogate.jsonl:1: text holds a lone surrogate at character 0"),
        (["-", "-o", "there.npy"], "exists already"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text('{"text": "a"}\n{"words": "b"}\n')
    Path("number.jsonl").write_text('{"text": 1}\n')
    Path("surrogate.jsonl").write_text('{"text": "\\ud800"}\n')
    Path("latin.txt").write_bytes("é\n".encode("latin-1"))
    Path("there.npy").write_bytes(b"")
    assert call(monkeypatch, folder, *arguments) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mmbert: ")]
    assert len(told) == 1
    assert said in told[0]


def test_fewer_layers_and_dimensions(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    embed: Embedder,
    lines: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "rows.npy"
    assert call(monkeypatch, folder, lines, "-o", out, "--layers", 2, "--dimensions", 8) == 0
    expected = Embedder.load(folder, num_layers=2, dimensions=8, precision="fp32")(TEXTS)
    assert expected.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    assert not np.allclose(expected, embed(TEXTS, dimensions=8), atol=1e-2)
    # the layers are part of what an interrupted command goes on with
    assert call(monkeypatch, folder, lines, "-o", out, "--layers", 3, "--dimensions", 8) != 0
    assert call(monkeypatch, folder, "--text", "a", "--layers", 5) != 0
    assert "num_layers (--layers) is 5: it must be a whole number from 1 to 4" in capsys.readouterr().err
