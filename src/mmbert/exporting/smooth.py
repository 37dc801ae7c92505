"""Even channels of the MLP's inner numbers, before they are rounded to int8 with one scale for all of them.

A few channels can be fifty times as large as most (students that Muon trained have such), and then most are rounded to
a handful of values. Each channel is divided by a factor, and its column of Wo multiplied by it (SmoothQuant, Xiao et
al., arXiv 2211.10438). The division costs nothing: inner = gelu(a) b, so the rows of Wi that make b take it. Factors
are powers of two, so the model computes the same numbers as before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.model.encoder import Encoder
from mmbert.model.layers import GeGLU, Linear

STRENGTH = 0.7
"""How much of the range goes from the numbers to the weights, which have a scale for each column of a product."""


def smooth(encoder: Encoder, run: Callable[[], object]) -> None:
    """Even out the MLPs of an encoder by what goes through them while ``run`` runs it, in place.

    Layers whose matrices were replaced, as by an adapter, stay as they are.
    """
    largest: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = inputs[0].detach().abs().flatten(0, -2).amax(0)
        largest[module] = torch.maximum(largest[module], found) if module in largest else found

    mlps = [module for module in encoder.modules() if isinstance(module, GeGLU)]
    mlps = [mlp for mlp in mlps if type(mlp.Wi) is type(mlp.Wo) is Linear]
    with ExitStack() as hooks, torch.no_grad():
        for mlp in mlps:
            hooks.callback(mlp.Wo.register_forward_pre_hook(look).remove)
        run()
        for mlp in mlps:
            _divide(mlp.Wi, mlp.Wo, largest[mlp.Wo])


def _divide(wide: Linear, narrow: Linear, largest: Tensor) -> None:
    weights = narrow.weight.abs().amax(0)
    wanted = largest.log2() * STRENGTH - weights.log2() * (1 - STRENGTH)
    wanted = wanted - wanted[wanted.isfinite()].mean()  # a channel that is always nought has no factor
    factors = torch.exp2(wanted.nan_to_num(0, 0, 0).round())
    activated, gates = wide.weight.chunk(2)
    # new tensors: the old ones may be the file itself, mapped
    wide.weight = nn.Parameter(torch.cat([activated, gates / factors[:, None]]), requires_grad=False)
    narrow.weight = nn.Parameter(narrow.weight * factors, requires_grad=False)
