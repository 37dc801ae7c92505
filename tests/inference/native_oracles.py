"""What the native kernels are compared with: attention and layers by torch, in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mmbert.inference.native.kernel import Kernels
from mmbert.inference.native.layer import NativeLayer
from mmbert.model.attention import plan_attention
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.layers import Layer
from mmbert.model.rope import angles, rotate
from mmbert.packed import Packed


def projection(
    tokens: int, head_dim: int, dtype: torch.dtype, *, heads: int = 2, scale: float = 1.0, seed: int = 0
) -> torch.Tensor:
    drawn = torch.randn(tokens, 3, heads, head_dim, generator=torch.Generator().manual_seed(seed))
    drawn[:, :2] *= scale
    return drawn.to(dtype)


def attend(kernels: Kernels, qkv: torch.Tensor, lengths: Sequence[int], window: int, *, local: bool) -> torch.Tensor:
    """By the kernel; ``lengths`` ascend, as the plan would have them."""
    plan = plan_attention(Packed.from_lists([np.zeros(n, np.int64) for n in lengths]).to(), window, torch.float32)
    return kernels.attend(qkv, angles(plan.positions, qkv.shape[-1], 10_000.0), plan, local=local)


def masked(qkv: torch.Tensor, lengths: Sequence[int], half: int | None) -> torch.Tensor:
    """All tokens against all in fp32, with a mask that says who sees whom."""
    counts = torch.tensor(lengths)
    document = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    where = torch.cat([torch.arange(n) for n in lengths])
    seen = document[:, None] == document
    if half is not None:
        seen &= (where[:, None] - where).abs() <= half
    cos_sin = angles(where, qkv.shape[-1], 10_000.0, qkv.shape[2])
    q, k, v = (x.transpose(0, 1) for x in rotate(qkv.float(), cos_sin, torch.float32))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)


def bound(dtype: torch.dtype) -> float:
    return 1e-2 if dtype == torch.bfloat16 else 2e-6


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def shape(hidden: int = 128, inner: int = 96, heads: int = 2) -> ModelConfig:
    return ModelConfig(
        vocab_size=300, hidden_size=hidden, intermediate_size=inner, num_layers=4, num_heads=heads,
        rope_theta=160_000.0, local_rope_theta=10_000.0,
    )  # fmt: skip


def encoder(config: ModelConfig) -> Encoder:
    """Random weights large enough for attention to choose and GELU to bend."""
    torch.manual_seed(0)
    made = Encoder(config).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.dim() == 2:
            parameter.normal_(0, 0.1 if "Wqkv" in name else 0.06)
    return made


def run(layer: torch.nn.Module, x: torch.Tensor, lengths: list[int], *, head_dim: int = 64) -> torch.Tensor:
    plan = plan_attention(Packed.from_lists([np.zeros(n, np.int64) for n in lengths]).to(), 128, torch.float32)
    with torch.inference_mode():
        found: torch.Tensor = layer(x, plan, angles(plan.positions, head_dim, 10_000.0, x.shape[1] // head_dim))
    return found


def rows(tokens: int, width: int = 128, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def layer_error(found: torch.Tensor, wanted: torch.Tensor, x: torch.Tensor) -> float:
    """Of what a layer adds."""
    return float((found - wanted).norm() / (wanted - x).norm())


def largest_products_are_whole(kernels: Kernels) -> bool:
    """Whether int8 has the largest inputs and weights of either sign right, whose products 16 bits would cut off."""
    layer = encoder(shape(hidden=64, inner=64, heads=1)).layers[0]
    assert isinstance(layer, Layer)
    whole = True
    for weight in (0.5, -0.5):
        layer.attn.Wqkv.weight.fill_(weight)
        made = NativeLayer(layer, "int8", kernels)
        for x in (torch.ones(7, 64), -torch.ones(7, 64)):
            whole &= torch.allclose(made.project(x).float(), x @ layer.attn.Wqkv.weight.t(), rtol=1e-2)
    return whole
