"""Which examples a task reads, and which version of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_tasks import write_all

from mmbert.errors import DataError
from mmbert.evaluation import sources
from mmbert.evaluation.sources import Row, TaskSource, fingerprint, open_source, pin
from mmbert.evaluation.task import Task
from mmbert.evaluation.task_metrics import check, score
from mmbert.evaluation.tuning_chain import TuningStep, train_spec
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.recipe_heads import AnswerOptions
from mmbert.finetuning.task_rows import ANSWER_FIELDS, question_of

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"


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
    monkeypatch.setattr(sources, "find_commit", lambda name, branch: next(commits))
    pins = tmp_path / "results" / "pins.json"
    assert pin("google/xquad", pins) == "a" * 40
    assert pin("google/xquad", pins) == "a" * 40, "not asked again"
    ner = open_source(Task.load("masakhaner"), data=None, pins=pins)
    branch = "masakhane/masakhaner2@refs/convert/parquet"
    assert json.loads(pins.read_text()) == {"google/xquad": "a" * 40, branch: "b" * 40}
    source = open_source(Task.load("xquad"), data=None, pins=pins)
    assert source.spec("tha_Thai", "test").revision == "a" * 40
    assert (ner.revision, ner.spec("swh_Latn", "test").files) == ("b" * 40, "swa/{split}/*.parquet")


def test_languages_that_only_local_files_have(tmp_path: Path) -> None:
    source = TaskSource(Task.load("masakhaner"), "a" * 40)
    assert source.has("hau_Latn", "test")
    assert not source.has("amh_Ethi", "test")


def test_languages_without_a_part_to_train_on(tmp_path: Path) -> None:
    source = TaskSource(Task.load("afrisenti"), "a" * 40)
    assert set(source.languages("test")) - set(source.languages("train")) == {"tir_Ethi", "gaz_Latn"}


def test_training_rows_of_several_languages_on_the_hub(tmp_path: Path) -> None:
    task = Task.load("udpos")
    stage = TuningStep(task, TaskSource(task, "a" * 40), ("arb_Arab", "eng_Latn"), {}, 1, None)
    spec = train_spec(stage)
    assert (spec.config, spec.languages, spec.language) == ("udpos.{language}", ("arb_Arab", "eng_Latn"), None)
    assert spec.spelled == {"arb_Arab": "Arabic", "eng_Latn": "English"}
    copied = Task.load("tydiqa")
    stage = TuningStep(copied, TaskSource(copied, "a" * 40), ("fin_Latn", "eng_Latn"), {}, 1, None)
    assert train_spec(stage).files == "{language}/{split}/*.parquet"


def test_choices_that_the_hub_calls_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SuperGLUE's COPA calls its labels choice1 and choice2."""
    from mmbert.finetuning.labels import Examples

    rows = [{"question": "q", "choices": ["a", "b"], "label": "choice2", "place": "x:1"}]
    named = Examples(rows, {"label": ("choice1", "choice2")})
    monkeypatch.setattr(sources, "read_examples", lambda spec, split, fields: named)
    assert TaskSource(Task.load("copa"), "a" * 40).read("eng_Latn").rows[0]["label"] == 1


def rows_of(task: Task, folder: Path, language: str, rows: list[dict[str, Any]], file: str) -> list[Row]:
    """A task's rows out of a Parquet file of the declared place and columns, as the hub has it."""
    datasets = pytest.importorskip("datasets")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    at = task.model_copy(update={"source": task.source.model_copy(update={"hub": str(folder), "revision": None})})
    found = open_source(at, data=None, pins=folder / "pins.json").read(language).rows
    check(at, found)
    return found


def test_answers_as_a_list_of_maps(tmp_path: Path) -> None:
    """TiQuAD's Parquet: a list of maps, of which SQuAD has a map of lists."""
    answers = [{"answer_start": 3, "text": "80’ታት"}, {"answer_start": 0, "text": "ኣብ 80’ታት"}]
    row = {"id": "1", "title": "t", "context": "ኣብ 80’ታት ነበረ", "question": "መዓስ?", "answers": answers}
    task = Task.load("tiquad")
    found = rows_of(task, tmp_path, "tir_Ethi", [row], "validation.parquet")
    scores = score(task, "tir_Ethi", ["80 ታት"], found)
    assert scores == {"f1": 1.0, "exact": 1.0, "f1_squad": 0.0, "exact_squad": 0.0}
    examples = read_examples(DataSpec(hub=str(tmp_path)), "dev", ANSWER_FIELDS)
    assert question_of(examples.rows[0], AnswerOptions()).answers == [("80’ታት", 3), ("ኣብ 80’ታት", 0)]


