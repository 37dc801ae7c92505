"""The modules of ModernBERT: embeddings, attention, GeGLU, and the pre-norm layer (RoPE, no biases).

The residual stream and all LayerNorms are fp32 under bf16 autocast too: a Linear returns bf16, and its sum with the
fp32 stream is fp32. It costs nothing and keeps the relative error of embeddings near 5e-4 instead of 3e-2.

Shapes: ``T`` tokens, ``h`` hidden size, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.model.attention import AttentionPlan, attend, lengths
from mmbert.model.config import ModelConfig
from mmbert.model.rope import Angles, rotate
from mmbert.native import attention as native
from mmbert.native import fused


class Linear(nn.Linear):
    """torch's layer without initialisation: weights come from a file, or from ``init_weights``."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Embedding(nn.Embedding):
    """torch's table without initialisation, which would import torch's compiler on the meta device."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """Return a LayerNorm without bias."""
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)


def add_norm(norm: nn.Module, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return x + ``added``, and its norm as the next product takes it: in autocast's type where that is the same."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    fits = x.dtype == torch.float32 and x.dim() == 2 and (added is None or added.dtype == dtype)
    fits = fits and isinstance(norm, nn.LayerNorm) and norm.weight.dtype == torch.float32
    if fits and fused.ready(x, x.shape[1], dtype):
        assert isinstance(norm, nn.LayerNorm)
        return fused.add_norm(x, added, norm.weight, norm.eps, dtype)
    total = x if added is None else x + added
    return total, norm(total)


class Embeddings(nn.Module):
    """Token embeddings and their norm; positions enter through attention only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # padding_idx stops the gradient of <pad>, as in Hugging Face; packed batches hold no padding.
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_id)
        self.norm = layer_norm(config)
        self.dropout = config.embed_dropout

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, h)."""
        rows = self.tok_embeddings(ids)
        x: Tensor = self.norm(rows.to(self.norm.weight.dtype))  # a table in a file's map may have 16 bits
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Attention(nn.Module):
    """Bidirectional self-attention within each document, over all of it or within the window."""

    def __init__(self, config: ModelConfig, *, local: bool) -> None:
        super().__init__()
        self.Wqkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.Wo = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.head_dim = config.head_dim
        self.dropout = config.attention_out_dropout
        self.local = local

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h)."""
        # Rows of Wqkv: all queries, all keys, all values, each by head.
        qkv = self.Wqkv(x).view(x.shape[0], 3, -1, self.head_dim)
        if plan.offsets is None and native.ready(qkv):
            half = plan.half if self.local else plan.longest
            attended = native.attend(qkv, cos_sin.cos, cos_sin.sin, lengths(plan.whole), half)
        else:
            q, k, v = rotate(qkv, cos_sin, plan.dtype)
            attended = attend(q, k, v, plan, local=self.local)
        # torch's attention may run in another type (fp32 on a CPU); Wo takes the type of the other products.
        out: Tensor = self.Wo(attended.flatten(1).to(qkv.dtype))
        return F.dropout(out, self.dropout, self.training) if self.dropout else out


class GeGLU(nn.Module):
    """Wo (gelu(a) * b) for (a, b) = Wi x, with the exact GELU (Shazeer, 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.Wi = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.Wo = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = config.mlp_dropout

    def forward(self, x: Tensor) -> Tensor:
        """(T, h) -> (T, h)."""
        # The first half is activated, as in Hugging Face: swapped halves load without an error and compute nonsense.
        wide = self.Wi(x)
        activated, gate = wide.chunk(2, dim=-1)
        if wide.dim() == 2 and fused.ready(wide, activated.shape[1], wide.dtype):
            inner = fused.geglu(wide)
        else:
            inner = F.gelu(activated) * gate
        if self.dropout:
            inner = F.dropout(inner, self.dropout, self.training)
        out: Tensor = self.Wo(inner)
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Layer 0 has no attention norm: the embeddings end in one."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.local = not config.is_global(index)
        # Identity has no weight, so the names in a file match: layer 0 stores no attn_norm.
        self.attn_norm = layer_norm(config) if index else nn.Identity()
        self.attn = Attention(config, local=self.local)
        self.mlp_norm = layer_norm(config)
        self.mlp = GeGLU(config)

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h), fp32."""
        x, normed = add_norm(self.attn_norm, x)
        return self.feed_forward(x, self.attn(normed, plan, cos_sin))

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return y + mlp(norm(y)) of y = x + ``attended``, the part that ``compile_model`` compiles."""
        # fp32 + bf16 is fp32: the stream never leaves fp32.
        x, normed = add_norm(self.mlp_norm, x, attended)
        more: Tensor = self.mlp(normed)
        # a sum of two types is slow on a CPU; a GPU converts on the way
        return x + (more.to(x.dtype) if x.device.type == "cpu" else more)

    def compile_feed_forward(self, backend: str) -> None:
        """Replace ``feed_forward`` of this layer by its compiled form."""
        self.feed_forward = torch.compile(self.feed_forward, dynamic=True, backend=backend)  # type: ignore[method-assign]


class PredictionHead(nn.Module):
    """norm(gelu(dense(x))) without biases, between encoder and decoder or classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = layer_norm(config)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h) -> (N, h)."""
        out: Tensor = self.norm(F.gelu(self.dense(x)))
        return out
