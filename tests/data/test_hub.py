"""Datasets as they lie on the hub, read by huggingface-hub itself from a little hub on this machine.

The layouts are those of HuggingFaceFW/fineweb-2 (a folder a language, splits below it, ``_removed`` ones beside) and of
the released mmBERT data (folders of MDS shards below ``train``, an index in each and one at the root).
"""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import little_corpus
import mds_writer
import numpy as np
import pytest

from little_hub import COMMIT, Hub, little_hub
from mmbert.data.prepare import prepare_text
from mmbert.data.prepare_tasks import plan_work
from mmbert.data.sources.hub_datasets import hub_inputs, open_remote, restore
from mmbert.data.sources.read import open_mds, read, read_input
from mmbert.data.store import Report
from mmbert.errors import DataError, WeightsError
from mmbert.model.weights import model_folder
from mmbert.recipe import Cleaning, Recipe, Source


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with little_hub(monkeypatch) as little:
        yield little


def parquet(language: str, count: int, first: int = 0) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as form

    rows = little_corpus.documents(language, first + count)[first:]
    buffer = io.BytesIO()
    form.write_table(pyarrow.table({key: [row[key] for row in rows] for key in ("text", "id")}), buffer)
    return buffer.getvalue()


def fineweb() -> dict[str, bytes]:
    return {
        ".gitattributes": b"*",
        "README.md": b"# FineWeb2",
        "data/fao_Latn/train/000_00000.parquet": parquet("fao_Latn", 5),
        "data/fao_Latn/train/000_00001.parquet": parquet("fao_Latn", 4, 5),
        "data/fao_Latn/test/000_00000.parquet": parquet("fao_Latn", 2, 20),
        "data/fao_Latn_removed/train/000_00000.parquet": parquet("fao_Latn", 1, 30),
        "data/fra_Latn/train/000_00000.parquet": parquet("fra_Latn", 3),
        "data/fra_Latn/test/000_00000.parquet": parquet("fra_Latn", 2, 20),
    }


def released(folder: Path) -> dict[str, bytes]:
    """As jhu-clsp/mmBERT-decay-data: compressed shards of ids."""
    merged: list[dict[str, Any]] = []
    for name in (
        "arxiv-sampled-decay-tokenized-chunked-8192-512-32-backfill-nodups",
        "fao_Latn-tokenized-chunked-8192",
    ):
        ids = [{"id": f"{name}/{i}", "input_ids": np.array([2, 300 + i, 301], np.uint32)} for i in range(7)]
        columns = {"id": "str", "input_ids": "ndarray:uint32"}
        place = folder / "train" / name
        index = mds_writer.write_mds(place, columns, ids, per_shard=4, compression="zstd", hashes=("sha1",))
        (place / "stats.json").write_text("{}")
        for entry in index["shards"]:
            for data in (entry["raw_data"], entry["zip_data"]):
                data["basename"] = f"{name}/{data['basename']}"
            merged.append(entry)
    (folder / "train/index.json").write_text(json.dumps({"version": 2, "shards": merged}))
    (folder / "train/num_tokens.json").write_text("{}")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def source(path: str, **options: object) -> Source:
    return Source.model_validate({"kind": "hub", "path": path, **options})


