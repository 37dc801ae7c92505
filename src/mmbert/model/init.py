"""Initial weights: ``full_megatron`` of ModernBERT's trainer (Shoeybi et al. 1909.08053, with truncated normals)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmbert.model.config import ModelConfig

OUTPUT_MATRICES = (".attn.Wo.weight", ".mlp.Wo.weight")
"""Matrices whose output is added to the residual stream: smaller, so that the stream does not grow with depth."""


def materialise(module: nn.Module) -> bool:
    """Give uninitialised memory to a module built on the meta device, and return True.

    If meta is the default device, the module stays there and the result is False: weights of a file follow, and an
    initialisation before would import torch's compiler and sympy, which takes five seconds.
    """
    device = torch.get_default_device()
    if device.type == "meta":
        return False
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):  # to_empty would import sympy
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device)))
    return True


@torch.no_grad()
def init_weights(
    model: nn.Module,
    config: ModelConfig,
    generator: torch.Generator | None = None,
    shares: Tensor | None = None,
    vectors: Tensor | None = None,
) -> None:
    """Initialise all weights of an encoder or masked language model, in the order of the model's parameters.

    shares   (V,) relative frequency of each token: decoder.bias is its logarithm (Meister et al. 2212.09686)
    vectors  (V, h) unit vectors for token embeddings, scaled to the norm of random ones; rows of 0 stay random

    ============================================  =========================================================
    Wqkv, Wi, head.dense, token embedding         normal(0, r), cut at +-c r (r, c: initializer_range, _cutoff)
    attn.Wo, mlp.Wo                               normal(0, r / sqrt(2 layers)), cut at +-c of that
    decoder.bias                                  uniform(-1 / sqrt(hidden), 1 / sqrt(hidden)), torch's default, which
                                                  the trainer keeps
    LayerNorm weights                             1
    decoder.weight                                is the token embedding
    ============================================  =========================================================
    """
    # N layers add 2 N outputs to the stream; each is smaller by sqrt(2 N), so that their sum does not grow with N.
    out_std = config.initializer_range / math.sqrt(2 * config.num_layers)
    bound = 1 / math.sqrt(config.hidden_size)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name == "decoder.bias":
            parameter.uniform_(-bound, bound, generator=generator)  # always drawn: later weights stay equal
            if shares is not None:
                parameter.copy_(shares.log())
        else:
            std = out_std if name.endswith(OUTPUT_MATRICES) else config.initializer_range
            cut = config.initializer_cutoff * std
            nn.init.trunc_normal_(parameter, 0.0, std, -cut, cut, generator=generator)
            if vectors is not None and name.endswith("tok_embeddings.weight"):
                known = vectors.norm(dim=1, keepdim=True) > 0
                parameter.copy_(torch.where(known, vectors * std * math.sqrt(config.hidden_size), parameter))
