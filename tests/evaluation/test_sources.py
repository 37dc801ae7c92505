"""Which examples a task reads, and which version of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from little_tasks import write_all

from mmbert.errors import DataError
from mmbert.evaluation import sources
from mmbert.evaluation.sources import TaskSource, fingerprint, open_source, pin
from mmbert.evaluation.stage import Stage, train_spec
from mmbert.evaluation.task import Task


def test_local_files_win(tmp_path: Path) -> None:
    data = write_all(tmp_path / "data")
    source = open_source(Task.load("sib200"), data=data, pins=tmp_path / "pins.json")
    assert source.revision == f"local-{fingerprint(data / 'sib200')}"
    assert source.languages("train") == ["eng_Latn", "swh_Latn"]
    assert source.languages("test") == ["eng_Latn", "fao_Latn", "swh_Latn"]
    assert source.read("fao_Latn").rows[0]["label"] == "sports"
    spec = source.spec("eng_Latn", "train")
    assert (spec.path, spec.language) == (str(data / "sib200" / "eng_Latn" / "train.jsonl"), "eng_Latn")


def test_a_changed_file_is_another_revision(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "data") / "sib200"
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    path = folder / "eng_Latn" / "test.jsonl"
    path.write_text(path.read_text() + path.read_text())
    assert fingerprint(folder) != before


def test_the_hub_is_read_at_its_commit(tmp_path: Path) -> None:
    task = Task.load("sib200")
    source = open_source(task, data=None, pins=tmp_path / "pins.json")
    assert source.revision == task.source.revision
    spec = source.spec("cmn_Hani", "test")
    assert (spec.hub, spec.config, spec.revision, spec.split) == (
        "mteb/sib200", "zho_Hans", task.source.revision, "test",
    )  # fmt: skip
    assert spec.columns == {"label": "category"}


def test_what_no_declaration_pins_is_pinned_at_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(sources, "_newest", lambda name: next(commits))
    pins = tmp_path / "results" / "pins.json"
    assert pin("facebook/xnli", pins) == "a" * 40
    assert pin("facebook/xnli", pins) == "a" * 40, "not asked again"
    assert pin("google/xquad", pins) == "b" * 40
    assert json.loads(pins.read_text()) == {"facebook/xnli": "a" * 40, "google/xquad": "b" * 40}
    source = open_source(Task.load("xnli"), data=None, pins=pins)
    assert source.spec("swh_Latn", "test").revision == "a" * 40


def test_languages_that_only_local_files_have(tmp_path: Path) -> None:
    source = TaskSource(Task.load("masakhaner"), "a" * 40)
    assert source.has("hau_Latn", "test")
    assert not source.has("amh_Ethi", "test")


def test_training_rows_of_several_languages_on_the_hub(tmp_path: Path) -> None:
    task = Task.load("udpos")
    stage = Stage(task, TaskSource(task, "a" * 40), ("arb_Arab", "eng_Latn"), {}, 1, None)
    spec = train_spec(stage)
    assert (spec.config, spec.languages, spec.language) == ("udpos.{language}", ("arb_Arab", "eng_Latn"), None)
    assert spec.spelled == {"arb_Arab": "Arabic", "eng_Latn": "English"}


def test_choices_that_the_hub_calls_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SuperGLUE's COPA calls its labels choice1 and choice2."""
    from mmbert.finetuning.examples import Examples

    rows = [{"question": "q", "choices": ["a", "b"], "label": "choice2", "place": "x:1"}]
    named = Examples(rows, {"label": ("choice1", "choice2")})
    monkeypatch.setattr(sources, "read_examples", lambda spec, split, fields: named)
    assert TaskSource(Task.load("copa"), "a" * 40).read("eng_Latn").rows[0]["label"] == 1


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of local data is given: set data=DIR, which holds jnli/"):
        open_source(Task.load("jnli"), data=None, pins=tmp_path / "pins.json")
    source = TaskSource(Task.load("mlqa"), "a" * 40)
    with pytest.raises(DataError, match=r"no part to train on: set protocol\.start"):
        source.spec("eng_Latn", "train")
