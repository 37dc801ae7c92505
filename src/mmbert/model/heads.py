"""The masked language model: encoder, prediction head, and a decoder that is the token embedding or a matrix alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmbert.errors import WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.init import init_weights, materialise
from mmbert.model.layers import Linear, PredictionHead
from mmbert.model.weights import (
    EMBEDDING,
    TIED,
    check_size,
    cut_padding,
    fill,
    load_config,
    load_state,
    model_folder,
    save_model,
    take_encoder,
)
from mmbert.packed import Packed


class MaskedLM(nn.Module):
    """logits = head(encoder(ids)) D^T + b. Only the rows of ``packed.targets`` reach the head.

    D (V, h) is the token embedding, or a matrix of its own if the config says that it is not tied.
    Names of weights are those of Hugging Face's ``ModernBertForMaskedLM``. Fresh weights come from torch's global
    generator (``init_weights`` draws them from one of yours).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.model = Encoder(config)
            self.head = PredictionHead(config)
            self.decoder = Linear(config.hidden_size, config.vocab_size, bias=True)
        # Weights are drawn after tying, so that the shared matrix is drawn once.
        real = materialise(self)
        self.tie()
        if real:
            init_weights(self, config)

    def tie(self) -> None:
        """Make a tied decoder's matrix the token embedding; needed again after the model leaves the meta device."""
        if self.config.tied:
            self.decoder.weight = self.model.embeddings.tok_embeddings.weight

    @classmethod
    def load(cls, name: str | Path, *, revision: str | None = None) -> MaskedLM:
        """Load a model from a folder or the hub, fp32, on the CPU. Raises WeightsError."""
        folder = model_folder(name, revision=revision)
        return cls.from_state(load_config(folder), load_state(folder), str(folder))

    @classmethod
    def from_state(cls, config: ModelConfig, state: dict[str, Tensor], where: str, *, mapped: bool = False) -> MaskedLM:
        """Return the model of the tensors in ``state``; options and errors as of ``Encoder.from_state``."""
        if not any(key.startswith(("head.", "decoder.")) for key in state):
            raise WeightsError(f"{where} holds an encoder without a language-model head: use Encoder.load")
        state |= {f"model.{name}": value for name, value in take_encoder(state).items()}
        check_size(config, state, where)
        cut_padding(state, config.vocab_size)
        stored = state.pop(TIED, None) if config.tied else None
        # A file may hold either matrix or both. Of two different ones, transformers 4 takes the first, 5 takes both.
        if stored is not None and not torch.equal(stored, state.setdefault(EMBEDDING, stored)):
            raise WeightsError(
                f"{where}: {TIED} differs from the token embedding, and config.json ties them: write "
                '"tie_word_embeddings": false into it, if the decoder was trained by itself'
            )
        with torch.device("meta"):
            model = cls(config)
        fill(model, state, where, tied=TIED if config.tied else None, mapped=mapped)
        model.tie()
        return model

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` for ``transformers`` 4 and 5 and servers."""
        save_model(self, self.config, "ModernBertForMaskedLM", Path(folder))

    def forward(self, packed: Packed) -> Tensor:
        """Return the same as :meth:`logits`."""
        return self.logits(packed)

    def encode(self, packed: Packed) -> Tensor:
        """Return the final hidden states (T, h)."""
        x: Tensor = self.model(packed)
        return x

    def features(self, packed: Packed) -> Tensor:
        """Return the head's output (N, h) at ``packed.targets``, or at all T tokens without targets."""
        packed = packed.tensors(self.decoder.bias.device)
        x, plan = self.model.run(packed)
        # Only predicted rows go on: at a mask rate of 5 % the head and the decoder of V columns cost a twentieth.
        rows = packed.targets  # in the order of the batch; x is in the order of the plan
        if plan.inverse is not None:
            rows = plan.inverse if rows is None else plan.inverse.index_select(0, rows)
        if rows is not None:
            x = x.index_select(0, rows)
        out: Tensor = self.head(x)
        return out

    def logits(self, packed: Packed) -> Tensor:
        """Return logits (N, V) at ``packed.targets``, or (T, V). Training computes them in chunks instead."""
        out: Tensor = self.decoder(self.features(packed))
        return out
