"""Training for several numbers of layers: against models of so many layers, each computed by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from little_sentences import TEXTS, examples, make_recipe, pretrained, write_rows  # noqa: F401  (pytest's fixture)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from mmbert import Embedder, Reranker
from mmbert.errors import ConfigError
from mmbert.finetuning.dry_run import dry_run
from mmbert.finetuning.finetune import finetune
from mmbert.finetuning.sentence_model import build_model, encoder_of
from mmbert.finetuning.sentence_tasks import SPECS
from mmbert.model.layers import Layer

QUERIES, DOCUMENTS = TEXTS, [text[::-1] for text in TEXTS]
LAYERS = [1, 2]


def _model(task: str, folder: Path, layers: list[int], **options: Any) -> tuple[Any, Any]:
    """A model and the recipe's loss of it."""
    if task == "embed":
        options = {"mini_batch": None, **options}
    recipe = make_recipe(task, folder, Path("x"), **{task: {"layers": layers, **options}})
    model = build_model(recipe)
    return model.train(), SPECS[task].make_loss(model, recipe.options)


def _shortened(model: Any, count: int) -> tuple[Any, dict[str, nn.Parameter]]:
    """The same model without layers behind the first ``count``, and its parameters."""
    other = copy.deepcopy(model)
    inner = encoder_of(other)
    base = getattr(inner, "model", inner)
    base.forward.encoder.layers = base.layers = base.layers[:count]
    base.forward.encoder.config = base.forward.encoder.config.model_copy(update={"num_layers": count})
    base.forward.layers = ()
    return other, dict(other.named_parameters())


def _passes(model: Any) -> list[int]:
    """A list to which every pass through a layer will add its tokens."""
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, Layer):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def _compare(model: Any, loss: Tensor, others: list[dict[str, nn.Parameter]], expected: Tensor) -> None:
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        grads = [own[name].grad for own in others if name in own and own[name].grad is not None]
        if not grads:
            assert parameter.grad is None, name
            continue
        wanted = torch.stack(grads).sum(0)
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-4 * max(float(wanted.abs().max()), 1e-3), rtol=1e-4)


@pytest.mark.parametrize("widths", [[], [8]])
def test_the_loss_and_gradients_are_those_of_models_of_so_many_layers(
    widths: list[int],
    pretrained: Path,  # noqa: F811
) -> None:
    model, loss = _model("embed", pretrained, LAYERS, matryoshka=widths)
    assert type(loss) is (losses.Matryoshka2dLoss if widths else losses.AdaptiveLayerLoss)
    features = [model.preprocess(texts) for texts in (QUERIES, DOCUMENTS)]

    def alone(own: Any) -> tuple[Tensor, Tensor]:
        """The loss of a model by itself, at all widths, and its vectors."""
        one = losses.MultipleNegativesRankingLoss(own)
        one = losses.MatryoshkaLoss(own, one, [32, *widths]) if widths else one
        copies = [[dict(each) for each in features] for _ in range(2)]
        return one(copies[0], None), torch.cat([own(each)["sentence_embedding"] for each in copies[1]])

    whole, parameters = _shortened(model, 3)
    expected, teacher = alone(whole)
    target, others = F.softmax(teacher / 0.3, dim=-1).detach(), [parameters]
    for count in LAYERS:
        short, parameters = _shortened(model, count)
        others.append(parameters)
        own, vectors = alone(short)
        divergence = F.kl_div(F.log_softmax(vectors / 0.3, dim=-1), target, reduction="batchmean")
        expected = expected + own / len(LAYERS) + 0.3 * divergence
    seen = _passes(model)
    found = loss([dict(each) for each in features], None)
    assert len(seen) == 3 * len(features), "each layer once for each column, however many layers are trained"
    assert encoder_of(model).config.output_hidden_states is False
    _compare(model, found, others, expected)


