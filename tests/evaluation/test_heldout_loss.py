from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmbert.errors import WeightsError
from mmbert.evaluation import heldout_loss
from mmbert.evaluation.heldout_loss import cut, evaluate_mlm
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed


def masked(lengths: list[int], targets: list[int], seed: int = 0, vocab: int = 40) -> Packed:
    rng = np.random.default_rng(seed)
    packed = Packed.from_lists([rng.integers(5, vocab, size=n) for n in lengths])
    where = np.array(targets, dtype=np.int64)
    return Packed(packed.ids, packed.offsets, packed.longest, where, rng.integers(5, vocab, size=len(where)))


@pytest.fixture
def encoder() -> MaskedLM:
    torch.manual_seed(1)
    return MaskedLM(ModelConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4))


BATCHES = {
    "aaa": masked([9, 1, 30], [0, 8, 9, 12, 39], seed=1),
    "bbb": masked([64], [3], seed=2),
    "ccc": masked([5, 5, 70, 2], [1, 6, 20, 50, 81], seed=3),
}


def test_a_model_that_only_has_a_bias_gives_the_loss_worked_out_by_hand() -> None:
    model = MaskedLM(ModelConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2))
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.copy_(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).log())  # p(token) = (token + 1) / 36
    packed = Packed.from_lists([[2, 4, 4, 4, 1]])
    batch = Packed(packed.ids, packed.offsets, 5, np.array([1, 2, 3]), np.array([5, 7, 7]))
    found = evaluate_mlm(model, {"xxx": batch}, np.array([0, 0, 0, 0, 0, 3, 1, 2]))["xxx"]
    nats = math.log(36 / 6) + 2 * math.log(36 / 8)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert (found.tokens, found.bytes) == (3, 7)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 7, rel=1e-5)
    assert found.accuracy == pytest.approx(2 / 3)


def test_a_loss_that_is_not_finite_names_its_language(encoder: MaskedLM) -> None:
    wrong = int(BATCHES["bbb"].ids[0])
    with torch.no_grad():
        encoder.model.embeddings.tok_embeddings.weight[wrong] = torch.tensor([3e38, -3e38] * 16)
    with pytest.raises(WeightsError, match=r"^the model's loss in bbb is nan"):
        evaluate_mlm(encoder, {"bbb": BATCHES["bbb"]}, np.full(40, 2))


@pytest.mark.parametrize("batch", [1, 50, 100, 100_000])
def test_languages_share_forward_passes_and_keep_their_own_loss(encoder: MaskedLM, batch: int) -> None:
    found = evaluate_mlm(encoder, BATCHES, np.full(40, 2), batch=batch)
    for language, packed in BATCHES.items():
        alone = packed.to()
        with torch.inference_mode():
            losses = torch.nn.functional.cross_entropy(encoder.eval().logits(alone), alone.labels, reduction="sum")
        assert found[language].nats == pytest.approx(float(losses), rel=1e-4)
        assert found[language].tokens == len(packed.labels)
        assert found[language].bytes == 2 * len(packed.labels)


def test_logits_in_chunks_are_the_same(encoder: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_mlm(encoder, BATCHES, np.ones(40))
    monkeypatch.setattr(heldout_loss, "_LOGITS_AT_ONCE", 80)  # two rows
    for language, loss in evaluate_mlm(encoder, BATCHES, np.ones(40)).items():
        assert loss.nats == pytest.approx(whole[language].nats, rel=1e-6)
        assert loss.accuracy == whole[language].accuracy


def test_bf16_is_close_to_fp32(encoder: MaskedLM) -> None:
    whole = evaluate_mlm(encoder, BATCHES, np.ones(40))
    for language, loss in evaluate_mlm(encoder, BATCHES, np.ones(40), precision="bf16").items():
        assert loss.nats == pytest.approx(whole[language].nats, rel=0.02)


def test_dropout_is_off() -> None:
    shape = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4}
    model = MaskedLM(ModelConfig(**shape, attention_out_dropout=0.5)).train()
    first = evaluate_mlm(model, BATCHES, np.ones(40))
    assert evaluate_mlm(model, BATCHES, np.ones(40)) == first


def test_a_language_whose_tokens_stand_for_no_byte_is_left_out(encoder: MaskedLM) -> None:
    token_bytes = np.ones(40)
    token_bytes[BATCHES["bbb"].labels] = 0
    assert "bbb" not in evaluate_mlm(encoder, {"bbb": BATCHES["bbb"]}, token_bytes)


@pytest.mark.parametrize("size", [1, 7, 71, 1000])
def test_cutting_keeps_every_sequence_and_label(size: int) -> None:
    whole = BATCHES["ccc"]
    parts = list(cut(whole, size))
    assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
    assert [n for part in parts for n in part.lengths] == whole.lengths
    assert all(part.tokens <= size or part.sequences == 1 for part in parts)
    assert all(part.longest == max(part.lengths) for part in parts)
    starts = np.cumsum([0, *(part.tokens for part in parts)])
    assert np.array_equal(np.concatenate([p.targets + s for p, s in zip(parts, starts, strict=False)]), whole.targets)
    assert np.array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
