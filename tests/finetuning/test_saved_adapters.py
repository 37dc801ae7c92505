"""Runs whose ``final`` is an adapter: peft and sentence-transformers load it, and it answers as the merged model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from little_sentences import TEXTS, examples, make_recipe, pretrained, write_rows  # noqa: F401  (a fixture)
from little_sets import classes
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from their_answers import AUTO, assert_alike

import mmbert
from mmbert.errors import ConfigError
from mmbert.finetuning.dry_run import dry_run
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.inference.adapters import load_adapters
from mmbert.inference.classifier import Classifier
from mmbert.inference.embedder import Embedder
from mmbert.inference.reranker import Reranker
from mmbert.inference.tagger import Tagger
from mmbert.model.adapter import FILE, read_adapter
from mmbert.model.folder import ADAPTER

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

Make = Callable[..., FinetuneRecipe]
LORA = {"rank": 2, "alpha": 8, "merge": False}
TEXT = "Nia was happy in Lagos today, and Kofi Annan left."


def with_peft(folder: Path, auto: str) -> tuple[Any, Any]:
    """Return what the card tells: the base with the folder's config, the adapter put into it."""
    base = json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(
        base, config=config, ignore_mismatched_sizes=True
    )
    return peft.PeftModel.from_pretrained(model, folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["classify", "multi_label", "regression", "tag", "answer", "choose"])
