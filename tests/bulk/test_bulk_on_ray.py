"""Bulk inference on Ray with two workers on this machine: the local command's numbers, a kill, an object store.

One test for all that needs Ray, which is started once: it and each worker take seconds of a processor to start.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from little_s3 import find_weed
from mmbert.bulk.cluster import Cluster, connected
from mmbert.bulk.jobs import Embed
from mmbert.bulk.on_ray import run_on_ray
from mmbert.bulk.run_folder import MANIFEST
from mmbert.errors import ConfigError, MMBertError
from mmbert.inference.bulk import embed_to_file

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'mmbert[ray]'")

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    # Of ray itself, in this process: sockets and processes that it leaves to the end, and what it deprecates.
    pytest.mark.filterwarnings("ignore"),
]

ONE, TWO = (Cluster(workers=workers, cpus_per_worker=1) for workers in (1, 2))
ROWS = 2500
WORDS = "all human beings are born free and equal in dignity and rights they are endowed with reason"


@pytest.fixture
def place_on_s3(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.getfixturevalue("s3") if find_weed() else None
    return found


@pytest.fixture
def cluster(place_on_s3: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Workers have the environment of the moment at which Ray starts: with the keys of the object store."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = below()
    with connected(Cluster("local")) as found:
        yield found
        started = below().keys() - before.keys()
        assert len(started) > 3
    until = time.monotonic() + 60
    while (left := [title for number, title in below().items() if number in started]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def below() -> dict[int, str]:
    """Return the processes that descend from this one, by number, and how each was called."""
    above, titles = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            titles[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state != "Z":
            above[int(place.name)] = int(parent)
    found = {os.getpid()}
    while more := {number for number, parent in above.items() if parent in found} - found:
        found |= more
    return {number: titles[number] for number in found if number != os.getpid()}


def write(folder: Path, files: int, rows: int) -> Path:
    folder.mkdir()
    words = WORDS.split()
    for file in range(files):
        texts = [" ".join(words[(file + row) % 7 : 8 + row % 9]) for row in range(rows)]
        lines = [json.dumps({"id": f"{file}/{row}", "text": text}) + "\n" for row, text in enumerate(texts)]
        (folder / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def read(path: Path) -> tuple[list[str], np.ndarray]:
    table = pyarrow.parquet.read_table(path)
    column = "vector" if "vector" in table.column_names else "embedding"
    return table["id"].to_pylist(), np.array(table[column].to_pylist(), np.float32)


def check(folder: Path, out: Path, job: Embed, local: Path) -> None:
    """Compare every result with what the local command writes for the same file."""
    embedder = job.load()
    for path in sorted(folder.iterdir()):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        alone = local / f"{path.name}.parquet"
        embed_to_file(embedder, [(row["id"], row["text"]) for row in rows], alone)
        ids, vectors = read(out / f"{path.name}.parquet")
        wanted_ids, wanted = read(alone)
        assert ids == wanted_ids
        assert np.array_equal(vectors, wanted)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")
def test_two_workers_of_which_one_is_killed(cluster: Any, place_on_s3: str | None, heads: Path, tmp_path: Path) -> None:
    assert cluster.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    folder, out = write(tmp_path / "in", 3, ROWS), tmp_path / "out"
    job = Embed(model=str(heads / "masks"), device="cpu", precision="fp32")
    killed: list[int] = []
    thread = threading.Thread(target=kill_one, args=(out, killed))
    thread.start()
    done = run_on_ray(job, [str(folder)], str(out), cluster=TWO)
    thread.join()
    assert killed
    assert (done.files, done.skipped, done.all_rows, done.workers) == (3, 0, 3 * ROWS, 2)
    assert done.tokens > done.rows * 4
    assert "per million texts at $3.00 an hour" in done.lines(3.0)[-1]
    check(folder, out, job, tmp_path / "local")
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["complete"]
    assert (manifest["dimensions"], manifest["columns"], manifest["rows"]) == (16, ["id", "vector"], 3 * ROWS)
    assert not list(out.glob("*.partial"))

    (folder / "4.jsonl").write_text('{"text": "one more"}\n', encoding="utf-8")
    (folder / "5.jsonl").write_text('{"text": "bad"', encoding="utf-8")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    with pytest.raises(MMBertError, match=r"1 of 2 files failed, the first is 5\.jsonl: all 1 rows are bad"):
        run_on_ray(job, [str(folder)], str(out), cluster=ONE)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not json.loads((out / MANIFEST).read_text())["complete"]
    (folder / "5.jsonl").unlink()
    again = run_on_ray(job, [str(folder)], str(out), cluster=ONE)
    assert (again.files, again.skipped, again.rows, again.all_rows) == (4, 4, 0, 3 * ROWS + 1)
    with pytest.raises(ConfigError, match="was begun with normalize True, now it is False"):
        run_on_ray(Embed(model=job.model, normalize=False), [str(folder)], str(out), cluster=ONE)

    wrong = Embed(model=job.model, dimensions=99)
    with pytest.raises(MMBertError, match="dimensions is 99: it must be a whole number from 1 to 16"):
        run_on_ray(wrong, [str(folder)], str(tmp_path / "wrong"), cluster=ONE)
    assert not (tmp_path / "wrong" / MANIFEST).exists()
    if place_on_s3:
        on_s3(job, folder, out, place_on_s3)


def on_s3(job: Embed, folder: Path, out: Path, s3: str) -> None:
    """Compute two files once more, from and to an object store: the same rows, and ranges that are kept there."""
    files = pytest.importorskip("s3fs").S3FileSystem()
    for name in ("0.jsonl", "4.jsonl"):
        files.put(str(folder / name), f"{s3}/in/{name}")
    job = Embed(**vars(job) | {"output": "int8"})
    done = run_on_ray(job, [f"{s3}/in"], f"{s3}/out", cluster=ONE)
    assert (done.files, done.rows) == (2, ROWS + 1)
    files.invalidate_cache()
    names = {"0.jsonl.parquet", "4.jsonl.parquet", "ranges.npy", MANIFEST}
    assert {name.rpartition("/")[2] for name in files.find(f"{s3}/out")} == names
    with files.open(f"{s3}/out/0.jsonl.parquet") as file:
        table = pyarrow.parquet.read_table(file)
    ids, vectors = read(out / "0.jsonl.parquet")
    assert table["id"].to_pylist() == ids
    ranges = np.load(io.BytesIO(files.cat(f"{s3}/out/ranges.npy")))
    found = (np.array(table["vector"].to_pylist(), np.float32) + 128.5) / 255 * (ranges[1] - ranges[0]) + ranges[0]
    assert abs(np.clip(vectors, *ranges) - found).max() <= (ranges[1] - ranges[0]).max() / 200
    assert run_on_ray(job, [f"{s3}/in"], f"{s3}/out", cluster=ONE).skipped == 2


def kill_one(out: Path, killed: list[int]) -> None:
    """Kill a worker that is at a file, whose beginning is on the disk."""
    until = time.monotonic() + 300
    while not killed and time.monotonic() < until:
        if list(out.glob("*.parquet.partial")):
            for number in [number for number, title in below().items() if title.startswith("ray::ShardWorker.run")]:
                opened = [os.path.realpath(file) for file in Path(f"/proc/{number}/fd").glob("*")]
                if any(name.endswith(".parquet.partial") for name in opened):
                    os.kill(number, signal.SIGKILL)
                    killed.append(number)
                    return
        time.sleep(0.005)


def test_ray_client_is_refused(heads: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", 1, 2)
    with pytest.raises(ConfigError, match="cannot stream results"):
        run_on_ray(Embed(model=str(heads / "masks")), [str(folder)], "out", cluster=Cluster("ray://127.0.0.1:10001"))
