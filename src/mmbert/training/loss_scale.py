"""Scaling of the loss in fp16: gradients below 6e-8 would vanish, so they are computed times a power of two.

torch's ``GradScaler`` holds the scale: doubled after 2,000 steps without an overflow, halved after one, whose step is
skipped (Micikevicius et al., arXiv 1710.03740). Its state is part of a checkpoint, so a resumed run has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from mmbert.training.checkpoint import State
from mmbert.training.optim import StableAdamW


def loss_scaler(device: torch.device, precision: str, state: State) -> GradScaler | None:
    """Return the scaler of a run in fp16, as ``state`` left it; None for other precisions."""
    if precision != "fp16":
        return None
    scaler = GradScaler(device.type)
    if state.scaler:
        scaler.load_state_dict({**scaler.state_dict(), **state.scaler})
    scaler.scale(torch.ones((), device=device))  # it makes its tensors at the first call; the loop multiplies itself
    return scaler


def scaler_state(scaler: GradScaler | None) -> dict[str, float]:
    """Return what a checkpoint keeps: the scale, and the number of steps since it changed."""
    if scaler is None:
        return {}
    values = scaler.state_dict()
    return {"scale": values["scale"], "_growth_tracker": values["_growth_tracker"]}


def overflowed(parameters: Iterable[nn.Parameter], loss: float, norm: float, scale: float) -> bool:
    """Return whether a gradient is not finite because of its scale, which a smaller one can mend.

    False if the loss itself is not finite, or the scale is 1 already: then fp16 cannot hold this step, whatever the
    scale.
    """
    if math.isfinite(norm) or not math.isfinite(loss) or scale <= 1.0:
        return False
    # the norm of finite gradients can overflow too, and the scaler, which looks at each, would not skip that step
    return any(p.grad is not None and not bool(p.grad.isfinite().all()) for p in parameters)


def move(optimizer: StableAdamW, scaler: GradScaler | None) -> None:
    """Take the optimiser's step, unless the scaler found an overflow; then update the scale."""
    if scaler is None:
        optimizer.step()
        return
    scaler.step(optimizer)
    scaler.update()
