"""Students of a teacher: on labelled text, on text alone, in windows; what is kept, measured and refused."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_sets import NAMES, PLACES, classes, numbers, several, tags, write
from safetensors.torch import load_file, save_file

import mmbert
from mmbert.errors import ConfigError, DataError, WeightsError
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.teacher_config import task_of

Make = Callable[..., FinetuneRecipe]


@pytest.fixture(scope="module")
def teachers(heads: Path, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model of each task and problem, by the name of its little set."""
    root = tmp_path_factory.mktemp("teachers")
    for name, own in (
        ("classify", {"task": "classify"}),
        ("multi_label", {"task": "classify", "classify": {"problem": "multi_label"}}),
        ("regression", {"task": "classify", "classify": {"problem": "regression"}}),
        ("tag", {"task": "tag"}),
    ):
        recipe = FinetuneRecipe.model_validate({
            "name": name, "model": str(heads / "masks"), "data": {"path": str(sets / name)}, **own,
            "training": {"epochs": 8, "batch": 8, "learning_rate": 2e-2, "max_tokens": 48, "precision": "fp32",
                         "device": "cpu"},
        })  # fmt: skip
        mmbert.finetune(recipe, out=root / name)
    return root


def taught(recipe: Make, teachers: Path, name: str, data: dict[str, Any], **changes: Any) -> FinetuneRecipe:
    own = recipe(name, data__path=None, **{f"data__{role}": {"path": str(path)} for role, path in data.items()})
    options = {key.removeprefix("teacher__"): changes.pop(key) for key in list(changes) if key.startswith("teacher__")}
    teacher = {"model": str(teachers / name / "final"), "precision": "fp32", **options}
    defaults = {"training.epochs": 8, "training.learning_rate": 1e-2, "teacher": teacher}
    return own.changed({**defaults, **{key.replace("__", "."): value for key, value in changes.items()}})


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("label", "tags", "tokens")} for row in rows]


@pytest.mark.parametrize(("name", "make"), [("classify", classes), ("multi_label", several), ("regression", numbers)])
def test_a_student_of_text_alone_says_what_its_teacher_says(
    name: str, make: Callable[[], list[dict[str, Any]]], recipe: Make, teachers: Path, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", bare(make()))
    dev = write(tmp_path / "dev.jsonl", make()[:12])
    result = mmbert.finetune(taught(recipe, teachers, name, {"train": train, "dev": dev}), out=tmp_path / "run")
    assert result.metrics["dev"]["agreement"] > 0.9
    assert result.metrics["dev_teacher"].keys() == result.metrics["dev"].keys() - {"loss", "agreement"}
    student, teacher = (
        mmbert.Classifier.load(place, precision="fp32") for place in (result.folder, teachers / name / "final")
    )
    assert student.labels == teacher.labels
    # what is kept are the teacher's logits, in float16, or float32 for numbers
    with np.load(tmp_path / "run/teacher/train/000000.npz") as kept:
        wanted = teacher.logits([row["text"] for row in make()])
        assert kept["logits"].dtype == (np.float32 if name == "regression" else np.float16)
        np.testing.assert_allclose(kept["logits"], wanted, atol=5e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("classify", ("classify", "single_label")),
        ("multi_label", ("classify", "multi_label")),
        ("regression", ("classify", "regression")),
        ("tag", ("tag", None)),
    ],
)
def test_the_command_asks_the_teacher_for_task_and_problem(
    name: str, found: tuple[str, str | None], teachers: Path
) -> None:
    assert task_of(str(teachers / name / "final")) == found


def test_lines_of_text_teach_without_any_label(recipe: Make, teachers: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(row["text"] + "\n" for row in classes()))
    (tmp_path / "dev.txt").write_text("".join(row["text"] + "\n" for row in classes()[:9]))
    data = {"train": tmp_path / "train.txt", "dev": tmp_path / "dev.txt"}
    wanted = taught(recipe, teachers, "classify", data)
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    assert result.metrics["dev"].keys() == {"loss", "agreement"}
    assert result.chosen == result.metrics["dev"]["agreement"] > 0.9
    assert "dev_teacher" not in result.metrics
    with pytest.raises(ConfigError, match=r"training\.metric 'f2' is none of accuracy, .*agreement"):
        mmbert.finetune(wanted.changed({"training.metric": "f2"}), out=tmp_path / "other")


