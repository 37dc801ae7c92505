"""The packed encoder: independence of documents, training switches, precision, and the rows the head sees."""

from __future__ import annotations

import pytest
import torch

from mmbert.model.config import ModelConfig
from mmbert.model.encoder import EVEN, Encoder, compile_model
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed

TINY = ModelConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=4, num_heads=2, window=16)


def documents(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(5, 97, (length,), generator=generator).tolist() for length in lengths]


def build(**changes: object) -> MaskedLM:
    torch.manual_seed(0)
    model = MaskedLM(TINY.model_copy(update=changes))
    with torch.no_grad():  # large enough that attention prefers some tokens
        for layer in model.model.layers:
            layer.attn.Wqkv.weight.mul_(10)
            layer.attn.Wo.weight.mul_(10)
    return model


def test_a_document_does_not_depend_on_what_it_is_packed_with() -> None:
    model = build().eval()
    texts = documents(1, 70, 9, 200, 9, 90, 400, 2)
    with torch.inference_mode():
        alone = [model.logits(Packed.from_lists([text]).to()) for text in texts]
        for arrangement in ([*range(8)], [6, 3, 0, 7, 5, 1, 2, 4], [3, 6]):
            packed = Packed.from_lists([texts[i] for i in arrangement]).to()
            for i, rows in zip(arrangement, packed.unpack(model.logits(packed)), strict=True):
                torch.testing.assert_close(rows, alone[i], atol=2e-6, rtol=1e-5)
    changed = [list(text) for text in texts]
    changed[3][50] = changed[3][50] % 90 + 6
    with torch.inference_mode():
        packed = Packed.from_lists(changed).to()
        moved = [(a - b).abs().max() for a, b in zip(packed.unpack(model.logits(packed)), alone, strict=True)]
    assert moved[3] > 1e-2
    assert max(moved[:3] + moved[4:]) < 1e-5


def test_one_pass_gives_what_models_of_fewer_layers_return() -> None:
    model = build().model.eval()
    packed = Packed.from_lists(documents(1, 70, 9, 200)).to()
    with torch.inference_mode():
        found = model.forward_layers(packed, (1, 3, 4))
        for count, states in zip((1, 3, 4), found, strict=True):
            short = Encoder(TINY.model_copy(update={"num_layers": count})).eval()
            short.load_state_dict({name: model.state_dict()[name] for name in short.state_dict()})
            torch.testing.assert_close(states, short(packed))


def test_features_are_the_rows_of_the_targets_in_their_order() -> None:
    model = build().eval()
    packed = Packed.from_lists(documents(90, 5, 30)).to()
    targets = torch.tensor([0, 3, 89, 90, 94, 95, 124])
    some = Packed(packed.ids, packed.offsets, packed.longest, targets, packed.ids[targets])
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(some), model.logits(packed)[targets], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model.head(model.encode(packed)), model.features(packed), atol=1e-6, rtol=1e-5)
    none = Packed(packed.ids, packed.offsets, packed.longest, targets[:0], targets[:0])
    assert model.logits(none).shape == (0, 97)


def test_gradients_reach_every_weight_and_all_rows_of_the_encoder() -> None:
    model = build()
    packed = Packed.from_lists(documents(90, 5, 30)).to()
    weight = torch.randn(packed.tokens, 32)
    (model.encode(packed) * weight).sum().backward()
    straight = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    assert straight.keys() == {name for name, _ in model.model.named_parameters()}
    model.zero_grad()
    ascending = Packed.from_lists([packed.unpack(packed.ids.numpy())[i] for i in (1, 2, 0)]).to()
    rows = torch.cat([weight[90:95], weight[95:125], weight[:90]])
    (model.encode(ascending) * rows).sum().backward()  # the same documents as they are laid out inside
    for name, parameter in model.model.named_parameters():
        torch.testing.assert_close(parameter.grad, straight[name], atol=1e-5, rtol=1e-4)


