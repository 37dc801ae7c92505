from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from mmbert.errors import WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import (
    ChoiceClassifier,
    SequenceClassifier,
    SpanClassifier,
    TaskHead,
    TaskModel,
    TokenClassifier,
    pool_texts,
)
from mmbert.packed import Packed

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=2, window=4, initializer_range=0.3
)
TEXTS = [[2, 9, 8, 7, 6, 5, 1], [2, 11, 1], [2, 40, 41, 42, 1]]


def logits(model: TaskModel) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model.eval()(Packed.from_lists(TEXTS).to())
    return out


@pytest.mark.parametrize(
    ("kind", "labels", "pooling"),
    [
        (SequenceClassifier, 3, "mean"),
        (SequenceClassifier, 1, "cls"),
        (TokenClassifier, 4, None),
        (SpanClassifier, 2, None),
        (ChoiceClassifier, 1, "mean"),
    ],
)
def test_our_folder_loads_there(kind: type[TaskModel], labels: int, pooling: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind(Encoder(CONFIG), labels, pooling=pooling, dropout=0.1)
    names = [f"name {index}" for index in range(labels)]
    model.save(tmp_path, names, problem_type="regression" if kind is SequenceClassifier else None)
    theirs, report = getattr(transformers, kind.architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert theirs.config.id2label == dict(enumerate(names))
    assert theirs.config.classifier_dropout == 0.1
    if pooling:
        assert theirs.config.classifier_pooling == pooling
    if kind is SequenceClassifier:
        assert theirs.config.problem_type == "regression"
    found = logits(model)
    rows = list(found) if pooling else Packed.from_lists(TEXTS).unpack(found)
    for text, row in zip(TEXTS, rows, strict=True):
        ids = torch.tensor([text])
        with torch.inference_mode():
            if kind is ChoiceClassifier:
                out = theirs.eval()(ids[None], attention_mask=torch.ones_like(ids)[None])
                expected = out.logits[0]
            else:
                out = theirs.eval()(ids)
                pair = kind is SpanClassifier
                expected = torch.stack([out.start_logits[0], out.end_logits[0]], 1) if pair else out.logits[0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_head_is_drawn_as_there() -> None:
    config = CONFIG.model_copy(update={"hidden_size": 64, "initializer_range": 0.02})
    torch.manual_seed(0)
    model = TokenClassifier(Encoder(config), 50)
    for weight, std in ((model.head.dense.weight, 0.02 / 6**0.5), (model.classifier.weight, 64**-0.5)):
        drawn = float(weight.detach().std())
        assert 0.8 * std < drawn < std, "normal, cut at two deviations"
        assert float(weight.detach().abs().max()) <= 2 * std
    assert float(model.classifier.bias.detach().abs().max()) == 0
    assert bool((model.head.norm.weight == 1).all())


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = TokenClassifier(Encoder(CONFIG), 3, dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    packed = Packed.from_lists(TEXTS).to()
    assert not torch.equal(model(packed), model(packed))


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(Encoder(CONFIG), 3, pooling="mean")
    model(Packed.from_lists(TEXTS).to()).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.norm()) > 0, name


def test_pooling() -> None:
    packed = Packed.from_lists(TEXTS).to()
    x = torch.arange(packed.tokens, dtype=torch.float32)[:, None]
    assert pool_texts(x, packed, "cls").flatten().tolist() == [0, 7, 10]
    assert pool_texts(x, packed, "mean").flatten().tolist() == [3, 8, 12]


def test_wrong_pooling_and_wrong_names(tmp_path: Path) -> None:
    encoder = Encoder(CONFIG)
    with pytest.raises(WeightsError, match="classifier_pooling 'max' is neither cls nor mean"):
        SequenceClassifier.around(encoder, TaskHead(CONFIG, 2), "max")
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        SequenceClassifier(encoder, 2, pooling="cls").save(tmp_path, ["a"])