def test_peft_loads_what_a_run_leaves(name: str, recipe: Make, heads: Path, tmp_path: Path) -> None:
    wanted = recipe(name, training__lora=LORA, training__learning_rate=3e-2)
    folder = mmbert.finetune(wanted, out=tmp_path).folder
    assert {file.name for file in folder.iterdir()} == {
        ADAPTER, FILE, "README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    }  # fmt: skip
    assert_alike(folder, name, with_peft(folder, AUTO[name]), atol=1e-5)
    state = load_file(folder / FILE)
    moved = [float(value.abs().max()) for key, value in state.items() if "lora_B" in key]
    assert len(moved) == 2 * 4
    assert min(moved) > 1e-3, "all adapters have learned"
    assert read_adapter(folder).base == str(heads / "masks")


def answers(model: Any) -> np.ndarray:
    if isinstance(model, Tagger):
        return model.tokens(TEXT).probabilities
    return np.asarray(model.logits(TEXT) if isinstance(model, Classifier) else model(TEXT))


def test_adapters_answer_as_merged_models_alone_and_over_one_base(recipe: Make, heads: Path, tmp_path: Path) -> None:
    folders, wanted = {}, {}
    for name, predictor in (("regression", Classifier), ("tag", Tagger)):
        for merge in (False, True):
            lora = {**LORA, "merge": merge}
            run = recipe(name, training__lora=lora, training__learning_rate=3e-2)
            folder = mmbert.finetune(run, out=tmp_path / f"{name} {merge}").folder
            if merge:
                wanted[name] = predictor.load(folder, precision="fp32")
            else:
                folders[name] = folder
    _, shared = load_adapters(heads / "masks", folders, precision="fp32")
    for name, merged in wanted.items():
        for model in (type(merged)(shared[name]), type(merged).load(folders[name], precision="fp32")):
            np.testing.assert_allclose(answers(model), answers(merged), atol=1e-5)
            for option in ("labels", "problem_type", "classifier_pooling", "max_tokens"):
                assert getattr(model.loaded, option) == getattr(merged.loaded, option)


def test_a_base_with_another_number_of_classes_is_no_matter(recipe: Make, heads: Path, tmp_path: Path) -> None:
    wanted = recipe("pairs", model=str(heads / "classes"), training__lora=LORA)
    folder = mmbert.finetune(wanted, out=tmp_path).folder
    assert sorted(Classifier.load(folder).labels) == ["contradiction", "entailment", "neutral"]
    assert_alike(folder, "pairs", with_peft(folder, AUTO["pairs"]), atol=1e-5)


def test_the_card_names_base_data_figures_and_use(recipe: Make, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    result = mmbert.finetune(recipe("classify", training__lora=LORA, data__train__language="fao"), out=tmp_path)
    card = ModelCard.load(result.folder / "README.md")
    assert card.data.library_name == "peft"
    assert "lora" in (card.data.tags or [])
    assert "A LoRA adapter: `masks` fine-tuned (classify) with" in card.text
    assert f"on {len(classes())} examples in fao" in card.text.replace("\n", " ")
    assert f"| dev | accuracy | {result.metrics['dev']['accuracy']:.4g} |" in card.text
    assert "LoRA of rank 2, alpha 8" in card.text.replace("\n", " ")
    assert "PeftModel.from_pretrained(base" in card.text


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", examples(16))


def sentence_run(task: str, model: Path, rows: Path, folder: Path, **more: Any) -> Path:
    training = {"lora": LORA, "learning_rate": 3e-2, **more.pop("training", {})}
    return mmbert.finetune(make_recipe(task, model, rows, training=training, **more), out=folder).folder


def test_vectors_of_an_adapter_are_those_of_sentence_transformers(
    pretrained: Path, rows: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    folder = sentence_run("embed", pretrained, rows, tmp_path, embed={"query_prompt": "ask: ", "pooling": "cls"})
    theirs = SentenceTransformer(str(folder), device="cpu")
    wanted = theirs.encode(TEXTS, normalize_embeddings=True)
    plain = Embedder.load(pretrained, precision="fp32")
    assert np.abs(plain(TEXTS) - wanted).max() > 0.01, "the adapter has learned"
    _, shared = load_adapters(pretrained, {"vectors": folder}, precision="fp32")
    for model in (Embedder.load(folder, precision="fp32"), Embedder(shared["vectors"])):
        np.testing.assert_allclose(model(TEXTS), wanted, atol=1e-5)
        assert model.loaded.prompts["query"] == "ask: "
        assert model.loaded.max_tokens == theirs.max_seq_length == 64


def test_a_reranker_scores_as_peft(pretrained: Path, rows: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = sentence_run("rerank", pretrained, rows, tmp_path)
    model, words = with_peft(folder, "SequenceClassification")
    _, shared = load_adapters(pretrained, {"ranks": folder}, precision="fp32")
    for ours in (Reranker.load(folder, precision="fp32"), Reranker(shared["ranks"])):
        for pair in (("water", "maji"), ("stone and bread", "mama ndege barabara " * 5)):
            encoded = words(*pair, return_tensors="pt")
            encoded.pop("token_type_ids", None)
            with torch.inference_mode():
                wanted = float(model(**encoded).logits[0, 0].sigmoid())
            assert float(ours.predict([pair])[0]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("task", "changes", "named"), [
    ("sparse", {}, "adapters are written by classify, tag, answer, choose, embed, rerank, not by sparse"),
    ("embed", {"student": {"keep": 2}}, "makes an adapter of model: remove student and trim"),
    ("embed", {"trim": {}}, "makes an adapter of model: remove student and trim"),
    ("embed", {"embed": {"mix_layers": True}}, "pools a mix of all: leave out merge"),
    ("embed", {"training": {"lora": {**LORA, "targets": ["Wo", "tok_embeddings"]}}}, "can only be merged"),
])  # fmt: skip
def test_what_cannot_be_an_adapter_is_refused(
    task: str,
    changes: dict[str, Any],
    named: str,
    pretrained: Path,  # noqa: F811
    rows: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises((ConfigError, ValueError), match=named):
        sentence_run(task, pretrained, rows, tmp_path, **changes)


def test_recipes_without_the_option_merge(recipe: Make, tmp_path: Path) -> None:
    wanted = recipe("classify", training__lora={"rank": 2})
    assert wanted.training.lora is not None
    assert wanted.training.lora.merge
    assert dry_run(wanted, tmp_path)
