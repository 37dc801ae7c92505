"""Each task trains, and what it saves is read alike by transformers, by our facades and by the training itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from little_sets import SETS
from their_answers import assert_alike

import mmbert
from mmbert.finetuning.recipe import FinetuneRecipe


@pytest.mark.parametrize("name", list(SETS))
def test_final_folder_and_checkpoints_load_everywhere(
    name: str, recipe: Callable[..., FinetuneRecipe], tmp_path: Path
) -> None:
    result = mmbert.finetune(recipe(name), out=tmp_path / "run")
    assert result.folder == tmp_path / "run" / "final"
    assert result.chosen is not None
    losses = [line["loss"] for line in result.history if "loss" in line]
    assert all(np.isfinite(losses))
    assert_alike(result.folder, name)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert_alike(checkpoint, name)


@pytest.mark.parametrize("name", ["classify", "answer"])
def test_the_folder_has_a_card_that_the_hub_reads(
    name: str, recipe: Callable[..., FinetuneRecipe], tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    result = mmbert.finetune(recipe(name, data__train__language="fao"), out=tmp_path)
    card = ModelCard.load(result.folder / "README.md")
    assert card.data.pipeline_tag == {"classify": "text-classification", "answer": "question-answering"}[name]
    assert card.data.library_name == "transformers"
    assert card.data.language == ["fo"]
    for metric, value in result.metrics["dev"].items():
        assert f"| dev | {metric} | {value:.4g} |" in card.text
    assert ("## Labels\n\nbad, good" in card.text) == (name == "classify")


def test_names_of_classes_are_saved(recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    result = mmbert.finetune(recipe("classify"), out=tmp_path)
    assert set(mmbert.Classifier.load(result.folder)("Nia was sad").scores) == {"bad", "good"}
    config = transformers.AutoConfig.from_pretrained(result.folder)
    assert config.id2label == {0: "bad", 1: "good"}
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize(("name", "least"), [("classify", 0.9), ("tag", 0.9), ("choose", 0.9)])
def test_tasks_are_learned(name: str, least: float, recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    wanted = recipe(name, training__epochs=12, training__learning_rate=1e-2, training__dropout=0.0)
    assert (mmbert.finetune(wanted, out=tmp_path).chosen or 0) >= least
