"""sentence-transformers around the packed engine, against sentence-transformers as it is, on the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from little_sentences import TEXTS, examples, make_recipe, pretrained, write_rows  # noqa: F401  (pytest's fixture)
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from mmbert.errors import WeightsError
from mmbert.finetuning.packed_engine import lay_out, pack_engine, pack_table
from mmbert.finetuning.sentence_model import body_of, build_model, encoder_of, quiet
from mmbert.model.layers import Layer

QUERIES, DOCUMENTS = TEXTS, [text[::-1] for text in TEXTS]


def _plain(folder: Path, task: Any = "feature-extraction") -> Transformer:
    with quiet():
        return Transformer(str(folder), transformer_task=task, max_seq_length=64)


def _dense(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[_plain(folder), Pooling(32, pooling_mode="mean")], device="cpu")


def _sparse(folder: Path) -> SparseEncoder:
    return SparseEncoder(modules=[_plain(folder, "fill-mask"), SpladePooling("max")], device="cpu")


def _late(folder: Path) -> MultiVectorEncoder:
    model = build_model(make_recipe("late_interaction", folder, Path("x"), late_interaction={"query_tokens": None}))
    plain = copy.deepcopy(model)
    plain[0].model = _plain(folder).model
    return plain


PARTS: dict[str, tuple[Any, Any]] = {
    "dense": (_dense, losses.MultipleNegativesRankingLoss),
    "cached": (_dense, lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)),
    "matryoshka": (
        _dense,
        lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [32, 8]),
    ),
    "sparse": (_sparse, lambda model: SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), 3e-3, 5e-3)),
    "late": (_late, MultiVectorMultipleNegativesRankingLoss),
}


def _pair(name: str, folder: Path) -> tuple[Any, Any]:
    plain = PARTS[name][0](folder)
    packed = copy.deepcopy(plain)
    pack_engine(encoder_of(packed))
    return plain, packed


def _numbers(found: Any) -> list[Tensor]:
    return [torch.as_tensor(row).to_dense() for row in found]


@pytest.mark.parametrize("name", ["dense", "sparse", "late"])
def test_embeddings_are_those_of_the_library(name: str, pretrained: Path) -> None:  # noqa: F811
    plain, packed = _pair(name, pretrained)
    for way in ("encode_query", "encode_document"):
        expected, found = (_numbers(getattr(model, way)(TEXTS)) for model in (plain, packed))
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_those_of_the_library(name: str, pretrained: Path) -> None:  # noqa: F811
    values, gradients = [], []
    for model in _pair(name, pretrained):
        model.train()
        features = [model.preprocess(texts) for texts in (QUERIES, DOCUMENTS)]
        loss = PARTS[name][1](model)(features, None)
        loss = sum(loss.values()) if isinstance(loss, dict) else loss
        loss.backward()
        values.append(loss.item())
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients[1][key], expected, atol=1e-4 * max(scale, 1e-3), rtol=1e-4)


def test_reranker_scores_and_gradients(pretrained: Path) -> None:  # noqa: F811
    model = build_model(make_recipe("rerank", pretrained, Path("x"), training={"dropout": 0.0}))
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    with quiet():
        plain = type(encoder_of(model)).from_pretrained(pretrained, config=encoder_of(model).config)
    plain.load_state_dict(encoder_of(model).state_dict())
    features = {key: value for key, value in model.preprocess(pairs).items() if isinstance(value, Tensor)}
    expected, found = (inner(**features).logits for inner in (plain, encoder_of(model)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), encoder_of(model).named_parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-4)


def test_layers_see_tokens_alone(pretrained: Path) -> None:  # noqa: F811
    _, packed = _pair("dense", pretrained)
    seen: list[int] = []
    for module in packed.modules():
        if isinstance(module, Layer):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    features = packed.preprocess(TEXTS)
    packed(features)
    tokens = int(features["attention_mask"].sum())
    assert tokens < features["attention_mask"].numel() / 2
    assert seen == [tokens] * 3


def test_names_and_folders_stay(pretrained: Path, tmp_path: Path) -> None:  # noqa: F811
    for name in ("dense", "sparse"):
        plain, packed = _pair(name, pretrained)
        assert list(plain.state_dict()) == list(packed.state_dict())
        packed.save_pretrained(str(tmp_path / name), create_model_card=False)
        with quiet():
            again = type(plain)(str(tmp_path / name), device="cpu")
        for one, other in zip(_numbers(plain.encode(TEXTS)), _numbers(again.encode(TEXTS)), strict=True):
            torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)


def test_gradient_checkpointing_computes_the_same(pretrained: Path) -> None:  # noqa: F811
    gradients = []
    for wanted in (False, True):
        _, packed = _pair("dense", pretrained)
        body_of(packed).base.gradient_checkpointing = wanted
        packed.train()
        packed(packed.preprocess(TEXTS))["sentence_embedding"].square().sum().backward()
        assert body_of(packed).encoder.gradient_checkpointing is wanted
        gradients.append([value.grad for value in packed.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)


def test_layers_are_mixed_as_the_library_mixes_them(pretrained: Path) -> None:  # noqa: F811
    model = build_model(make_recipe("embed", pretrained, Path("x"), embed={"mix_layers": True}))
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0])
    transformer = _plain(pretrained)
    transformer.model.config.output_hidden_states = True
    mixing = WeightedLayerPooling(32, num_hidden_layers=3, layer_start=0)
    plain = SentenceTransformer(modules=[transformer, mixing, Pooling(32)], device="cpu")
    results = []
    for one in (plain, model):
        one[1].layer_weights.data = weights.clone()
        vectors = one(one.preprocess(TEXTS))["sentence_embedding"]
        vectors.square().sum().backward()
        results.append((vectors, one[1].layer_weights.grad, encoder_of(one).layers[1].mlp.Wi.weight.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found[:3] if found.dim() == 1 else found,
                                   expected[:3] if expected.dim() == 1 else expected, atol=1e-4, rtol=1e-4)  # fmt: skip
    assert results[1][1][3] == 0  # the last layer's stays


def test_tables_and_back() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    ids = torch.arange(9).view(3, 3)
    packed, places = pack_table(ids, mask)
    assert packed.ids.tolist() == [0, 1, 3, 4, 5, 6]
    assert packed.offsets.tolist() == [0, 2, 5, 6]
    assert (packed.lengths, packed.longest) == ([2, 3, 1], 3)
    table = lay_out(packed.ids[:, None].float() + 1, places, (3, 3))
    assert table[..., 0].tolist() == [[1, 2, 0], [4, 5, 6], [7, 0, 0]]
    with pytest.raises(ValueError, match="without tokens"):
        pack_table(ids, mask * torch.tensor([[1], [0], [1]]))


def test_other_models_are_refused() -> None:
    bert = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    for model in (bert, nn.Linear(1, 1)):
        with pytest.raises(WeightsError, match="no other model"):
            pack_engine(model)  # type: ignore[arg-type]
