"""Bulk inference on Ray with two workers on this machine: the local command's numbers, a kill, what is refused."""

from __future__ import annotations

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

TWO = Cluster(workers=2, cpus_per_worker=1)
WORDS = "all human beings are born free and equal in dignity and rights they are endowed with reason"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(Cluster("local")) as found:
            yield found


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


def test_two_workers_and_a_second_call(cluster: Any, heads: Path, tmp_path: Path) -> None:
    assert cluster.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    folder, out = write(tmp_path / "in", 3, 200), tmp_path / "out"
    job = Embed(model=str(heads / "masks"), device="cpu", precision="fp32")
    done = run_on_ray(job, [str(folder)], str(out), cluster=TWO)
    assert (done.files, done.skipped, done.rows, done.all_rows, done.workers) == (3, 0, 600, 600, 2)
    assert done.tokens > 600 * 4
    assert "per million texts at $3.00 an hour" in done.lines(3.0)[-1]
    check(folder, out, job, tmp_path / "local")
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["complete"]
    assert (manifest["dimensions"], manifest["columns"], manifest["rows"]) == (16, ["id", "vector"], 600)
    assert not list(out.glob("*.partial"))
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (folder / "4.jsonl").write_text('{"text": "one more"}\n', encoding="utf-8")
    again = run_on_ray(job, [str(folder)], str(out), cluster=TWO)
    assert (again.files, again.skipped, again.rows) == (4, 3, 1)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(ConfigError, match="was begun with normalize True, now it is False"):
        run_on_ray(Embed(model=job.model, normalize=False), [str(folder)], str(out), cluster=TWO)
    (folder / "5.jsonl").write_text('{"text": "bad"', encoding="utf-8")
    with pytest.raises(MMBertError, match=r"1 of 1 files failed, the first is 5\.jsonl: all 1 rows are bad"):
        run_on_ray(job, [str(folder)], str(out), cluster=TWO)
    assert not json.loads((out / MANIFEST).read_text())["complete"]


def working() -> list[int]:
    """Processes of this cluster's workers that are at a shard."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes()
            above = int(place.name)
            while above > 1 and above != os.getpid():
                above = int((Path("/proc") / str(above) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if title.startswith(b"ray::ShardWorker.run") and above == os.getpid():
            found.append(int(place.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")
def test_a_killed_worker_loses_nothing(cluster: Any, heads: Path, tmp_path: Path) -> None:
    folder, out = write(tmp_path / "in", 2, 6000), tmp_path / "out"
    job = Embed(model=str(heads / "masks"), device="cpu", precision="fp32")
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            if list(out.glob("*.parquet.partial")) and (pids := working()):
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    done = run_on_ray(job, [str(folder)], str(out), cluster=TWO)
    thread.join()
    assert killed
    assert (done.files, done.all_rows) == (2, 12_000)
    check(folder, out, job, tmp_path / "local")
    assert not list(out.glob("*.partial"))


def test_what_is_refused(cluster: Any, heads: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", 1, 2)
    with pytest.raises(ConfigError, match="cannot stream results"):
        run_on_ray(Embed(model=str(heads / "masks")), [str(folder)], "out", cluster=Cluster("ray://127.0.0.1:10001"))
    with pytest.raises(MMBertError, match="dimensions is 99: it must be a whole number from 1 to 16"):
        run_on_ray(Embed(model=str(heads / "masks"), dimensions=99), [str(folder)], str(tmp_path / "out"), cluster=TWO)
    assert not (tmp_path / "out" / MANIFEST).exists()
