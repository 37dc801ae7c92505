from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mmbert.errors import MMBertError
from mmbert.evaluation.results import (
    Baseline,
    FilledMask,
    Guess,
    LanguageLoss,
    LanguageRetrieval,
    ModelResult,
    TaskScore,
    UnigramLoss,
    read,
    read_current,
    read_models,
    save,
)
from mmbert.inference.load import hash_folder
from mmbert.model.heads import MaskedLM

LOSS = LanguageLoss.of(nats=100, tokens=20, num_bytes=80, hits=5)
RETRIEVAL = LanguageRetrieval(
    language="fra_Latn", pairs=50, to_english=0.1, from_english=0.2, centred_to_english=0.1, centred_from_english=0.2,
    spelling_to_english=0.0, spelling_from_english=0.1,
)  # fmt: skip
RESULT = ModelResult(
    model="extend",
    weights="w1",
    heldout="e1",
    losses={"fra_Latn": LOSS},
    retrieval=[RETRIEVAL],
    filled=[
        FilledMask(
            language="fra_Latn", before="a ", after=" c", truth="▁b", guesses=[Guess(token="▁d", probability=0.5)]
        )
    ],
    seconds=1.5,
)
BASELINE = Baseline(
    heldout="e1", training_text="t1", losses={"fra_Latn": UnigramLoss(**LOSS.model_dump(), train_tokens=9, alpha=0.1)}
)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    save(RESULT, tmp_path / "extend.json")
    save(BASELINE, tmp_path / "unigram.json")
    assert read(ModelResult, tmp_path / "extend.json") == RESULT
    assert read(Baseline, tmp_path / "unigram.json") == BASELINE
    assert read_models(tmp_path) == {"extend": RESULT}
    assert read_models(tmp_path / "nothing") == {}


def test_only_a_result_of_the_same_weights_and_exam_is_current(tmp_path: Path) -> None:
    path = tmp_path / "extend.json"
    assert read_current(ModelResult, path, weights="w1", heldout="e1") is None
    save(RESULT, path)
    assert read_current(ModelResult, path, weights="w1", heldout="e1") == RESULT
    assert read_current(ModelResult, path, weights="w2", heldout="e1") is None
    assert read_current(ModelResult, path, weights="w1", heldout="e2") is None
    path.write_text("{")
    assert read_current(ModelResult, path, weights="w1", heldout="e1") is None


def test_another_form_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "extend.json"
    path.write_text(json.dumps({**RESULT.model_dump(mode="json"), "extra": 1}))
    with pytest.raises(MMBertError, match=r"extend\.json .*extra.*delete it"):
        read(ModelResult, path)


def test_a_models_hash_follows_its_weights_and_config(model: MaskedLM, tmp_path: Path) -> None:
    model.save(tmp_path)
    first = hash_folder(tmp_path)
    (tmp_path / "README.md").write_text("not part of the model")
    assert hash_folder(tmp_path) == first
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace("10000.0", "20000.0"))
    changed = hash_folder(tmp_path)
    assert changed != first
    config.write_text(text)
    model.decoder.bias.data += 1
    model.save(tmp_path)
    assert hash_folder(tmp_path) not in (first, changed)


def test_nan_is_no_result() -> None:
    with pytest.raises(ValidationError, match="finite"):
        LanguageLoss.of(nats=float("nan"), tokens=1, num_bytes=1, hits=0)
    with pytest.raises(ValidationError, match="finite"):
        TaskScore(rows=1, scores={"accuracy": float("nan")})
