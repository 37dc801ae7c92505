"""Figures of each language stand beside the number of its examples, and few examples give no result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from little_sets import answers, choices, classes, tags, write

import mmbert
from mmbert.finetuning.figures import summarise
from mmbert.finetuning.recipe import FinetuneRecipe

SETS = {"classify": classes, "tag": tags, "answer": answers, "choose": choices}


@pytest.mark.parametrize("task", list(SETS))
def test_languages_are_measured_apart(task: str, recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    counts = {"eng_Latn": 31, "swh_Latn": 8}
    for code, count in counts.items():
        write(tmp_path / "data" / code / "train.jsonl", SETS[task](count))
        write(tmp_path / "data" / code / "dev.jsonl", SETS[task](count))
    result = mmbert.finetune(recipe(task, data__path=str(tmp_path / "data")), out=tmp_path / "run")
    found = result.metrics["dev"]
    metric = {"tag": "f1", "answer": "f1"}.get(task, "accuracy")
    assert {name: value for name, value in found.items() if name.endswith("_examples")} == {
        f"{code}_examples": count for code, count in counts.items()
    }
    if metric != "f1":  # a mean over examples is made of the languages' means
        both = sum(found[f"{code}_{metric}"] * count for code, count in counts.items())
        assert both / sum(counts.values()) == pytest.approx(found[metric])
    card = (result.folder / "README.md").read_text()
    assert "## By language, dev" in card
    assert f"| eng_Latn | 31 | {found[f'eng_Latn_{metric}']:.4g} |" in card
    assert f"| swh_Latn | 8* | {found[f'swh_Latn_{metric}']:.4g} |" in card
    assert "fewer than 30 examples: no result" in card


def test_one_language_is_measured_once(recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", classes())
    data = {f"data__{role}": {"path": str(rows), "language": "eng_Latn"} for role in ("train", "dev")}
    result = mmbert.finetune(recipe("classify", data__path=None, **data), out=tmp_path / "run")
    assert not [name for name in result.metrics["dev"] if name.startswith("eng")]
    assert "By language" not in (result.folder / "README.md").read_text()


def test_few_examples_are_no_result() -> None:
    two = {"accuracy": 0.5, "eng_Latn_accuracy": 0.6, "eng_Latn_examples": 99.0, "fao_Latn_accuracy": 0.1,
           "fao_Latn_examples": 29.0}  # fmt: skip
    assert summarise(two) == (
        "accuracy 0.5000, eng_Latn_accuracy 0.6000 (99 examples), fao_Latn_accuracy 0.1000 (29 examples, no result)"
    )
    four = two | {f"{code}_Latn_{name}": value for code in ("swh", "deu") for name, value in
                  (("accuracy", 0.4), ("examples", 30.0))}  # fmt: skip
    assert summarise(four) == (
        "accuracy 0.5000, accuracy 0.4667 (mean of 3 languages, worst swh_Latn 0.4000; 1 with fewer than 30 examples "
        "left out)"
    )
    few = {name: 29.0 if name.endswith("examples") else value for name, value in four.items()}
    assert summarise(few).endswith("accuracy: no result, as all 4 languages have fewer than 30 examples")
    # of evaluators that do not count: as before
    assert "mean of 4 languages" in summarise({f"{code}_Latn_mean": 0.5 for code in ("eng", "swh", "deu", "fao")})
