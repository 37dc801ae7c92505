from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from human_rights import TEXTS

from mmbert.data.prepare import prepare_text
from mmbert.data.tokenize import prepare_shards
from mmbert.errors import ConfigError, DataError
from mmbert.evaluation import heldout_evaluation
from mmbert.evaluation.heldout_evaluation import HeldoutSet, build_heldout_set, evaluate_baseline, evaluate_model
from mmbert.model.heads import MaskedLM
from mmbert.recipe import Recipe
from mmbert.tokenizer.tokenizer import Tokenizer


def documents(text: str, number: int) -> list[str]:
    """Different texts of the same words."""
    words = text.split()
    return [" ".join(words[(i + k) % len(words)] for k in range(0, 5 * len(words), 1 + i % 4)) for i in range(number)]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for language, text in TEXTS.items():
        lines = [json.dumps({"id": f"{language}{i}", "text": t}) for i, t in enumerate(documents(text, 40))]
        path = tmp_path / "corpus" / f"{language}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        pairs = [json.dumps({"text": f"{text} {i}", "english": f"{TEXTS['eng_Latn']} {i}"}) for i in range(12)]
        (tmp_path / "pairs").mkdir(exist_ok=True)
        (tmp_path / "pairs" / f"{language}.jsonl").write_text("\n".join(pairs) + "\n")
    phase = {
        "tokens": 1000, "data": {"temperature": 0.5}, "context": 64, "mask_rate": 0.3, "batch": 512, "micro_batch": 512,
        "peak_lr": 1e-3,
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": "tiny",
            "sources": {"corpus": {"kind": "jsonl", "path": str(tmp_path / "corpus")}},
            "cleaning": {"holdout": 0.3, "max_repetition": 1.0},
            "tokenizer": {"vocab_size": 640},
            "model": {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4},
            "phases": {"pretrain": phase},
            "evaluation": {"tokens_per_language": 500, "context": 64, "parallel": str(tmp_path / "pairs")},
        }
    )


@pytest.fixture
def data(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    prepare_text(recipe, folder)
    prepare_shards(recipe, folder, tokenizer)
    return folder


def test_a_model_is_evaluated_once(
    recipe: Recipe, data: Path, tokenizer: Tokenizer, model: MaskedLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout = build_heldout_set(recipe, data, tokenizer)
    model.save(tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_tokens=128)
    baseline = evaluate_baseline(heldout, data / "shards", tmp_path / "out")
    first = evaluate_model("pretrain", tmp_path / "model", heldout, tmp_path / "out")
    assert set(first.losses) == set(baseline.losses) == set(TEXTS)
    for language, loss in first.losses.items():  # the very same tokens
        assert (loss.tokens, loss.bytes) == (baseline.losses[language].tokens, baseline.losses[language].bytes)
        nats_per_token = loss.nats / loss.tokens  # random weights: about as good as guessing
        assert nats_per_token == pytest.approx(math.log(tokenizer.vocab_size), rel=0.05)
        assert baseline.losses[language].nats < loss.nats
    assert {r.language for r in first.retrieval} == set(TEXTS) - {"eng_Latn"}
    assert {filled.language for filled in first.filled} <= set(TEXTS)

    monkeypatch.setattr(heldout_evaluation, "evaluate_mlm", None)  # calling it would fail
    monkeypatch.setattr(heldout_evaluation, "evaluate_unigram", None)
    assert (
        evaluate_model("pretrain", tmp_path / "model", build_heldout_set(recipe, data, tokenizer), tmp_path / "out")
        == first
    )
    assert evaluate_baseline(heldout, data / "shards", tmp_path / "out") == baseline
    monkeypatch.undo()

    without = evaluate_model("extend", tmp_path / "model", heldout, tmp_path / "out", retrieval=False)
    assert without.retrieval == []
    assert without.losses == first.losses
    assert evaluate_model("extend", tmp_path / "model", heldout, tmp_path / "out").retrieval == first.retrieval

    torch.nn.init.ones_(model.decoder.bias)
    with torch.no_grad():
        model.decoder.bias[10] += 3
    model.save(tmp_path / "model")
    second = evaluate_model("pretrain", tmp_path / "model", heldout, tmp_path / "out")
    assert second.weights != first.weights
    assert second.losses != first.losses


def test_the_fingerprint_follows_what_is_evaluated(recipe: Recipe, data: Path, tokenizer: Tokenizer) -> None:
    def fingerprint(**changes: object) -> str:
        options = recipe.evaluation.model_copy(update=changes)
        heldout: HeldoutSet = build_heldout_set(recipe.model_copy(update={"evaluation": options}), data, tokenizer)
        return heldout.fingerprint

    same = fingerprint()
    assert fingerprint(batch=64) == same  # how it is computed does not matter
    assert len({same, fingerprint(mask_rate=0.3), fingerprint(context=32), fingerprint(pairs_per_language=0)}) == 4
    assert build_heldout_set(recipe.model_copy(update={"seed": 1}), data, tokenizer).fingerprint != same


def test_without_parallel_text_there_is_no_retrieval(recipe: Recipe, data: Path, tokenizer: Tokenizer) -> None:
    options = recipe.evaluation.model_copy(update={"parallel": None})
    assert build_heldout_set(recipe.model_copy(update={"evaluation": options}), data, tokenizer).pairs == {}


def test_nothing_held_out_is_an_error_with_the_cure(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    none = recipe.model_copy(update={"cleaning": recipe.cleaning.model_copy(update={"holdout": 0.0})})
    prepare_text(none, tmp_path / "none")
    with pytest.raises(DataError, match=r"cleaning\.holdout"):
        build_heldout_set(none, tmp_path / "none", tokenizer)


def test_held_out_text_without_a_token_is_an_error(recipe: Recipe, data: Path, tokenizer: Tokenizer) -> None:
    short = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"tokens_per_language": 2})})
    with pytest.raises(DataError, match="no token to mask"):
        build_heldout_set(short, data, tokenizer)


def test_no_phase_may_take_the_baselines_name(
    recipe: Recipe, data: Path, tokenizer: Tokenizer, model: MaskedLM, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    with pytest.raises(ConfigError, match="unigram"):
        evaluate_model("unigram", tmp_path / "model", build_heldout_set(recipe, data, tokenizer), tmp_path / "out")
