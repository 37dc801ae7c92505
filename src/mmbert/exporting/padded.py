"""The model over padded batches, as a graph for other runtimes: plain products and sums, weights shared with the model.

The encoder takes packed documents, which no exchange format has. Here ids are (B, L) with a mask of real tokens.
Padding may be on either side; results at padding are finite and have no meaning.

Shapes: ``B`` texts, ``L`` tokens of the longest, ``h`` hidden size, ``H`` heads, ``D`` head dimension, ``d`` width of a
text's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import ConfigError
from mmbert.inference.pooling import Pooling
from mmbert.model.encoder import Encoder
from mmbert.model.layers import Layer
from mmbert.model.rope import attention_factor, frequencies

_HIDDEN = torch.finfo(torch.float32).min
"""Added to a hidden score. It is finite, so that a padded token that sees nothing gives no NaN."""

CosSin = tuple[Tensor, Tensor]


class PaddedEncoder(nn.Module):
    """Last hidden states (B, L, h), or a weighted sum of all layers', from ids and mask (B, L).

    ``encoder`` must be in precision ``plain``: its modules are used. ``mix``: weights, embeddings first.
    """

    frequencies: Tensor
    local_frequencies: Tensor

    def __init__(self, encoder: Encoder, mix: Sequence[float] | None = None) -> None:
        super().__init__()
        self.encoder, self.mix = encoder, mix
        config = encoder.config
        for name, rope in (("frequencies", config.rope(local=False)), ("local_frequencies", config.rope(local=True))):
            # stored in the file instead of computed by a runtime: the error of its power would grow with the position
            if rope.scaling and rope.scaling.rope_type == "dynamic":
                raise ConfigError("RoPE's dynamic scaling has other angles for every length: a graph cannot hold them")
            self.register_buffer(name, frequencies(config.head_dim, *rope), persistent=False)
        self.scales = tuple(attention_factor(config.rope(local=local).scaling) for local in (False, True))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) int64 each -> (B, L, h) fp32."""
        encoder, places = self.encoder, torch.arange(input_ids.shape[1], device=input_ids.device)
        seen = attention_mask.to(torch.bool)[:, None, None, :]
        near = (places[:, None] - places[None, :]).abs() <= encoder.config.window // 2
        whole, local = _bias(seen), _bias(seen & near)
        rates = (self.frequencies, self.local_frequencies)
        cos_sin = [_cos_sin(places, rate, scale) for rate, scale in zip(rates, self.scales, strict=True)]
        x: Tensor = encoder.embeddings.norm(F.embedding(input_ids, encoder.embeddings.tok_embeddings.weight))
        mixed = None
        for index, layer in enumerate(encoder.layers):
            assert isinstance(layer, Layer), "an encoder in precision plain"
            if self.mix is not None:
                mixed = x * self.mix[index] if mixed is None else mixed + x * self.mix[index]
            x = layer.feed_forward(x, _attend(layer, x, local if layer.local else whole, cos_sin[layer.local]))
        x = encoder.final_norm(x)
        return x if self.mix is None or mixed is None else mixed + x * self.mix[-1]


class PaddedEmbedder(nn.Module):
    """Vectors of texts (B, d) from ids and mask (B, L): pooling, and the modules behind it."""

    def __init__(self, encoder: Encoder, pooling: Pooling, after: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(encoder, pooling.shares)
        self.modes, self.after = pooling.modes, nn.Sequential(*after)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) int64 each -> (B, d) fp32."""
        x = self.encoder(input_ids, attention_mask)
        out: Tensor = self.after(torch.cat([pool_padded(mode, x, attention_mask) for mode in self.modes], dim=1))
        return out


class PaddedClassifier(nn.Module):
    """A head: logits of each text (B, labels), or of each token (B, L, labels); of a vocabulary too.

    pooling  "mean" or "cls" of the tokens; None: each token
    """

    def __init__(self, encoder: Encoder, head: nn.Module, pooling: str | None) -> None:
        super().__init__()
        self.encoder, self.head, self.pooling = PaddedEncoder(encoder), head, pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) int64 each -> logits fp32."""
        x = self.encoder(input_ids, attention_mask)
        out: Tensor = self.head(x if self.pooling is None else pool_padded(self.pooling, x, attention_mask))
        return out


class PaddedSpans(PaddedClassifier):
    """Logits of each token to begin and to end the answer, (B, L) each."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, L) int64 each -> (B, L) fp32, twice."""
        start, end = super().forward(input_ids, attention_mask).unbind(-1)
        return start, end


def pool_padded(mode: str, x: Tensor, mask: Tensor) -> Tensor:
    """Return (B, h) of (B, L, h) and a mask (B, L), as ``mmbert.inference.pooling`` for packed documents."""
    counted = mask.to(x.dtype)[:, :, None]
    if mode == "cls":
        return _row(x, mask.argmax(dim=1))
    if mode == "lasttoken":
        return _row(x, (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1))
    if mode == "max":
        return torch.where(mask.to(torch.bool)[:, :, None], x, _HIDDEN).amax(dim=1)
    if mode == "weightedmean":  # by position in the text: 1, 2, ...
        counted = counted * mask.cumsum(dim=1).to(x.dtype)[:, :, None]
    total = (x * counted).sum(dim=1)
    if mode == "mean_sqrt_len_tokens":
        return total / counted.sum(dim=1).sqrt()
    if mode not in ("mean", "weightedmean"):
        raise ConfigError(f"pooling {mode} cannot be exported")
    return total / counted.sum(dim=1)


def _row(x: Tensor, index: Tensor) -> Tensor:
    """Return the row (B, h) of (B, L, h) at ``index`` (B,)."""
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


def _bias(seen: Tensor) -> Tensor:
    return torch.where(seen, 0.0, _HIDDEN)


def _cos_sin(places: Tensor, rates: Tensor, scale: float) -> CosSin:
    """Return cosine and sine (L, D / 2), fp32, times YaRN's ``scale``."""
    angles = places.to(torch.float32)[:, None] * rates
    return (angles.cos(), angles.sin()) if scale == 1 else (angles.cos() * scale, angles.sin() * scale)


def _attend(layer: Layer, x: Tensor, bias: Tensor, cos_sin: CosSin) -> Tensor:
    """Return attention(norm(x)): (B, L, h) -> (B, L, h); ``bias`` (B, 1, 1 or L, L) is added to the scores."""
    attention = layer.attn
    batch, length, width = x.shape
    qkv = attention.Wqkv(layer.attn_norm(x)).view(batch, length, 3, width // attention.head_dim, attention.head_dim)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, H, L, D)
    scores = _rotated(q * attention.head_dim**-0.5, cos_sin) @ _rotated(k, cos_sin).transpose(2, 3)
    mixed = torch.softmax(scores + bias, dim=-1) @ v
    out: Tensor = attention.Wo(mixed.transpose(1, 2).reshape(batch, length, width))
    return out


def _rotated(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Return x (B, H, L, D) with RoPE applied by halves."""
    (cos, sin), (first, second) = cos_sin, x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
