"""The padded form against the encoder of documents end to end, and against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from export_models import little_config, little_encoder, padded, random_rows, save_task
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.exporting.graph import graph_module
from mmbert.exporting.padded import PaddedEmbedder, PaddedEncoder, pool_padded
from mmbert.exporting.source import Source
from mmbert.inference.pooling import MODES, Pooling, pool
from mmbert.model.tasks import SequenceClassifier, SpanClassifier, TokenClassifier
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer

TASKS = {
    "SequenceClassification": (SequenceClassifier, ["a", "b", "c"]),
    "TokenClassification": (TokenClassifier, ["O", "B-X", "I-X"]),
    "QuestionAnswering": (SpanClassifier, ["LABEL_0", "LABEL_1"]),
}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    window=st.sampled_from([2, 7, 32, 200]),
    left=st.booleans(),
)
def test_equals_documents_end_to_end(tokenizer: Tokenizer, lengths: list[int], window: int, left: bool) -> None:
    encoder = little_encoder(little_config(tokenizer, window=window))
    rows = random_rows(lengths, tokenizer.vocab_size)
    ids, mask = padded(rows, left=left)
    with torch.inference_mode():
        wanted = encoder(Packed.from_lists(rows).to("cpu"))
        found = PaddedEncoder(encoder)(ids, mask)
    assert torch.isfinite(found).all(), "padding is finite too"
    torch.testing.assert_close(found[mask.bool()], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_pooling(mode: str, left: bool) -> None:
    rows = random_rows([1, 9, 4], 50)
    _, mask = padded(rows, left=left)
    x = torch.randn(3, 9, 8)
    wanted = pool(x[mask.bool()], Packed.from_lists(rows).to("cpu"), [mode])
    torch.testing.assert_close(pool_padded(mode, x, mask), wanted, rtol=1e-5, atol=1e-5)


def test_mix_of_layers(tokenizer: Tokenizer) -> None:
    encoder = little_encoder(little_config(tokenizer))
    pooling = Pooling(("mean", "cls"), True, (1.0, 0.0, 3.0))
    rows = random_rows([5, 40], tokenizer.vocab_size)
    packed = Packed.from_lists(rows).to("cpu")
    with torch.inference_mode():
        wanted = pool(encoder(packed, pooling.shares), packed, pooling.modes)
        found = PaddedEmbedder(encoder, pooling, [])(*padded(rows))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_heads_equal_transformers(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    kind, names = TASKS[name]
    save_task(tmp_path / "task", tokenizer, kind, names)
    theirs = getattr(transformers, f"ModernBertFor{name}").from_pretrained(tmp_path / "task").eval()
    source = Source.load(tmp_path / "task")
    module, outputs = graph_module(source, "logits")
    rows = random_rows([3, 120, 33], tokenizer.vocab_size)
    ids, mask = padded(rows)
    with torch.inference_mode():
        found = module(ids, mask)
        wanted = theirs(input_ids=ids, attention_mask=mask)
    if name == "QuestionAnswering":
        assert outputs == ["start_logits", "end_logits"]
        found, logits = torch.stack(found, -1), torch.stack([wanted.start_logits, wanted.end_logits], -1)
    else:
        logits = wanted.logits
    if name != "SequenceClassification":
        found, logits = found[mask.bool()], logits[mask.bool()]
    assert logits.std() > 0.05
    np.testing.assert_allclose(found.numpy(), logits.numpy(), rtol=0, atol=2e-5)
