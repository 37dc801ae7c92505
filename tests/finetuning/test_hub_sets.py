"""Data sets of the hub as ``datasets`` reads them, from a little hub: data, scripts, gated ones, none at all."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from little_hub import CONVERTED, Hub, little_hub
from mmbert.errors import DataError
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.labels import Fields
from mmbert.finetuning.recipe_data import DataSpec

FIELDS = Fields(("text", "label"))

COPY = {"revision": "refs/convert/parquet", "files": "{language}/{split}/*.parquet"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with little_hub(monkeypatch) as little:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", little.address)
        yield little


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(texts: list[str], labels: list[int]) -> bytes:
    """As the hub's converter writes it: the names of classes are in the file."""
    import datasets

    names = datasets.ClassLabel(names=["good", "bad"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    buffer = io.BytesIO()
    datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features).to_parquet(buffer)
    return buffer.getvalue()


def said(spec: DataSpec, role: str = "test") -> str:
    with pytest.raises(DataError) as caught:
        read_examples(spec, role, FIELDS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_configuration_is_read_at_a_commit(hub: Hub) -> None:
    card = b"---\nconfigs:\n- config_name: swa\n  data_files: [{split: test, path: swa.jsonl}]\n---\n"
    hub.files["me/data"] = {"README.md": card, "swa.jsonl": lines({"text": "a", "label": "x"})}
    found = read_examples(DataSpec(hub="me/data", config="swa"), "test", FIELDS)
    assert found.rows[0]["text"] == "a"
    assert "there is no" not in said(DataSpec(hub="me/data", config="swa"), "dev")
    assert 'Unknown split "validation"' in said(DataSpec(hub="me/data", config="swa"), "dev")
    unknown = said(DataSpec(hub="me/data", config="swh"))
    assert "'swh' not found. Available: ['swa']" in unknown
    assert "data.test.hub, .config and .split" in unknown
    assert "no revision v2" in said(DataSpec(hub="me/data", config="swa", revision="v2"))


def test_a_script_is_not_run(hub: Hub, tmp_path: Path) -> None:
    """A script on the hub, and in a folder: one line with what to read instead."""
    script = b"raise SystemExit('this was run')"
    hub.files["me/masakhapos"] = {"README.md": b"", "masakhapos.py": script}
    (tmp_path / "masakhapos").mkdir()
    (tmp_path / "masakhapos" / "masakhapos.py").write_bytes(script)
    for name in ("me/masakhapos", str(tmp_path / "masakhapos")):
        message = said(DataSpec(hub=name, config="ewe"))
        assert message.startswith(
            f"cannot read {name} (ewe) test from the hub: it is there as a script (masakhapos.py)"
        )
        assert "data.test.revision=refs/convert/parquet and data.test.files=" in message
        assert "set data.test.path to local files" in message


def test_the_hubs_own_copy_of_a_script(hub: Hub) -> None:
    hub.files["me/ner"] = {"README.md": b"", "ner.py": b"raise SystemExit"}
    hub.converted["me/ner"] = {
        ".gitattributes": b"",
        "swa/test/0000.parquet": parquet(["a"], [1]),
        "swa/test/0001.parquet": parquet(["b"], [0]),
        "swa/translate_test/0000.parquet": parquet(["z"], [0]),
        "hau/test/0000.parquet": parquet(["c"], [1]),
    }
    spec = DataSpec(
        hub="me/ner", languages=("swh_Latn", "hau_Latn"), spelled={"swh_Latn": "swa", "hau_Latn": "hau"}, **COPY
    )
    found = read_examples(spec, "test", FIELDS)
    assert [(row["text"], row["label"], row["language"]) for row in found.rows] == [
        ("a", "bad", "swh_Latn"), ("b", "good", "swh_Latn"), ("c", "bad", "hau_Latn"),
    ]  # fmt: skip
    assert found.names == {"label": ("good", "bad")}
    by_commit = spec.model_copy(update={"revision": CONVERTED})
    assert len(read_examples(by_commit, "test", FIELDS)) == 3
    assert "no Parquet file matches swa/train/*.parquet" in said(spec, "train")
    hub.close()
    assert len(read_examples(by_commit, "test", FIELDS)) == 3, "what was fetched is there without the hub too"


def test_a_place_for_a_language_needs_one(hub: Hub) -> None:
    assert "data.test reads {language}/{split}/*.parquet of me/ner, and no language is named" in said(
        DataSpec(hub="me/ner", **COPY)
    )


def test_the_same_layout_in_a_folder(tmp_path: Path) -> None:
    """So a clone of the hub's branch serves as well."""
    pytest.importorskip("datasets")
    path = tmp_path / "copy" / "swa" / "test" / "0000.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(parquet(["a"], [1]))
    spec = DataSpec(hub=str(tmp_path / "copy"), files="swa/{split}/*.parquet")
    assert read_examples(spec, "test", FIELDS).rows[0]["label"] == "bad"


def test_gated_and_missing_sets(hub: Hub) -> None:
    hub.files["me/gated"] = {"README.md": b"", "test.jsonl": lines({"text": "a", "label": "x"})}
    hub.gated.add("me/gated")
    assert "accept its conditions on its page, then `hf auth login`" in said(DataSpec(hub="me/gated"))
    assert "has no data set me/none, or it is private: check the name" in said(DataSpec(hub="me/none"))
    assert "no name of a data set on the hub" in said(DataSpec(hub="me/no/ne"))


def test_damaged_files_name_the_fault(hub: Hub) -> None:
    hub.files["me/broken"] = {"README.md": b"", "test.jsonl": b'{"text": "a", "label": \n'}
    message = said(DataSpec(hub="me/broken"))
    assert message.startswith("cannot read me/broken test from the hub: ")
    assert "An error occurred while generating" not in message


def test_without_a_network_one_line_at_once(hub: Hub) -> None:
    card = b"---\nconfigs:\n- config_name: swa\n  data_files: [{split: test, path: swa.jsonl}]\n---\n"
    hub.files["me/data"] = {"README.md": card, "swa.jsonl": lines({"text": "a", "label": "x"})}
    known = DataSpec(hub="me/data", config="swa", revision="0123456789abcdef0123456789abcdef01234567")
    assert len(read_examples(known, "test", FIELDS)) == 1
    hub.close()
    started = time.monotonic()
    for spec in (
        DataSpec(hub="me/other"),
        DataSpec(hub="me/other", revision="a" * 40),
        DataSpec(hub="me/other", languages=("swa",), **COPY),
        DataSpec(hub="me/other", files="swa/{split}/*.parquet", revision="a" * 40),
    ):
        message = said(spec)
        assert "it cannot be reached (" in message
        assert "there is no copy in the cache (check the network, or set data.test.path to local files)" in message
    assert len(read_examples(known, "test", FIELDS)) == 1, "what was fetched is there without the hub too"
    assert "the copy in the cache is not commit aaaa" in said(known.model_copy(update={"revision": "a" * 40}))
    assert time.monotonic() - started < 12, "nothing is tried again: five times take 23 s"