class TestFineWeb:
    def test_selection_by_configuration_and_split(self, hub: Hub) -> None:
        hub.files["HuggingFaceFW/fineweb-2"] = fineweb()
        every = source("HuggingFaceFW/fineweb-2", heldout="test")
        found = hub_inputs("web", every)
        assert [(file.language, file.name) for file in found] == [
            ("fao_Latn", "data/fao_Latn/train/000_00000.parquet"),
            ("fao_Latn", "data/fao_Latn/train/000_00001.parquet"),
            ("fra_Latn", "data/fra_Latn/train/000_00000.parquet"),
        ]
        assert {file.revision for file in found} == {COMMIT}
        assert [file.name for file in hub_inputs("web", every, heldout=True)] == [
            "data/fao_Latn/test/000_00000.parquet",
            "data/fra_Latn/test/000_00000.parquet",
        ]
        removed = source("HuggingFaceFW/fineweb-2", configs=["fao_Latn_removed"], language="fao_Latn")
        assert [file.name for file in hub_inputs("web", removed)] == ["data/fao_Latn_removed/train/000_00000.parquet"]
        with pytest.raises(DataError, match=r"no configuration fao_Latm .*did you mean fao_Latn"):
            hub_inputs("web", source("HuggingFaceFW/fineweb-2", configs=["fao_Latm"]))

    def test_documents_are_streamed(self, hub: Hub) -> None:
        hub.files["HuggingFaceFW/fineweb-2"] = fineweb()
        wanted = [
            (language, row["id"], row["text"])
            for language, count in (("fao_Latn", 9), ("fra_Latn", 3))
            for row in little_corpus.documents(language, count)
        ]
        web = source("HuggingFaceFW/fineweb-2")
        assert [(d.language, d.id, d.text) for d in read("web", web)] == wanted
        assert all("/test/" not in path and "removed" not in path for path in hub.asked if "resolve" in path)
        again = [restore(web, json.loads(json.dumps(file.record()))) for file in hub_inputs("web", web)]
        assert [d.id for file in again for d in read_input("web", web, file)] == [id for _, id, _ in wanted]

    def test_prepared_once_and_never_asked_again(self, hub: Hub, tmp_path: Path) -> None:
        hub.files["HuggingFaceFW/fineweb-2"] = fineweb()
        options = {"kind": "hub", "path": "HuggingFaceFW/fineweb-2", "heldout": "test"}
        recipe = little_corpus.recipe_for({"web": options})
        prepare_text(recipe, tmp_path)
        counts = Report.load(tmp_path).sources["web"].languages["fao_Latn"]
        assert (counts.documents, counts.heldout_documents) == (9, 2)
        hub.files.clear()
        hub.asked.clear()
        prepare_text(recipe, tmp_path)
        assert not hub.asked

    def test_other_layouts(self, hub: Hub) -> None:
        rows = gzip.compress("".join(json.dumps(row) + "\n" for row in little_corpus.documents("fra_Latn", 2)).encode())
        hub.files["org/set"] = {"fr/train-00000-of-00001.jsonl.gz": rows, "fr/validation-00000-of-00001.jsonl.gz": rows}
        assert [file.name for file in hub_inputs("s", source("org/set"))] == ["fr/train-00000-of-00001.jsonl.gz"]
        hub.files["org/flat"] = {"fra_Latn.jsonl.gz": rows, "test.jsonl.gz": rows}
        assert [(f.language, f.name) for f in hub_inputs("s", source("org/flat"))] == [
            ("fra_Latn", "fra_Latn.jsonl.gz")
        ]

    def test_a_configuration_with_folders_of_its_own(self, hub: Hub) -> None:
        """The layout of allenai/dolmino-mix-1124, whose parts the recipe mmbert-base reads."""
        rows = gzip.compress("".join(json.dumps(row) + "\n" for row in little_corpus.documents("eng_Latn", 2)).encode())
        names = {
            "dclm": ["data/dclm/0000/dclm-0000.json.gz", "data/dclm/0049/dclm-0007.json.gz"],
            "math": ["data/math/codesearchnet-owmfilter/0.jsonl.gz", "data/math/gsm8k/v0_main_train/0.jsonl.gz"],
            "stackexchange": ["data/stackexchange/stackexchange-0000.json.gz"],
        }
        hub.files["allenai/dolmino-mix-1124"] = {name: rows for part in names.values() for name in part}
        recipe = Recipe.load("mmbert-base")
        for part, wanted in names.items():
            found = hub_inputs(part, recipe.sources[f"{part}_dolmino" if part != "dclm" else "dclm_dolmino"])
            assert [file.name for file in found] == wanted
        assert [d.text for d in read("dclm", recipe.sources["dclm_dolmino"])] == 2 * [
            row["text"] for row in little_corpus.documents("eng_Latn", 2)
        ]
        apart = source("allenai/dolmino-mix-1124", configs=["math", "gsm8k"], language="eng")
        assert [file.name for file in hub_inputs("m", apart)] == names["math"], "each file once"
        with pytest.raises(
            DataError, match=r"no configuration wiki .*: there are dclm, math, stackexchange, 0000, 0049,"
        ):
            hub_inputs("w", source("allenai/dolmino-mix-1124", configs=["wiki"], language="eng"))

    def test_what_the_hub_does_not_have(self, hub: Hub) -> None:
        told = r"^cannot read the dataset org/none from the hub: .*\(check the name, the network, and `hf auth login`"
        with pytest.raises(DataError, match=told):
            hub_inputs("s", source("org/none"))

    def test_an_unreachable_hub_is_told_at_once(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        from huggingface_hub import HfFileSystem, constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
        nowhere = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
        HfFileSystem.clear_instance_cache()
        started = time.monotonic()
        with pytest.raises(DataError, match=r"^cannot read the dataset org/set from the hub: .*Connection refused"):
            hub_inputs("s", source("org/set"))
        with pytest.raises(DataError, match=r"^cannot read the dataset org/set from the hub: .*Connection refused"):
            open_remote(source("org/set"), COMMIT, "data/0.parquet")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(
            WeightsError, match=r"^no folder org/model here, and the hub did not give it: it cannot be reached"
        ):
            model_folder("org/model")
        assert time.monotonic() - started < 10
        assert "Retry" not in caplog.text


class TestReleased:
    def test_ids_of_one_folder(self, hub: Hub, tmp_path: Path) -> None:
        hub.files["jhu-clsp/mmBERT-decay-data"] = released(tmp_path / "hub")
        name = "arxiv-sampled-decay-tokenized-chunked-8192-512-32-backfill-nodups"
        arxiv = source("jhu-clsp/mmBERT-decay-data", configs=[name], language="eng_Latn")
        work = plan_work("arxiv", arxiv, Cleaning(), tmp_path)
        assert not work.tasks
        assert [(file.language, file.name) for file in work.ids] == [
            ("eng_Latn", f"train/{name}/shard.00000.mds.zstd"),
            ("eng_Latn", f"train/{name}/shard.00001.mds.zstd"),
        ]
        by_folder = plan_work("named", source("jhu-clsp/mmBERT-decay-data"), Cleaning(), tmp_path)
        assert {file.language for file in by_folder.ids} == {"fao_Latn"}, (
            "the folder that names no language is left out"
        )
        rows = [row["input_ids"].tolist() for file in work.ids for row in open_mds(file).rows(["input_ids"])]
        assert rows == [[2, 300 + i, 301] for i in range(7)]

    def test_a_missing_and_a_damaged_shard(self, hub: Hub, tmp_path: Path) -> None:
        files = released(tmp_path / "hub")
        path = "train/fao_Latn-tokenized-chunked-8192/shard.00001.mds.zstd"
        whole = files[path]
        hub.files["org/set"] = {**files, path: whole[:-1] + bytes([whole[-1] ^ 1])}
        *_, last = hub_inputs("s", source("org/set"))
        with pytest.raises(DataError, match=rf"^org/set/{path} is damaged \(its sha1 does not match\)"):
            open_mds(last)
        del hub.files["org/set"][path]
        with pytest.raises(DataError, match=r"^no such file: .*/shard\.00001\.mds, which index\.json lists"):
            hub_inputs("s", source("org/set"))