def test_words_have_the_logits_of_the_teachers_first_token(recipe: Make, teachers: Path, tmp_path: Path) -> None:
    """The words of a text without ``tokens`` are found, and signs stay words of their own."""
    rows = [{"text": " ".join(row["tokens"]).replace(" .", ".")} for row in tags()]
    dev = [{**row, "text": " ".join(row["tokens"])} for row in tags()[:12]]
    data = {"train": write(tmp_path / "train.jsonl", rows), "dev": write(tmp_path / "dev.jsonl", dev)}
    result = mmbert.finetune(taught(recipe, teachers, "tag", data), out=tmp_path / "run")
    assert result.metrics["dev"]["agreement"] > 0.9
    assert result.metrics["dev_teacher"].keys() == {"f1", "precision", "recall", "accuracy"}
    teacher = mmbert.Tagger.load(teachers / "tag/final", precision="fp32")
    assert mmbert.Tagger.load(result.folder).labels == teacher.labels == ["O", "B-LOC", "B-PER", "I-PER"]
    with np.load(tmp_path / "run/teacher/train/000000.npz") as kept:
        text = rows[0]["text"]
        words = re.findall(r"\w+|\.", text)
        assert kept["counts"][0] == len(words)
        found = teacher.tokens(text)
        first = [next(at for at, (start, end) in enumerate(found.spans) if start <= text.index(word) < end)
                 for word in words]  # fmt: skip
        said = np.exp(kept["logits"][: len(words)].astype(np.float64))
        np.testing.assert_allclose(said / said.sum(1, keepdims=True), found.probabilities[first], atol=5e-3)


