"""Bulk runs from and to a real S3 server: the same results as on a disk, read back from there; what goes wrong."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from mmbert.bulk.jobs import Embed
from mmbert.bulk.places import ResultFolder, Shard, find_shards
from mmbert.bulk.run_folder import MANIFEST, RunFolder, record_of
from mmbert.bulk.shard_worker import ShardWorker
from mmbert.cli.main import main
from mmbert.errors import ConfigError, DataError
from mmbert.search.import_vectors import import_vectors
from mmbert.search.index import SearchIndex
from mmbert.stores.push import store_vectors

s3fs = pytest.importorskip("s3fs")

pytestmark = pytest.mark.usefixtures("process")

TEXTS = [f"all human beings are born free {number}" for number in range(30)]


def compute(job: Embed, source: str, out: str) -> RunFolder:
    """A run as the pool makes it, with one worker in this process."""
    run = RunFolder(ResultFolder.at(out), find_shards([source]))
    record = record_of(job, [source], "id", ("text",)) | {"model_hash": job.load().loaded.model_hash}
    worker = ShardWorker(job, run.folder, keep=("text",))
    record |= worker.load()
    job_id, pending = run.claim(record), run.find_done()
    run.check_done(job_id)
    run.write(record, complete=False)
    for shard in pending:
        *_, last = worker.run(shard, job_id)
        assert "done" in last, last
        run.done[shard.name] = last["done"]
    run.write(record, complete=True)
    return run


@pytest.fixture
def source(s3: str) -> str:
    files = s3fs.S3FileSystem()
    rows = [json.dumps({"id": f"a{number}", "text": text}) for number, text in enumerate(TEXTS)]
    files.pipe(f"{s3}/in/a.jsonl", "\n".join(rows).encode())
    files.pipe(f"{s3}/in/deep/b.jsonl", b'{"id": "b0", "text": "born free"}\n{"id": "b1"\n')
    files.pipe(f"{s3}/in/.hidden.jsonl", b'{"text": "hidden"}\n')
    files.pipe(f"{s3}/in/picture.png", b"no text")
    return f"{s3}/in"


def test_a_run_and_its_vectors(s3: str, source: str, heads: Path, tmp_path: Path) -> None:
    out = f"{s3}/out"
    job = Embed(model=str(heads / "masks"), device="cpu", precision="fp32")
    assert [shard.name for shard in find_shards([f"{source}/*.jsonl"])] == ["a.jsonl"]
    run = compute(job, source, out)
    assert run.folder.names() == {
        MANIFEST, "a.jsonl.parquet", "deep/b.jsonl.parquet", "_rejected/deep/b.jsonl.jsonl"
    }  # fmt: skip
    files = s3fs.S3FileSystem()
    with files.open(f"{out}/a.jsonl.parquet") as file:
        table = pyarrow.parquet.read_table(file)
    vectors = np.stack(table["vector"].to_pylist()).astype(np.float32)
    assert np.array_equal(vectors, np.stack(list(job.load().stream(TEXTS))))
    assert json.loads(files.cat(f"{out}/_rejected/deep/b.jsonl.jsonl"))["row"] == 2

    made = files.info(f"{out}/a.jsonl.parquet")["LastModified"]
    files.pipe(f"{source}/c.txt", b"one more\n")
    again = compute(job, source, out)
    assert sorted(again.done) == ["a.jsonl", "c.txt", "deep/b.jsonl"]
    files.invalidate_cache()
    assert files.info(f"{out}/a.jsonl.parquet")["LastModified"] == made
    with pytest.raises(ConfigError, match=r"was begun with dimensions 16, now it is 8"):
        compute(Embed(**vars(job) | {"dimensions": 8}), source, out)

    stored = store_vectors(out, f"{tmp_path}/passages.lance", columns=["text"])
    assert (stored.sent, stored.rows) == (32, 32)
    index, changed = import_vectors(tmp_path / "index", out)
    assert changed.added == 32
    [hit] = index(TEXTS[7], top_k=1)
    assert (hit.id, hit.text) == ("a7", TEXTS[7])
    assert store_vectors(f"{out}/a.jsonl.parquet", f"{s3}/one.lance", metric="cosine").rows == 30

    files.pipe(f"{source}/a.jsonl", b'{"id": "a0", "text": "changed"}\n')
    with pytest.raises(ConfigError, match=r"in/a\.jsonl changed since s3://.*out/a\.jsonl\.parquet was made"):
        compute(job, source, out)


def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str) -> str:
    """What a command that fails says, which is one line."""
    monkeypatch.setattr(sys, "argv", ["mmbert", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [said] = capsys.readouterr().err.splitlines()
    return said


READS = "embed {model} {place} --on ray --out {here}/out"
WRITES = "embed {model} {here}/in.txt --on ray --out {place}"
IMPORTS = "index import {place} --out {here}/index"
STORES = "store {place} {here}/passages.lance"
NO_BUCKET = "cannot reach s3://nowhere/run: FileNotFoundError: The specified bucket does not exist"


@pytest.mark.parametrize(
    ("command", "changed", "place", "said"),
    [
        *((command, {}, "s3://nowhere/run", NO_BUCKET) for command in (READS, WRITES, IMPORTS, STORES)),
        (READS, {"AWS_SECRET_ACCESS_KEY": "x"}, "{s3}/run", "cannot reach {s3}/run: PermissionError: The request sign"),
        (STORES, {"AWS_ACCESS_KEY_ID": "x"}, "{s3}/run", "cannot reach {s3}/run: PermissionError: The access key ID"),
        (READS, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "{s3}/run", "cannot reach {s3}/run: EndpointConnectionEr"),
        *((command, {}, "s3://", "s3:// names no bucket") for command in (READS, WRITES, IMPORTS, STORES)),
        (WRITES, {}, "s4://bucket/run", "cannot reach s4://bucket/run: ValueError: Protocol not known: s4"),
        (READS, {"no": "s3fs"}, "{s3}/run", "s3fs is not installed: pip install 'mmbert[s3]'"),
        (IMPORTS, {"no": "s3fs"}, "{s3}/run", "s3fs is not installed: pip install 'mmbert[s3]'"),
    ],
)
def test_what_cannot_be_reached(
    s3: str, heads: Path, tmp_path: Path, command: str, changed: dict[str, str], place: str, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "in.txt").write_text("a text\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for name, value in changed.items():
        if name == "no":
            monkeypatch.setitem(sys.modules, value, None)
            known = importlib.import_module("fsspec.registry")._registry
            monkeypatch.delitem(known, "s3", raising=False)  # what was imported before
        else:
            monkeypatch.setenv(name, value)
    line = command.format(model=heads / "masks", here=tmp_path, place=place.format(s3=s3))
    assert say(capsys, monkeypatch, line).startswith(f"mmbert: {said.format(s3=s3)}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("embed {model} {s3}/in --on ray --out {here}/out", "no file at {s3}/in (INPUT)"),
        ("index import {s3}/in --out {here}/index", "no file at {s3}/in: give a file of mmbert embed"),
        ("store {s3}/in {here}/passages.lance", "no file at {s3}/in: give a file of mmbert embed"),
    ],
)
def test_nothing_there(
    s3: str, heads: Path, tmp_path: Path, command: str, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = command.format(model=heads / "masks", here=tmp_path, s3=s3)
    assert say(capsys, monkeypatch, line).startswith(f"mmbert: {said.format(s3=s3)}")
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_be_stored(s3: str, source: str, tmp_path: Path) -> None:
    files = s3fs.S3FileSystem()
    with pytest.raises(DataError, match=r"in holds no Parquet files"):
        store_vectors(source, f"{tmp_path}/passages.lance")
    with pytest.raises(DataError, match=r"a\.jsonl is no Parquet: of other forms give a file of this machine"):
        store_vectors(f"{source}/a.jsonl", f"{tmp_path}/passages.lance")
    files.pipe(f"{source}/x.parquet", b"PAR1 damaged")
    with pytest.raises(DataError, match=r"in/x\.parquet is corrupt or no Parquet"):
        store_vectors(source, f"{tmp_path}/passages.lance")
    files.pipe(f"{source}/{MANIFEST}", b'{"complete": false}')
    with pytest.raises(DataError, match=r"in is not complete"):
        store_vectors(source, f"{tmp_path}/passages.lance")
    files.pipe(f"{source}/{MANIFEST}", b"{")
    with pytest.raises(DataError, match=r"in/run\.json is damaged"):
        store_vectors(source, f"{tmp_path}/passages.lance")
    assert not list(tmp_path.iterdir())


def test_a_store_that_breaks_off_costs_its_shard_alone(heads: Path, tmp_path: Path) -> None:
    """An error of the client in the middle of a file: none of Python's own."""
    broken = pytest.importorskip("botocore.exceptions").ResponseStreamingError(error="cut")

    class Cut(Shard):
        def open(self) -> Any:
            raise broken

    worker = ShardWorker(Embed(model=str(heads / "masks"), device="cpu"), ResultFolder.at(str(tmp_path / "out")))
    worker.load()
    [told] = worker.run(Cut("a.jsonl", "s3://vectors/a.jsonl", 1, ""), "job")
    assert told["error"].startswith("cannot reach s3://vectors/a.jsonl: ResponseStreamingError: ")
    assert not list(tmp_path.rglob("*.parquet*"))


def test_an_index_is_not_written_there(heads: Path) -> None:
    for call in (SearchIndex.create, import_vectors):
        with pytest.raises(ConfigError, match=r"^s3://bucket/index: an index lies on a disk: build it there\. On an"):
            call("s3://bucket/index", str(heads / "masks"))
    with pytest.raises(ConfigError, match=r"^s3://bucket/index: an index lies on a disk"):
        SearchIndex.load(Path("s3://bucket/index"))
