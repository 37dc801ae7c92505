"""One worker of a bulk run, in this process: what it writes for a shard, which rows it leaves out, what is skipped."""

from __future__ import annotations

import gzip
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from mmbert.bulk.cluster import Cluster, Placement, place
from mmbert.bulk.jobs import Classify, Embed, Job, Rerank, Tag
from mmbert.bulk.places import ResultFolder, find_shards
from mmbert.bulk.run_folder import RunFolder
from mmbert.bulk.shard_worker import ShardWorker
from mmbert.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("process")

WORDS = [
    "All",
    "human",
    "beings",
    "are",
    "born",
    "free",
    "and",
    "equal",
    "in",
    "dignity",
    "and",
    "rights",
    "Tous",
    "les",
    "êtres",
    "Watu",
    "wote",
]
TEXTS = [" ".join(WORDS[number % 5 : 3 + number % 13]) for number in range(60)]


def options(folder: Path) -> dict[str, Any]:
    return {"model": str(folder), "device": "cpu", "precision": "fp32"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    place = tmp_path / "in"
    (place / "more").mkdir(parents=True)
    rows = [{"id": number, "text": text, "year": 1900 + number} for number, text in enumerate(TEXTS)]
    with gzip.open(place / "more" / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[:30])
        file.write('{"id": "broken\n{"id": "number", "text": 5}\n')
        file.writelines(json.dumps(row) + "\n" for row in rows[30:40])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[40:50]), place / "b.parquet")
    (place / "c.txt").write_text("".join(text + "\n" for text in TEXTS[50:]), encoding="utf-8")
    return place


def made(job: Job, source: Path, out: Any, **worker_options: Any) -> tuple[RunFolder, list[dict[str, Any]]]:
    """Compute all that is pending; returns the folder and the last report of each shard."""
    run = RunFolder(ResultFolder.at(str(out)), find_shards([str(source)]))
    worker = ShardWorker(job, run.folder, **worker_options)
    assert "error" not in worker.load()
    reports = []
    for shard in run.find_done():
        *_, last = worker.run(shard, "job")
        reports.append(last)
        if "done" in last:
            run.done[shard.name] = last["done"]
    return run, reports


def test_ids_order_kept_columns_and_rejected_rows(heads: Path, shards: Path, tmp_path: Path) -> None:
    job = Embed(**options(heads / "masks"))
    run, reports = made(job, shards, tmp_path / "out", keep=("text",))
    wanted = np.stack(list(job.load().stream(TEXTS)))
    names = ["b.parquet", "c.txt.parquet", "more/a.jsonl.gz.parquet"]
    tables = [pyarrow.parquet.read_table(tmp_path / "out" / name) for name in names]
    assert [table.schema.remove_metadata() for table in tables[1:]] == [tables[0].schema.remove_metadata()] * 2
    table = pyarrow.concat_tables([tables[2], tables[0], tables[1]])
    assert table["text"].to_pylist() == TEXTS
    assert table["id"].to_pylist() == [*map(str, range(50)), *(f"c.txt:{number}" for number in range(1, 11))]
    found = np.stack(table["vector"].to_pylist())
    assert abs(found - wanted).max() < 1e-6
    assert sum(report["done"]["rows"] for report in reports) == 60
    assert all(report["done"]["tokens"] > 3 * report["done"]["rows"] for report in reports)
    rejected = [
        json.loads(line) for line in (tmp_path / "out/_rejected/more/a.jsonl.gz.jsonl").read_text().splitlines()
    ]
    assert [row["row"] for row in rejected] == [31, 32]
    assert rejected[0]["reason"].startswith("not JSON")
    assert rejected[1]["reason"] == "text is int, not text: choose the field with --text-field"
    assert run.done["more/a.jsonl.gz"]["rejected"] == 2