def test_labels_and_the_teacher_together(
    recipe: Make, teachers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    rows = classes()
    mixed = [*bare(rows[:8]), {**rows[8], "label": -1}, {**rows[9], "label": None}, *rows[10:]]
    data = {"train": write(tmp_path / "train.jsonl", mixed), "dev": write(tmp_path / "dev.jsonl", rows)}
    own = {"classify__class_weights": "balanced", "classify__focal_gamma": 1.0, "training__micro_batch": 2}
    result = mmbert.finetune(taught(recipe, teachers, "classify", data, **own), out=tmp_path / "run")
    assert "train: 14 of 24 examples have a label; the others have the teacher alone" in caplog.text
    assert result.metrics["dev"]["accuracy"] > 0.9
    assert "| dev_teacher | accuracy |" in (result.folder / "README.md").read_text()
    # parts of speech in part: a sentence with tags, one without, one with some
    rows = tags()
    mixed = [
        rows[0],
        {"tokens": rows[1]["tokens"]},
        {**rows[2], "tags": ["B-PER", *[None] * (len(rows[2]["tags"]) - 1)]},
    ]
    mixed[2]["tags"] = ["B-PER", *["-100"] * (len(rows[2]["tags"]) - 1)]
    train = write(tmp_path / "tags.jsonl", [*mixed, *rows])
    wanted = taught(recipe, teachers, "tag", {"train": train, "dev": write(tmp_path / "tagged.jsonl", rows)})
    assert mmbert.finetune(wanted, out=tmp_path / "tags").metrics["dev"]["f1"] > 0.9


LONG = [f"{NAMES[i % 6]} was sad in {PLACES[i % 5]}. " * 12 + f"{NAMES[i % 6]} was happy" for i in range(8)]


def test_windows_have_labels_of_their_own(
    recipe: Make, teachers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    rows = [{"text": text, "label": "good", "start": len(text) - 5, "end": len(text)} for text in LONG]
    path = write(tmp_path / "rows.jsonl", rows)
    data = {"train": path, "dev": path}
    own = {"teacher__doc_stride": 8, "training__epochs": 20}
    both = taught(recipe, teachers, "classify", data, teacher__outside="bad", **own)
    result = mmbert.finetune(both, out=tmp_path / "both")
    found = re.search(r"train: 8 texts are read in (\d+) windows of at most 48 tokens", caplog.text)
    assert found is not None
    with np.load(tmp_path / "both/teacher/train/000000.npz") as kept:
        assert len(kept["logits"]) == int(found[1]) > 24
    # all windows but those with the last word are bad; so says the teacher, who reads each by itself
    assert result.metrics["dev"]["accuracy"] > 0.9
    assert result.metrics["dev_teacher"]["accuracy"] > 0.85


def test_windows_without_a_span_are_one_example(recipe: Make, teachers: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": text, "label": "bad"} for text in LONG] + classes()[:4])
    wanted = taught(recipe, teachers, "classify", {"train": path, "dev": path}, teacher__doc_stride=8)
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    # the last window of a long text says good, and the mean of all its windows bad
    assert result.metrics["dev_teacher"]["accuracy"] == 1.0


def test_what_does_not_fit_a_teacher_is_named(recipe: Make, teachers: Path, heads: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", classes())
    wrong = write(tmp_path / "wrong.jsonl", [*classes(2), {"text": "so", "label": "so-so"}])
    spans = write(tmp_path / "spans.jsonl", [{**classes()[0], "start": 5, "end": 500}])
    good = {"train": path, "dev": path}
    cases: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("classify", {"train": path, "dev": wrong}, {},
         r"wrong\.jsonl:3: label 'so-so' is none of the labels of the teacher .*\(bad, good\)"),
        ("classify", good, {"classify__labels": ["good", "bad"]},
         r"classify\.labels is good, bad, the labels of the teacher .* are bad, good, in this order"),
        ("classify", good, {"teacher__model": str(teachers / "tag/final")},
         r"is a ModernBertForTokenClassification, and classify learns from a \.\.\.ForSequence.*set task=tag"),
        ("classify", good, {"teacher__model": str(heads / "masks")}, r"ModernBertForMaskedLM, .*give a tuned model"),
        ("classify", good, {"teacher__model": str(teachers / "multi_label/final")},
         r"is multi_label with 2 labels, classify\.problem is single_label: set classify\.problem=multi_label"),
        ("classify", good, {"teacher__outside": "bad"}, r"teacher\.outside is a label of windows"),
        ("classify", good, {"teacher__outside": "ugly", "teacher__doc_stride": 4}, r"'ugly' is none of the teacher's"),
        ("classify", {"train": spans}, {"teacher__doc_stride": 4}, r"spans\.jsonl:1: start 5 and end 500 are no span"),
        ("tag", {"train": path}, {"teacher__doc_stride": 4}, r"teacher\.doc_stride has no effect on tag"),
        ("classify", good, {"teacher__model": str(tmp_path)}, r"no config\.json in"),
    ]  # fmt: skip
    for number, (name, data, changes, said) in enumerate(cases):
        with pytest.raises((ConfigError, DataError, WeightsError), match=said):
            mmbert.finetune(taught(recipe, teachers, name, data, **changes), out=tmp_path / f"run{number}")
    with pytest.raises(ConfigError, match=r"teacher: its logits are learnt in classify, tag, rerank, and task is"):
        recipe("answer").changed({"teacher": {"model": "x"}})


def test_a_teacher_that_is_not_a_number_names_the_text(recipe: Make, teachers: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", bare(classes()))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (teachers / "classify/final").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    state["classifier.weight"][0, 0] = 1e30
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    wanted = taught(recipe, teachers, "classify", {"train": path}, teacher__model=str(broken))
    with pytest.raises(WeightsError, match=r"rows\.jsonl:1: the teacher .*broken gives NaN or infinite .*'Amina was"):
        mmbert.finetune(wanted, out=tmp_path / "run")


def test_logits_are_computed_once_and_never_mixed(
    recipe: Make, teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbert.finetuning.teacher_cache.PART", 5)
    path = write(tmp_path / "rows.jsonl", bare(classes()))
    cache = tmp_path / "kept"
    wanted = taught(recipe, teachers, "classify", {"train": path}, teacher__cache=str(cache))
    mmbert.finetune(wanted, out=tmp_path / "first")
    parts = sorted((cache / "train").glob("*.npz"))
    assert len(parts) == 5
    whole = [dict(np.load(part)) for part in parts]
    parts[1].write_bytes(parts[1].read_bytes()[:-9])  # cut
    parts[3].unlink()
    computed = []
    from mmbert.finetuning.teacher_logits import TextClassifier

    inner = TextClassifier.stream_logits
    monkeypatch.setattr(
        TextClassifier,
        "stream_logits",
        lambda self, items, **more: computed.append(len(items)) or inner(self, items, **more),
    )
    mmbert.finetune(wanted, out=tmp_path / "second")
    assert computed == [5, 5]
    for part, before in zip(parts, whole, strict=True):
        np.testing.assert_allclose(np.load(part)["logits"], before["logits"], atol=1e-3)
    other = taught(recipe, teachers, "classify", {"train": write(tmp_path / "more.jsonl", bare(classes(30)))},
                   teacher__cache=str(cache))  # fmt: skip
    with pytest.raises(DataError, match=r"kept/train holds logits with another texts .*: delete that folder, or give"):
        mmbert.finetune(other, out=tmp_path / "third")
    config = json.loads((teachers / "classify/final/config.json").read_text())
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (teachers / "classify/final").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "config.json").write_text(json.dumps({**config, "note": 1}))
    with pytest.raises(DataError, match=r"kept/train holds logits with another teacher \(\w+, now \w+\)"):
        mmbert.finetune(wanted.changed({"teacher.model": str(changed)}), out=tmp_path / "fourth")