def test_the_hubs_copy_of_a_script(tmp_path: Path) -> None:
    """TyDiQA and MasakhaNER 2 as the hub's converter leaves them."""
    answers = {"text": ["Accra"], "answer_start": [12]}
    row = {"id": "1", "context": "She lives in Accra", "question": "Where?", "answers": answers}
    assert (
        rows_of(Task.load("tydiqa"), tmp_path / "qa", "swh_Latn", [row], "sw/test/0000.parquet")[0]["answers"]
        == answers
    )
    tagged = {"id": "1", "tokens": ["Ana", "saw"], "ner_tags": ["B-PER", "O"]}
    found = rows_of(Task.load("masakhaner"), tmp_path / "ner", "swh_Latn", [tagged], "swa/test/0000.parquet")
    assert found[0]["tags"] == ["B-PER", "O"]


def test_choices_numbered_as_text(tmp_path: Path) -> None:
    """lighteval/siqa writes the place of the right choice as text, from 1."""
    row = {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d", "label": "3"}
    found = rows_of(Task.load("siqa"), tmp_path, "eng_Latn", [row], "validation.parquet")
    assert (found[0]["question"], found[0]["choices"]) == ("c q", ["a", "b", "d"])
    assert score(Task.load("siqa"), "eng_Latn", [2], found) == {"accuracy": 1.0}


def test_mlqa_is_scored_by_both_scripts(tmp_path: Path) -> None:
    row = {"context": "北京市", "question": "?", "answers": {"text": ["北京"], "answer_start": [0]}, "place": "x:1"}
    scores = score(Task.load("mlqa"), "cmn_Hani", ["北京市"], [row])
    assert (scores["f1"], scores["f1_squad"]) == (pytest.approx(0.8), 0.0)


def test_a_script_says_what_a_local_folder_holds(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "masakhapos"
    folder.mkdir()
    (folder / "masakhapos.py").write_text("raise SystemExit")
    task = Task.load("masakhapos")
    task = task.model_copy(update={"source": task.source.model_copy(update={"hub": str(folder)})})
    with pytest.raises(DataError) as caught:
        open_source(task, data=None, pins=tmp_path / "pins.json").read("ewe_Latn")
    assert "it is there as a script (masakhapos.py), which is not run" in str(caught.value)
    assert (
        "or set data=DIR, with masakhapos/<language>/{train,test}.jsonl.gz (tokens, upos) of "
        "https://github.com/masakhane-io/masakhane-pos"
    ) in str(caught.value)


def test_local_files_are_named_where_they_would_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    said = {}
    for name in ("xquad", "mnli"):
        with pytest.raises(DataError, match="cannot ask the hub for the commit of ") as caught:
            open_source(Task.load(name), data=None, pins=tmp_path / "pins.json")
        said[name] = str(caught.value)
    assert "or set data=DIR, with xquad/<language>/{train,test}.jsonl.gz (question, context, answers)" in said["xquad"]
    assert said["mnli"].endswith("(check the network)"), "no local folder of it is read"


REAL = {
    "afriqa": 8, "afriqa_pivot": 8, "afrisenti": 7, "jcommonsenseqa": 1, "jnli": 1, "jsquad": 1, "jsts": 1,
    "masakhaner": 8, "masakhapos": 6, "sib200": 42, "tatoeba": 42, "udpos": 6, "xcopa": 10, "xquad": 11,
}  # fmt: skip
"""Languages of the real files that have a part to test on."""

LABELS = {
    "afrisenti": {"positive", "negative", "neutral"},
    "jnli": {"entailment", "contradiction", "neutral"},
    "masakhaner": {"O", *(f"{place}-{kind}" for place in "BI" for kind in ("PER", "ORG", "LOC", "DATE"))},
    "masakhapos": {*UPOS.split()},
    "udpos": {*UPOS.split(), "_"},
    "sib200": {"science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"},
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_declared(name: str, test_data: Path, tmp_path: Path) -> None:
    task = Task.load(name)
    source = open_source(task, data=test_data / "eval", pins=tmp_path / "pins.json")
    languages = source.languages("test")
    assert len(languages) == REAL[name]
    for language in languages[:8]:
        rows = source.read(language).rows
        check(task, rows)
        field = {"tag": "tags", "classify": "label"}.get(task.kind)
        if name in LABELS:
            assert {label for row in rows for label in np.atleast_1d(row[field]).tolist()} <= LABELS[name]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no folder .* set data=DIR, with jnli/<language>/{train,test}\.jsonl\.gz \(sentence1",
    ):
        open_source(Task.load("jnli"), data=None, pins=tmp_path / "pins.json")
    source = TaskSource(Task.load("mlqa"), "a" * 40)
    with pytest.raises(DataError, match=r"no part to train on: set protocol\.start"):
        source.spec("eng_Latn", "train")
