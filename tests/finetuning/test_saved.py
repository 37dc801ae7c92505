"""Each task trains, and what it saves is read alike by transformers, by our facades and by the training itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from little_sets import SETS

import mmbert
from mmbert.finetuning.recipe import FinetuneRecipe

AUTO = {
    "classify": "SequenceClassification", "pairs": "SequenceClassification", "regression": "SequenceClassification",
    "multi_label": "SequenceClassification", "tag": "TokenClassification", "answer": "QuestionAnswering",
    "choose": "MultipleChoice",
}  # fmt: skip
TOLERANCE = 1e-4


def theirs(folder: Path, name: str) -> tuple[Any, Any]:
    model = getattr(transformers, f"AutoModelFor{AUTO[name]}").from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def logits(model: Any, words: Any, *texts: str) -> Any:
    encoded = words(*texts, return_tensors="pt")
    encoded.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**encoded)


def assert_alike(folder: Path, name: str) -> None:
    """transformers' answers to some rows are those of our facade."""
    model, words = theirs(folder, name)
    for row in SETS[name](6):
        if name == "tag":
            text = " ".join(row["tokens"])
            found = mmbert.Tagger.load(folder, precision="fp32").tokens(text).probabilities
            wanted = logits(model, words, text).logits[0, 1:-1].softmax(-1).numpy()
        elif name == "answer":
            texts = (row["question"], row["context"][-20:])
            found = mmbert.Answerer.load(folder, precision="fp32").logits(*texts)
            out = logits(model, words, *texts)
            wanted = torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
        elif name == "choose":
            found = mmbert.MultipleChoice.load(folder, precision="fp32").logits(row["question"], row["choices"])
            both = [row["question"]] * len(row["choices"]), row["choices"]
            encoded = words(*both, return_tensors="pt", padding=True)
            with torch.inference_mode():
                wanted = model(encoded["input_ids"][None], encoded["attention_mask"][None]).logits[0].numpy()
        else:
            texts = (row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],)
            said = mmbert.Classifier.load(folder, precision="fp32")(
                texts if len(texts) == 2 else texts[0], function="none"
            )
            found, wanted = np.array(list(said.scores.values())), logits(model, words, *texts).logits[0].numpy()
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


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
