"""transformers' ModernBERT with our encoder inside: same weights, same names, no padding in any layer.

The code around the model, above all sentence-transformers, passes a padded table of ids with a mask and slices it by
rows (cached gradients do), so that interface stays. Inside, the texts ``ids[mask]`` are concatenated and run through
every layer, norm and vocabulary head in this packed form; only the token vectors that pooling needs are padded again.
That costs one copy of integers before and one of vectors after; benchmarks/finetuning_sentence.py measures both.

Shapes: ``S`` texts, ``L`` tokens of the longest, ``T`` tokens in all, ``h`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ModernBertForMaskedLM, ModernBertModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from mmbert.errors import WeightsError
from mmbert.finetuning.largest_logits import largest_logits
from mmbert.model.config import config_from_hf
from mmbert.model.encoder import Encoder
from mmbert.packed import Packed


def pack_engine(model: PreTrainedModel) -> PackedBody:
    """Give a ModernBERT of transformers, with any head or none, our layers and our forward, in place.

    Numbers, parameters and their names stay the same; saving, loading, devices, gradient checkpointing and adapters
    work as before. A ModernBertForMaskedLM returns the largest logit of each vocabulary entry over a text, (S, 1, V):
    all that SPLADE's max pooling needs, without a tensor of (S, L, V).
    Raises WeightsError for another architecture.
    """
    base = model if isinstance(model, ModernBertModel) else getattr(model, "model", None)
    if not isinstance(base, ModernBertModel):
        raise WeightsError(f"{type(model).__name__} is not a ModernBERT: packed fine-tuning knows no other model")
    config = config_from_hf(base.config.to_dict(), "the model's config.json")
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.load_state_dict(base.state_dict(), assign=True)
    for new, old in zip(encoder.parameters(), base.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    base.embeddings, base.layers, base.final_norm = encoder.embeddings, encoder.layers, encoder.final_norm
    base.rotary_emb = torch.nn.Identity()  # the encoder computes its own angles, restarted at every text
    encoder.train(base.training)
    body = base.forward = PackedBody(base, encoder)
    if isinstance(model, ModernBertForMaskedLM):
        model.forward = LargestLogits(model, body)
    model.tie_weights()
    return body


def pack_table(ids: Tensor, mask: Tensor | None) -> tuple[Packed, Tensor]:
    """Return a padded table of ids (S, L) as packed texts, and the positions of its T tokens in the flat table.

    Raises ValueError for a text without a token.
    """
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    lengths = mask.sum(1)
    counted = lengths.tolist()
    if not counted or min(counted) == 0:
        raise ValueError("a text without tokens: tokenizers put <bos> and <eos> around every text")
    places = mask.reshape(-1).nonzero().squeeze(1)
    offsets = torch.zeros(len(counted) + 1, dtype=torch.int32, device=ids.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    packed = Packed(ids.reshape(-1).index_select(0, places), offsets, max(counted))
    packed.__dict__["lengths"] = counted  # fills the cached property: computing it again would wait for the device
    return packed, places


def lay_out(x: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return rows of tokens (T, h) as a table (S, L, h), zero where there is no token."""
    table = x.new_zeros(shape[0] * shape[1], x.shape[1])
    return table.index_copy(0, places, x).view(*shape, -1)


class Exits:
    """The states behind some layers, from one pass over each batch of a step.

    A loss that is computed once for all layers and then again for each of some: the first time the batches are
    computed, and later ones read what was kept of them, in the same order.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers, self._layer, self._next = tuple(layers), -1, 0
        self._batches: list[list[Tensor]] = []

    def use(self, index: int) -> None:
        """Read the states behind ``layers[index]`` from the first batch on."""
        self._layer, self._next = index, 0

    def __call__(self, encoder: Encoder, packed: Packed) -> Tensor:
        """Return the vectors of tokens (T, h) of the next batch."""
        if self._layer < 0:
            self._batches.append(encoder.forward_layers(packed, (*self._layers, encoder.config.num_layers)))
        self._next += 1
        return self._batches[self._next - 1][self._layer]


class PackedBody:
    """The forward of ModernBertModel.

    mix     learned weights of a sum over the layers (``Encoder.run``), in place of the last layer; None: without
    layers  numbers of layers that are trained beside all of them. Where the config asks for hidden states, those behind
            these and all layers are returned, each through the final norm, as models of so many layers return them
            (transformers' own hidden states leave the norm out of all but the last)
    exits   gives the states of the next batch, while a loss is computed for several layers
    """

    def __init__(self, base: ModernBertModel, encoder: Encoder) -> None:
        self.base, self.encoder = base, encoder
        self.mix: Callable[[], Tensor] | None = None
        self.layers: tuple[int, ...] = ()
        self.exits: Exits | None = None

    def __call__(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """``last_hidden_state`` (S, L, h); with ``layers`` also ``hidden_states``, the last of which it is."""
        if self.layers and self.base.config.output_hidden_states:
            packed, places = self._pack(input_ids, attention_mask)
            states = self.encoder.forward_layers(packed, (*self.layers, self.encoder.config.num_layers))
        else:
            x, places, _packed = self.run(input_ids, attention_mask)
            states = [x]
        assert input_ids is not None
        tables = tuple(lay_out(x, places, tuple(input_ids.shape)) for x in states)
        return BaseModelOutput(last_hidden_state=tables[-1], hidden_states=tables if len(tables) > 1 else None)

    def run(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Packed]:
        """Return the vectors of tokens (T, h), their positions in the flat table, and the packed texts."""
        packed, places = self._pack(ids, mask)
        if self.exits is not None:
            return self.exits(self.encoder, packed), places, packed
        x: Tensor = self.encoder(packed, None if self.mix is None else self.mix())
        return x, places, packed

    def _pack(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Packed, Tensor]:
        if ids is None:
            raise ValueError("packed ModernBERT takes input_ids, no inputs_embeds")
        self.encoder.gradient_checkpointing = self.base.gradient_checkpointing
        return pack_table(ids, mask)


class LargestLogits:
    """The forward of ModernBertForMaskedLM under SPLADE's pooling."""

    def __init__(self, model: ModernBertForMaskedLM, body: PackedBody) -> None:
        self.model, self.body = model, body

    def __call__(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """``logits`` (S, 1, V): each text as if it were one token, the first, which every mask holds."""
        x, _places, packed = self.body.run(input_ids, attention_mask)
        decoder = self.model.decoder
        found = largest_logits(self.model.head(x), decoder.weight, decoder.bias, packed)
        return MaskedLMOutput(logits=found.unsqueeze(1))
