"""Channels that are much larger than others, before int8: the same numbers, and a better int8 file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmbert
from mmbert.exporting import export as exporting
from mmbert.exporting.export import INT8
from mmbert.exporting.smooth import smooth
from mmbert.exporting.texts import TEXTS
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.packed import Packed

LARGE = 512.0


def uneven(encoder: Encoder) -> Encoder:
    """Two channels of every MLP are made large, and small again behind it."""
    with torch.no_grad():
        for layer in encoder.layers:
            inner = layer.mlp.Wo.weight.shape[1]  # type: ignore[union-attr, index]
            layer.mlp.Wi.weight[inner + 3 : inner + 5] *= LARGE  # type: ignore[union-attr, index, operator]
            layer.mlp.Wo.weight[:, 3:5] /= LARGE  # type: ignore[union-attr, index, operator]
    return encoder


def test_the_same_numbers_of_even_channels() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_layers": 3, "num_heads": 2}
    encoder = uneven(Encoder(ModelConfig(**shape))).eval()
    packed = Packed.from_lists([[*range(5, 40)], [7]]).to()
    seen: list[Tensor] = []
    encoder.layers[1].mlp.Wo.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().amax(0)))  # type: ignore[union-attr]
    with torch.inference_mode():
        before = encoder(packed)
        smooth(encoder, lambda: encoder(packed))
        after = encoder(packed)
    assert torch.equal(before, after)
    uneven_most, even_most = (float(channels.max() / channels.median()) for channels in (seen[0], seen[-1]))
    assert uneven_most > 100
    assert even_most < uneven_most / 10


def test_an_int8_file_of_uneven_channels(masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = uneven(Encoder.load(masked_lm))
    folder = tmp_path / "uneven"
    encoder.save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((masked_lm / name).read_bytes())

    def cosine(out: str) -> float:
        options = {"format": "onnx", "output": "hidden", "int8": True, "quality": 0.0}
        return mmbert.export(folder, tmp_path / out, texts=TEXTS, **options).checks[INT8].cosine  # type: ignore[arg-type]

    found = cosine("smooth")
    monkeypatch.setattr(exporting, "smooth", lambda *_: None)
    assert 1 - found < (1 - cosine("plain")) / 3