def test_a_text_without_an_answer_is_left_out_alone(heads: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    texts = ["a b", "born free", "zzz", "equal", "zzz zzz", *TEXTS]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    job = Embed(**options(heads / "masks"))
    run = RunFolder(ResultFolder.at(str(tmp_path / "out")), find_shards([str(path)]))
    worker = ShardWorker(job, run.folder)
    worker.load()
    loaded = worker._predictor.loaded
    [bad] = set(loaded.tokenizer.encode("zzz")) - set(loaded.tokenizer.encode("born free equal a b"))
    embedding = next(p for p in loaded.encoder.parameters() if p.shape == (loaded.config.vocab_size, 16))
    with torch.no_grad():
        embedding[bad] = torch.nan
    *_, last = worker.run(run.shards[0], "job")
    assert (last["done"]["rows"], last["done"]["rejected"]) == (len(texts) - 2, 2)
    ids = pyarrow.parquet.read_table(tmp_path / "out" / "in.txt.parquet")["id"].to_pylist()
    assert ids == [f"in.txt:{number}" for number in range(1, len(texts) + 1) if number not in (3, 5)]
    rejected = [json.loads(line) for line in (tmp_path / "out/_rejected/in.txt.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in rejected) == [3, 5]
    assert all("NaN" in row["reason"] for row in rejected)


@pytest.mark.parametrize("output", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_outputs(heads: Path, shards: Path, tmp_path: Path, output: Any) -> None:
    job = Embed(**options(heads / "masks"), output=output, dimensions=8)
    run = RunFolder(ResultFolder.at(str(tmp_path / "out")), find_shards([str(shards / "b.parquet")]))
    worker, local = ShardWorker(job, run.folder), job.load()
    worker.load()
    local.calibrate(TEXTS[40:50], dimensions=8)
    ranges = worker.measure_ranges(run.shards[0])["ranges"]
    assert abs(ranges - local.ranges).max() < 1e-6
    worker.set_ranges(local.ranges)
    *_, last = worker.run(run.shards[0], "job")
    assert "done" in last, last
    table = pyarrow.parquet.read_table(tmp_path / "out" / "b.parquet")
    wanted = np.stack(list(local.stream(TEXTS[40:50], output=output, dimensions=8)))
    found = np.array(table["vector"].to_pylist(), wanted.dtype)
    assert str(table.schema.field("vector").type).endswith(f"[{wanted.shape[1]}]")
    assert abs(found.astype(float) - wanted.astype(float)).max() <= (1e-3 if output == "float16" else 1)


def test_other_predictors_write_what_the_command_writes(heads: Path, shards: Path, tmp_path: Path) -> None:
    jobs = [Classify(**options(heads / "classes")), Tag(**options(heads / "tags"))]
    for job in jobs:
        made(job, shards, tmp_path / job.name)
        table = pyarrow.parquet.read_table(tmp_path / job.name / "b.parquet")
        found = [{key: value for key, value in row.items() if key != "id"} for row in table.to_pylist()]
        wanted = list(job.answers(job.load(), iter(TEXTS[40:50])))
        assert json.dumps(found) == json.dumps(wanted, default=vars)
    assert table.column_names == ["id", "entities"]


def test_rerank_leaves_out_a_row_without_a_query(heads: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": query, "documents": TEXTS[:4]} for query in ("free", "", "equal")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = Rerank(**options(heads / "ranks"), top_k=2)
    made(job, path, tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "pairs.jsonl.parquet")
    assert [len(ranked) for ranked in table["ranked"].to_pylist()] == [2, 2]
    assert table["id"].to_pylist() == ["pairs.jsonl:1", "pairs.jsonl:3"]
    [rejected] = [json.loads(line) for line in (tmp_path / "out/_rejected/pairs.jsonl.jsonl").read_text().splitlines()]
    assert rejected == {"row": 2, "id": "pairs.jsonl:2", "reason": "the query is empty"}


def test_files_that_fail(heads: Path, shards: Path, tmp_path: Path) -> None:
    (shards / "b.parquet").write_bytes(b"PAR1 cut")
    _, reports = made(Embed(**options(heads / "masks"), text_field="words"), shards / "b.parquet", tmp_path / "out")
    assert "is corrupt or no Parquet" in reports[0]["error"]
    whole = tmp_path / "whole.jsonl"
    whole.write_text('{"text": "a"}\n', encoding="utf-8")
    _, reports = made(Embed(**options(heads / "masks"), text_field="words"), whole, tmp_path / "out2")
    assert "all 1 rows are bad, the first: " in reports[0]["error"]
    _, reports = made(Embed(**options(heads / "masks")), whole, tmp_path / "out3", keep=("url",))
    assert reports[0]["error"].endswith("no row has a field 'url' (--keep): there are text")
    assert not list(tmp_path.glob("out*/*.parquet"))


def test_an_empty_file_is_told(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_bytes(b"")
    _, [report] = made(Embed(**options(heads / "masks")), tmp_path / "none.jsonl", tmp_path / "out")
    assert report["done"]["rows"] == 0
    assert f"{tmp_path}/none.jsonl is empty" in report["notes"]


def test_a_result_that_cannot_be_written_costs_its_file_alone(heads: Path, shards: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
    try:
        _, [report] = made(Embed(**options(heads / "masks")), shards / "c.txt", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert report["error"].startswith(f"cannot reach {tmp_path}/out: OSError: ")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_finished_files_are_skipped_and_checked(heads: Path, shards: Path, tmp_path: Path) -> None:
    job, out = Embed(**options(heads / "masks")), tmp_path / "out"
    run, _ = made(job, shards, out)
    assert not RunFolder(run.folder, run.shards).find_done()
    (out / "c.txt.parquet").write_bytes(b"damaged")
    assert [shard.name for shard in RunFolder(run.folder, run.shards).find_done()] == ["c.txt"]
    with pytest.raises(ConfigError, match=r"has no run\.json but other files"):
        run.claim({"output": "float32"})
    run.write({"output": "float32", "mmbert": "0"}, complete=True)
    with pytest.raises(ConfigError, match="was begun with output 'float32', now it is 'int8'"):
        run.claim({"output": "int8"})
    with pytest.raises(ConfigError, match="was made by a run with other options or another model"):
        run.check_done("another")
    (shards / "c.txt").unlink()
    with pytest.raises(ConfigError, match=r"c\.txt\.parquet belongs to no file of the input"):
        RunFolder(run.folder, find_shards([str(shards)])).find_done()
    (shards / "b.parquet").write_bytes(b"other")
    (out / "c.txt.parquet").unlink()
    with pytest.raises(ConfigError, match=r"b\.parquet changed since"):
        RunFolder(run.folder, find_shards([str(shards)])).find_done()


def test_places_of_fsspec(heads: Path, shards: Path, tmp_path: Path) -> None:
    """By URLs of this machine's own files, which go through fsspec as those of an object store do."""
    out = f"file://{tmp_path}/out"
    names = [shard.name for shard in find_shards([f"file://{shards}"])]
    assert names == [shard.name for shard in find_shards([str(shards)])]
    run, _ = made(Embed(**options(heads / "masks")), f"file://{shards}", out)  # type: ignore[arg-type]
    assert run.folder.names() == {"b.parquet", "c.txt.parquet", "more/a.jsonl.gz.parquet",
                                  "_rejected/more/a.jsonl.gz.jsonl"}  # fmt: skip
    assert not RunFolder(run.folder, run.shards).find_done()
    with pytest.raises(DataError, match="no file at"):
        find_shards([f"file://{tmp_path}/nothing"])
    with pytest.raises(ConfigError, match="several stores"):
        find_shards([f"file://{shards}", str(shards)])


def test_workers_of_a_cluster() -> None:
    def node(cpus: int, gpus: int = 0) -> dict[str, Any]:
        return {"Alive": True, "Resources": {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}}

    assert place([node(2)], Cluster(), "auto") == Placement(1, 2, 0)
    assert place([node(16), node(8)], Cluster(), "auto") == Placement(6, 4, 0)
    assert place([node(2)], Cluster(workers=2), "auto") == Placement(2, 1, 0)
    assert place([node(64, 8), node(4)], Cluster(), "auto") == Placement(8, 4, 1)
    assert place([node(64, 8)], Cluster(cpus_per_worker=8), "cpu") == Placement(8, 8, 0)
    assert place([node(16), node(8)], Cluster(cpus_per_worker=16), "cpu") == Placement(1, 16, 0)
    with pytest.raises(ConfigError, match="no machine of the Ray cluster has a GPU"):
        place([node(2)], Cluster(), "cuda")
    with pytest.raises(ConfigError, match="the largest machine of the Ray cluster has 2"):
        place([node(2)], Cluster(cpus_per_worker=4), "cpu")