def test_dropout_is_for_training_only_and_follows_the_global_generator() -> None:
    model = build(attention_out_dropout=0.3, embed_dropout=0.1, mlp_dropout=0.1)
    packed = Packed.from_lists(documents(40, 12)).to()

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.encode(packed).detach()

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2), atol=1e-3)
    model.eval()
    assert torch.equal(run(1), run(2))


@pytest.mark.parametrize("field", ["attention_out_dropout", "embed_dropout", "mlp_dropout"])
def test_each_dropout_has_an_effect(field: str) -> None:
    packed = Packed.from_lists(documents(40)).to()
    torch.manual_seed(3)
    dropped = build(**{field: 0.5})
    assert not torch.allclose(dropped.encode(packed), dropped.eval().encode(packed), atol=1e-3)


def test_gradient_checkpointing_changes_no_gradient_and_keeps_less() -> None:
    packed = Packed.from_lists(documents(200, 31, 64)).to()
    gradients, kept = [], []
    for checkpointing in (False, True):
        model = build(attention_out_dropout=0.2)
        model.model.gradient_checkpointing = checkpointing
        sizes: list[int] = []
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            loss = model.logits(packed).square().mean()
        loss.backward()
        kept.append(sum(sizes))
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)
    assert kept[1] < kept[0] / 3


def test_residual_stream_and_norms_stay_fp32_under_autocast() -> None:
    model = build().eval()
    packed = Packed.from_lists(documents(300, 20)).to()
    seen: dict[str, set[torch.dtype]] = {"norm": set(), "layer": set(), "linear": set()}
    for name, module in model.named_modules():
        kind = (
            "norm"
            if "norm" in name and list(module.parameters())
            else "linear"
            if name.endswith(("Wqkv", "Wo", "Wi"))
            else ""
        )
        if kind or name.split(".")[-2:-1] == ["layers"]:
            module.register_forward_hook(lambda _m, _i, out, kind=kind or "layer": seen[kind].add(out.dtype))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = model.encode(packed)
    assert seen == {"norm": {torch.float32}, "layer": {torch.float32}, "linear": {torch.bfloat16}}
    with torch.inference_mode():
        exact = model.encode(packed)
    assert float((low - exact).norm() / exact.norm()) < 2e-2


def test_a_model_cast_to_bf16_runs() -> None:
    model = build().to(torch.bfloat16).eval()
    packed = Packed.from_lists(documents(300, 20)).to()
    with torch.inference_mode():
        assert model.logits(packed).dtype == torch.bfloat16


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # the tracer looks at its inputs
def test_compiling_changes_neither_names_nor_numbers() -> None:
    model = build()
    packed = Packed.from_lists(documents(40, 12)).to()
    names, before = list(model.state_dict()), model.logits(packed)
    compile_model(model, backend="eager")
    after = model.logits(packed)
    torch.testing.assert_close(after, before)
    assert list(model.state_dict()) == names
    torch._dynamo.reset()


def test_a_document_of_8192_tokens_runs_forward_and_backward() -> None:
    model = Encoder(TINY)
    packed = Packed.from_lists(documents(8192)).to()
    model(packed).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_training_in_bf16_rounds_up_the_number_of_tokens() -> None:
    """Where each number would be compiled for: the text that is added is seen by nothing and gets no gradient."""
    model = build().model
    seen: list[int] = []
    model.layers[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    packed = Packed.from_lists(documents(9, 70, 31)).to()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            wanted = model(packed)
            wanted_first = model.forward_layers(packed, [2])[0]
        found, (found_first,) = model(packed), model.forward_layers(packed, [2])
    plain = model(packed)
    assert seen == [110, 110, EVEN, EVEN, 110]
    assert found.shape == plain.shape
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
    torch.testing.assert_close(found_first, wanted_first, atol=0.03, rtol=0.03)
    found.square().sum().backward()
    table = model.embeddings.tok_embeddings.weight.grad
    assert table is not None
    assert torch.equal(table.abs().sum(1).nonzero()[:, 0], packed.ids.unique())