def test_a_reranker_has_the_losses_of_so_many_layers_from_one_pass(pretrained: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    model, loss = _model("rerank", pretrained, LAYERS)
    encoder_of(model).drop.p = 0.0
    inputs, labels = [QUERIES, DOCUMENTS], torch.tensor([1.0, 0, 1, 0])
    expected, others = torch.zeros(()), []
    for count in (3, *LAYERS):
        short, parameters = _shortened(model, count)
        others.append(parameters)
        own = BinaryCrossEntropyLoss(short, pos_weight=torch.tensor(5.0))(inputs, labels)
        expected = expected + (own if count == 3 else own / len(LAYERS))
    seen = _passes(model)
    found = loss(inputs, labels)
    assert len(seen) == 3
    _compare(model, found, others, expected)
    with torch.no_grad():  # measured between steps: all layers
        model.eval()
        torch.testing.assert_close(
            torch.as_tensor(model.predict(list(zip(QUERIES, DOCUMENTS, strict=True)))),
            torch.as_tensor(_shortened(model, 3)[0].predict(list(zip(QUERIES, DOCUMENTS, strict=True)))),
        )


def _contrast(folder: Path, layers: int) -> float:
    """The contrastive loss of unseen pairs, behind so many layers."""
    embed = Embedder.load(folder, num_layers=layers, precision="fp32")
    rows = examples(24, seed=7)
    queries, documents = (torch.from_numpy(embed([row[name] for row in rows])) for name in ("query", "positive"))
    return float(F.cross_entropy(20 * queries @ documents.T, torch.arange(len(rows))))


@pytest.mark.parametrize("lora", [None, {"rank": 8}])
def test_a_run_with_layers_teaches_the_early_ones_more(
    lora: Any,
    pretrained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    train = write_rows(tmp_path / "train.jsonl", examples(160))
    found = {}
    for name, options in {"with": {"layers": [1], "matryoshka": [8]}, "without": {"matryoshka": [8]}}.items():
        recipe = make_recipe(
            "embed", pretrained, train, training={"epochs": 4, "batch": 16, "lora": lora},
            embed={"mini_batch": None, **options},
        )  # fmt: skip
        final = finetune(recipe, out=tmp_path / name).folder
        found[name] = _contrast(final, 1)
        assert Embedder.load(final, num_layers=1, dimensions=8)("water").shape == (8,)
    assert found["with"] < found["without"] - 0.1


def test_a_reranker_with_layers_ranks_with_fewer(pretrained: Path, tmp_path: Path) -> None:  # noqa: F811
    train, dev = (write_rows(tmp_path / f"{n}.jsonl", examples(n, seed=n)) for n in (40, 8))
    recipe = make_recipe("rerank", pretrained, train, dev, rerank={"layers": [1, 3]}, training={"precision": "fp32"})
    final = finetune(recipe, out=tmp_path / "run").folder
    short = Reranker.load(final, num_layers=1, precision="fp32")
    scores = [found.score for found in short("water", ["maji", "moto"])]
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(("task", "options", "named"), [
    ("embed", {"layers": [1]}, "layers needs mini_batch null"),
    ("embed", {"layers": [1], "mini_batch": None, "mini_batch_tokens": 64}, "layers needs mini_batch null"),
    ("embed", {"layers": [1], "mini_batch": None, "mix_layers": True}, "give layers or mix_layers"),
    ("embed", {"layers": [0], "mini_batch": None}, "greater than or equal to 1|at least 1"),
    ("embed", {"layers": [4], "mini_batch": None}, r"embed.layers \[4\]: name numbers from 1 to 2, the model has 3"),
    ("embed", {"layers": [3], "mini_batch": None}, r"embed.layers \[3\]: name numbers from 1 to 2, the model has 3"),
    ("rerank", {"layers": [1, 7]}, r"rerank.layers \[1, 7\]: name numbers from 1 to 2, the model has 3"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(
    task: str,
    options: dict[str, Any],
    named: str,
    pretrained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises((ConfigError, ValueError), match=named):
        build_model(make_recipe(task, pretrained, Path("x"), **{task: options}))
    train = write_rows(tmp_path / "train.jsonl", examples(8))
    with pytest.raises((ConfigError, ValueError), match=named):
        dry_run(make_recipe(task, pretrained, train, **{task: options}), tmp_path / "run")


def test_a_mix_of_all_layers_stays_whole(pretrained: Path, tmp_path: Path) -> None:  # noqa: F811
    train = write_rows(tmp_path / "train.jsonl", examples(8))
    recipe = make_recipe("embed", pretrained, train, embed={"mix_layers": True, "mini_batch": 4})
    final = finetune(recipe, out=tmp_path / "run").folder
    with pytest.raises(ConfigError, match="pools a mix of all 3 layers: it cannot run fewer"):
        Embedder.load(final, num_layers=2)
    assert Embedder.load(final, num_layers=3).loaded.config.num_layers == 3
    with pytest.raises(ConfigError, match="pools a mix of all layers, none can be left out"):
        build_model(make_recipe("embed", final, train, embed={"layers": [1], "mini_batch": None}))
