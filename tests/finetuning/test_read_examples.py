"""Examples of every form are read alike, and what is wrong with them is named with its place and a fix."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from little_sets import answers, choices, classes, tags, write
from pyarrow import parquet

import mmbert
from mmbert import recipe_names
from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.finetuning.dry_run import task_reads
from mmbert.finetuning.examples import read_answers, read_examples, read_splits, split_off
from mmbert.finetuning.labels import Examples, Fields, label_names
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import Data, DataSpec
from mmbert.finetuning.task_rows import fields

RECIPES = recipe_names.RECIPES / "finetune"
FIELDS = Fields(("text", "label"), ("text_pair",))
ROWS = [{"text": 'She said: "no",\tthen left.', "label": "bad"}, {"text": "Τι κάνεις;", "label": "good"}]


def in_form(folder: Path, form: str) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    path = folder / f"train.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif form == "json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif form.startswith(("csv", "tsv")):
        text = io.StringIO()
        if form.startswith("csv"):
            writer = csv.DictWriter(text, ["text", "label"])
            writer.writeheader()
            writer.writerows(ROWS)
        else:
            text.write("text\tlabel\n" + "".join(f"{r['text'].replace(chr(9), ' ')}\t{r['label']}\n" for r in ROWS))
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if form.endswith("gz") else data)
    elif form.endswith("gz"):
        path.write_bytes(gzip.compress(lines))
    elif form.endswith("zst"):
        path.write_bytes(zstandard.compress(lines))
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "csv.gz", "tsv", "parquet"])
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    path = in_form(tmp_path, form)
    found = read_examples(DataSpec(path=str(path), language="ell_Grek"), "train", FIELDS).rows
    space = " " if form == "tsv" else "\t"
    assert [row["text"] for row in found] == [ROWS[0]["text"].replace("\t", space), ROWS[1]["text"]]
    assert {row["language"] for row in found} == {"ell_Grek"}
    assert found[0]["place"].startswith(f"{path}:")


def test_folders_of_languages(tmp_path: Path) -> None:
    for code in ("swh_Latn", "eng_Latn", "fao_Latn"):
        write(tmp_path / code / "validation.jsonl", [{"text": code, "label": 1}])
    every = read_examples(DataSpec(path=str(tmp_path)), "dev", FIELDS)
    assert every.languages == ["eng_Latn", "fao_Latn", "swh_Latn"]
    some = read_examples(DataSpec(path=str(tmp_path), languages=("sw", "fao")), "dev", FIELDS)
    assert [row["text"] for row in some.rows] == ["swh_Latn", "fao_Latn"]
    glob = read_examples(DataSpec(path=f"{tmp_path}/*/validation.jsonl", languages=("en",)), "dev", FIELDS)
    assert glob.languages == ["eng_Latn"]
    with pytest.raises(DataError, match="has no dev split in gom"):
        read_examples(DataSpec(path=str(tmp_path), languages=("gom",)), "dev", FIELDS)
    with pytest.raises(DataError, match="unknown script 'Latx'"):
        read_examples(DataSpec(path=str(tmp_path), languages=("eng_Latx",)), "dev", FIELDS)
    write(tmp_path / "klingonish" / "validation.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(DataError, match=r"klingonish of data\.dev is not named as a language"):
        read_examples(DataSpec(path=str(tmp_path)), "dev", FIELDS)


def test_columns_by_name_list_and_template(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"p": "It fell.", "kind": "cause", "a": {"x": "Wind."}, "b": "Rain.", "n": 1}])
    columns = {"question": "{p} What was the {kind}?", "choices": ("a.x", "b"), "label": "n"}
    spec = DataSpec(path=str(path), columns=columns)  # type: ignore[arg-type]
    (row,) = read_examples(spec, "train", Fields(("question", "choices", "label"))).rows
    assert row["question"] == "It fell. What was the cause?"
    assert (row["choices"], row["label"]) == (["Wind.", "Rain."], 1)


def test_own_names_serve_where_a_mapped_column_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": 1}])
    spec = DataSpec(path=str(path), columns={"label": "category"})
    assert read_examples(spec, "train", FIELDS).rows[0]["label"] == 1
    other = write(tmp_path / "b.jsonl", [{"label": 1}])
    with pytest.raises(DataError, match=r"b.jsonl:1: data.train.columns.text says 'body', which is not"):
        read_examples(DataSpec(path=str(other), columns={"text": "body"}), "train", FIELDS)


def test_the_hub_gives_names_of_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"]),
         "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"]))}
    )  # fmt: skip
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], [1]]}, features=features)
    (tmp_path / "set").mkdir()
    made.to_parquet(str(tmp_path / "set" / "train.parquet"))
    spec = DataSpec(hub=str(tmp_path / "set"), language="fao")
    found = read_examples(spec, "train", Fields(("text", "label", "tags")))
    assert [row["label"] for row in found.rows] == ["no", "yes"]
    assert found.rows[0]["tags"] == ["O", "B-X"]
    assert found.names == {"label": ("yes", "no"), "tags": ("O", "B-X")}
    assert label_names(["no", "yes"], found.names["label"]) == ("yes", "no")
    with pytest.raises(DataError, match=r"from the hub: .*check data\.dev\.hub"):
        read_examples(spec, "dev", FIELDS)


def test_a_configuration_may_spell_a_language_by_its_name(tmp_path: Path) -> None:
    configs = "".join(
        f"- config_name: udpos.{name}\n  data_files: [{{split: train, path: {name}.jsonl}}]\n"
        for name in ("Arabic", "Greek")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in ("Arabic", "Greek"):
        write(tmp_path / f"{name}.jsonl", [{"text": name, "label": "a"}])
    spelled = {"arb_Arab": "Arabic", "ell_Grek": "Greek"}
    spec = DataSpec(hub=str(tmp_path), config="udpos.{language}", languages=("ell_Grek", "arb_Arab"), spelled=spelled)
    found = read_examples(spec, "train", FIELDS)
    assert [(row["text"], row["language"]) for row in found.rows] == [("Greek", "ell_Grek"), ("Arabic", "arb_Arab")]


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answers": {"text": ["b", "c"], "answer_start": [1, 2]}}, [("b", 1), ("c", 2)]),
        ({"answers": [{"text": "b", "answer_start": 1}, {"text": "c", "answer_start": 2}]}, [("b", 1), ("c", 2)]),
        ({"answers": {"text": "b", "answer_start": 1}}, [("b", 1)]),
        ({"answers": {"text": ["b"]}}, [("b", None)]),
        ({"answers": ["b", "c"]}, [("b", None), ("c", None)]),
        ({"answers": "b"}, [("b", None)]),
        ({"answer": "b", "answer_start": "1"}, [("b", "1")]),
        ({"answers": {"text": [], "answer_start": []}}, []),
        ({}, []),
    ],
)
def test_forms_of_answers(row: dict[str, Any], answers: list[tuple[str, Any]]) -> None:
    assert read_answers({"place": "x:1", **row}) == answers


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": ["b"], "answer_start": [1, 2]}, "x:1: answers needs lists text and answer_start of one length"),
        ({"start": 1}, "x:1: answers needs lists text"),
        ([{"answer_start": 1}], "x:1: an answer is NoneType, not text"),
        (3, "x:1: answers is int"),
    ],
)
def test_answers_of_no_form(answers: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_answers({"place": "x:1", "answers": answers})


def test_names_of_labels_have_an_order() -> None:
    assert label_names(["b", "a", "b"]) == ("a", "b")
    assert label_names(["10", "9", "-1"]) == ("-1", "9", "10")
    assert label_names(["b", "a"], (), ("b", "a")) == ("b", "a")


def test_a_part_of_train_serves_as_dev(tmp_path: Path) -> None:
    spec = DataSpec(path=str(write(tmp_path / "a.jsonl", classes(20))))
    every = read_examples(spec, "train", FIELDS)
    kept, taken = split_off(every, 0.25, 1)
    assert (len(kept), len(taken)) == (15, 5)
    assert {row["place"] for row in (*kept.rows, *taken.rows)} == {row["place"] for row in every.rows}
    assert split_off(every, 0.25, 1)[1] == taken
    assert len(split_off(every, 0.001, 1)[1]) == 1  # 5 %


@pytest.mark.parametrize(
    ("rows", "share", "dev"),
    [
        (200, 0.0008, 10),
        (2000, 0.0008, 100),
        (1_251_000, 0.0008, 1001),
        (5000, 0.1, 500),
        (10_000, 0.001, 100),
        (2, 0.1, 1),
    ],
)
def test_a_share_is_at_least_100_rows_or_5_percent(
    rows: int, share: float, dev: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    kept, taken = split_off(Examples([{"n": number} for number in range(rows)]), share, 0)
    assert (len(kept), len(taken)) == (rows - dev, dev)
    assert bool(caplog.messages) == (dev != round(rows * share))


def test_a_share_leaves_something_to_train_on() -> None:
    for rows, share in ((1, 0.1), (10, 1.0)):
        with pytest.raises(ConfigError, match=r"leaves none to train on: lower it, or give data\.dev\.path=FILE"):
            split_off(Examples([{}] * rows), share, 0)


def test_a_sample_of_all_rows_by_a_seed(tmp_path: Path) -> None:
    import datasets

    rows = [{"text": f"t{number}", "label": number % 2} for number in range(2000)]
    path = write(tmp_path / "set" / "train.jsonl", rows)
    split = datasets.Dataset.from_list(rows).train_test_split(test_size=100, seed=12)
    theirs = [row["text"] for part in ("test", "train") for row in split[part]]
    for where in ({"path": str(path)}, {"hub": str(tmp_path / "set")}):
        found = read_examples(DataSpec(**where, limit=900, shuffle_seed=12), "train", FIELDS)  # type: ignore[arg-type]
        assert [row["text"] for row in found.rows] == theirs[:900]
        assert found.rows[0]["place"].endswith(f":{int(theirs[0][1:]) + 1}")
        assert max(int(row["text"][1:]) for row in found.rows) > 1990, "rows near the end are reached"
        kept, taken = split_off(found, 100 / 900, 3)
        assert {row["text"] for row in taken.rows} == set(theirs[:100]), "dev as train_test_split makes it"
        assert {row["text"] for row in kept.rows} == set(theirs[100:900])
    other = read_examples(DataSpec(path=str(path), limit=900, shuffle_seed=13), "train", FIELDS)
    assert {row["text"] for row in other.rows} != set(theirs[:900])
    first = read_examples(DataSpec(path=str(path), limit=900), "train", FIELDS)
    assert [row["text"] for row in first.rows] == [f"t{number}" for number in range(900)]


def split_labels(folder: Path, train: list[Any], dev: list[Any] | None = None, **options: Any) -> dict[str, list[Any]]:
    """The labels that a run would train on and judge by."""
    data: dict[str, Any] = {}
    for role, values in (("train", train), ("dev", dev)):
        if values is not None:
            path = write(folder / f"{role}.jsonl", [{"text": "a", "label": value} for value in values])
            data[role] = {"path": str(path)}
    task = {"classify": options} if options else {}
    no_label = task.get("classify", {}).pop("no_label", None)
    recipe = FinetuneRecipe.model_validate(
        {"name": "n", "task": "classify", "model": "m", "data": {**data, "no_label": no_label}, **task}
    )
    found = read_splits(recipe, fields(recipe.classify), recipe.classify.labels)
    return {role: [row["label"] for row in examples.rows] for role, examples in found.items()}


@pytest.mark.parametrize("no_label", [-1, "-1", -1.0, "-1.0"])
@pytest.mark.parametrize("labels", [[0, 1, 2], ["0", "1", "2"], ["neutral", "entailment"], [0.0, 1.0, 2.0, 3.0]])
def test_minus_one_is_no_class(
    no_label: Any, labels: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    found = split_labels(tmp_path, [*labels, no_label, *labels], [labels[0], no_label, no_label])
    assert found == {"train": [*labels, *labels], "dev": labels[:1]}
    total = 2 * len(labels) + 1
    assert f"train: 1 of {total} rows have no gold label (label is -1) and are left out" in caplog.text
    assert "dev: 2 of 3 rows have no gold label" in caplog.text


def test_minus_one_may_be_a_class(tmp_path: Path) -> None:
    for labels in ([-1, 1], ["-1", "1"], [-2, -1, 0, 1, 2]):
        assert split_labels(tmp_path, labels)["train"] == labels
    for labels in ([-1, 0, 1], [-1, 1, 2, 3], ["-1", "0", "1"]):
        with pytest.raises(DataError, match=r"1 of \d labels \(label\) are -1, .*data\.no_label=\[-1\]"):
            split_labels(tmp_path, labels)
        assert split_labels(tmp_path, labels, no_label=[])["train"] == labels
        assert split_labels(tmp_path, labels, no_label=[-1])["train"] == labels[1:]
        assert split_labels(tmp_path, labels, labels=[str(each) for each in labels])["train"] == labels
        assert split_labels(tmp_path, labels, labels=[str(each) for each in labels[1:]])["train"] == labels[1:]
    assert split_labels(tmp_path, ["a", "-", "b"])["train"] == ["a", "b"]  # as SNLI's own files have it
    assert split_labels(tmp_path, ["+", "-", "0"])["train"] == ["+", "-", "0"]
    assert split_labels(tmp_path, ["a", "?", "b"], no_label=["?"])["train"] == ["a", "b"]


def test_numbers_without_a_gold_one(tmp_path: Path) -> None:
    scale = {"problem": "regression"}
    assert split_labels(tmp_path, [-1, -0.5, 0.5], [-1.0], **scale)["dev"] == [-1.0]
    assert split_labels(tmp_path, [0.5, 4.0], [-1, 3], **scale)["dev"] == [3]
    with pytest.raises(DataError, match="are -1, which may mean"):
        split_labels(tmp_path, [-1, 0.5, 4.0], **scale)


def test_a_split_without_any_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev: 2 of 2 rows .* none is left: .*data\.dev=null"):
        split_labels(tmp_path, [0, 1], [-1, -1])
    with pytest.raises(DataError, match=r"train: 2 of 2 rows have no gold label"):
        split_labels(tmp_path, [-1, -1])
    for hole in ("", " ", float("nan"), None):
        with pytest.raises(DataError, match=r"train\.jsonl:2: .*is empty"):
            split_labels(tmp_path, [0, hole, 1])


def test_words_without_a_tag_are_not_learnt(
    recipe: Callable[..., FinetuneRecipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    rows = with_row(tags(), 2, tags=[-100, "I-PER", *["O"] * 6])
    rows = with_row(rows, 5, tags=["-1"] * 5 + ["O"] * (len(rows[4]["tags"]) - 5))
    rows = with_row(rows, 7, tags=[-100] * len(rows[6]["tags"]))
    path = str(write(tmp_path / "rows.jsonl", rows))
    wanted = recipe("tag", data__train={"path": path}, data__dev={"path": path}, training__max_steps=1)
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    labels = json.loads((result.folder / "config.json").read_text())["id2label"].values()
    assert set(labels) == {"O", "B-PER", "I-PER", "B-LOC"}
    assert "train: 1 of 24 sentences have no gold tag (-1 or -100) and are left out" in caplog.text


def test_a_folder_for_all_wins_over_the_hub() -> None:
    data = Data(path="here", train=DataSpec(hub="a/b"), dev=DataSpec(path="there"), languages=("fao",))
    assert data.split("train") == DataSpec(path="here", hub="a/b", languages=("fao",))
    assert data.split("dev") == DataSpec(path="there", languages=("fao",))
    assert data.split("test") is None


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def with_row(rows: list[dict[str, Any]], number: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**row, **changes} if index == number - 1 else row for index, row in enumerate(rows)]


def without(rows: list[dict[str, Any]], number: int, name: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if index != number - 1 or k != name} for index, row in enumerate(rows)]


BAD = {
    "missing column": ("classify", without(classes(), 3, "label"), r":3: no column for 'label'.*columns.label=COLUMN"),
    "unknown label": ("classify", with_row(classes(), 5, label="fine"), r":5: label 'fine' is none of .*fy.labels"),
    "empty text": ("classify", with_row(classes(), 2, text=" "), r":2: column 'text' is empty .*: fix or remove"),
    "no text": ("classify", with_row(classes(), 2, text=7), r":2: text is int, not text"),
    "empty split": ("classify", [], r" holds no example"),
    "not a number": ("regression", with_row(classes(), 1, label="much"), r":1: label 'much' is not a number"),
    "fewer tags": ("tag", with_row(tags(), 4, tags=["O"]), r":4: .* tokens and 1 tags"),
    "unknown tag": ("tag", with_row(tags(), 1, tags=["B-ORG", *["O"] * 4]), r":1: tag 'B-ORG' is none .*tag.labels"),
    "tags as text": ("tag", with_row(tags(), 2, tags=3), r":2: tags is int, not a list"),
    "answer elsewhere": (
        "answer", with_row(answers(), 6, answers={"text": ["rains"], "answer_start": [1]}),
        r":6: answer 0 'rains' is not at answer_start 1 .*(it stands at|nowhere)",
    ),
    "no answer": ("answer", with_row(answers(), 2, answers={"text": [], "answer_start": []}), r":2: no answer: "),
    "one choice": ("choose", with_row(choices(), 2, choices=["a"]), r":2: choices is not a list of at least two"),
    "answer at 1.5": (
        "answer", with_row(answers(), 6, answers={"text": ["rains"], "answer_start": [1.5]}),
        r":6: answer_start is 1.5, not a number",
    ),
    "half a label": ("choose", with_row(choices(), 3, label=0.5), r":3: label 0.5 names none of 2 choices"),
    "label beyond": ("choose", with_row(choices(), 3, label=7), r":3: label 7 names none of 2 choices numbered from 0"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BAD))
def test_faults_are_named(fault: str, recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    name, rows, said = BAD[fault]
    path = write(tmp_path / "dev.jsonl", rows)
    with pytest.raises(DataError, match=rf"dev\.jsonl{said}"):
        mmbert.finetune(recipe(name, data__dev={"path": str(path)}), out=tmp_path / "run")


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    cases = {
        "a.jsonl": ('{"text": "a", "label": 1}\n{"text":', r"a.jsonl:2: not JSON"),
        "b.jsonl": ("[1]\n", r"b.jsonl:1: 1 is not a JSON object"),
        "c.csv": ("text,label\na,1,2\n", r"c.csv:2: more values than the 2 columns"),
        "d.tsv": ("text\tlabel\na\n", r"d.tsv:2: fewer values"),
        "e.json": ("[{]", "e.json is not a JSON list"),
        "f.parquet": ("no", "f.parquet is corrupt or no Parquet"),
        "g.jsonl.gz": ("\x1f", "g.jsonl.gz is cut short"),
        "h.txt": ("no", r"h.txt:1: no column for 'label' \(there are: text\)"),
        "h.docx": ("no", "h.docx: not a form that is read"),
    }
    for name, (text, said) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=said):
            read_examples(DataSpec(path=str(tmp_path / name)), "train", FIELDS)
    (tmp_path / "i.jsonl").write_bytes(b'{"text": "\xff", "label": 1}')
    with pytest.raises(DataError, match=r"i\.jsonl:1: not UTF-8 at byte 11"):
        read_examples(DataSpec(path=str(tmp_path / "i.jsonl")), "train", FIELDS)
    for spec in (DataSpec(path=str(tmp_path / "none")), DataSpec(path=str(tmp_path))):
        with pytest.raises(MMBertError, match=r"data\.test\.path"):
            read_examples(spec, "test", FIELDS)
    wrong = write(tmp_path / "j.jsonl", [{"text": "a", "label": 1, "lang": "engl"}])
    with pytest.raises(DataError, match=r"j.jsonl:1, column 'lang': .*engl"):
        read_examples(DataSpec(path=str(wrong), language_column="lang"), "train", FIELDS)


def test_numbers_of_choices_and_places_written_as_floats(tmp_path: Path) -> None:
    from mmbert.finetuning.task_rows import _start
    from mmbert.finetuning.task_rows import right_choice as _label

    assert [_label({"label": label, "place": "a:1"}, 3, 1, ()) for label in (2, 2.0, "2", "2.0")] == [1] * 4
    assert [_start({"place": "a:1"}, start) for start in (12, 12.0, "12", "12.0")] == [12] * 4


GOOD_AND_BAD: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "classify": (
        {"text": "a b", "label": "x"},
        [{"text": 5, "label": "x"}, {"text": "c", "label": ["x"]}, {"text": " ", "label": "x"}],
    ),
    "regression": ({"text": "a", "text_pair": "b", "label": 0.5}, [{"text": "a", "text_pair": "b", "label": "much"}]),
    "ner": (
        {"tokens": ["a", "b"], "tags": ["O", "B-X"]},
        [{"tokens": ["a"], "tags": ["O", "O"]}, {"tokens": ["a", 3], "tags": ["O", "O"]},
         {"tokens": ["a"], "tags": ["O"], "text": 4}],
    ),
    "qa": (
        {"question": "q?", "context": "the cat", "answers": {"text": ["cat"], "answer_start": [4]}},
        [{"question": "q?", "context": "the cat", "answers": {"text": ["dog"], "answer_start": [4]}}],
    ),
    "choice": (
        {"question": "q", "choices": ["a", "b"], "label": 1},
        [{"question": "q", "choices": ["a"], "label": 1}, {"question": 1, "choices": ["a", "b"], "label": 1}],
    ),
    "embed": ({"query": "q", "positive": "p"}, [{"query": 5, "positive": "p"}, {"query": "q"}]),
}  # fmt: skip
"""Recipe -> a row that its task can use, and rows that it cannot, each by itself."""


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_rows_that_a_task_cannot_use_are_passed_over_on_request(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = GOOD_AND_BAD[name]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [good] * 5 + bad + [good] * 5))
    changes = ["data.columns={}", "data.dev=null", "data.dev_share=0", "training.patience=null"]
    skip = [f"data.train.path={path}", "data.train.skip_bad_rows=true"]
    recipe = FinetuneRecipe.load(RECIPES / f"{name}.yaml", [*skip, *changes])
    examples = read_splits(recipe, task_reads(recipe))["train"]
    assert len(examples) == 10
    assert f"data.train: {len(bad)} bad rows of {10 + len(bad)} passed over" in caplog.text
