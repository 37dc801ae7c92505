"""Muon for the matrices of the layers, and AdamW for everything else, as one optimizer.

The step of a matrix is its averaged gradient made orthogonal: U Vᵀ of its singular value decomposition U S Vᵀ, near to
which five Newton-Schulz iterations come (Jordan et al. 2024, kellerjordan.github.io/posts/muon; queries, keys and
values are one matrix). It is scaled to the size of AdamW's steps (Liu et al., arXiv 2502.16982), so that learning rates
of AdamW are a good beginning. It is for weights that are learned from nothing, such as a fresh student of ``distil``;
little is known of it for weights that are tuned.

The numbers are those of ``torch.optim.Muon``, which always iterates in bf16: where a processor emulates that, it takes
fifty times as long as fp32, which is taken there. With several processes each iterates for its share of the matrices,
and sends the others what came of it: to the last bit what each would have found itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.training.run_folder import choose_precision

MOMENTUM = 0.95
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of x ↦ a x + b x³ + c x⁵, which brings singular values between 0 and 1 near to 1 in few turns."""
_TURNS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Takes over an AdamW and its groups; ``matrices``, parameters of two dimensions, are moved by Muon.

    Learning rates and weight decays stay those of the groups, and a scheduler sees all groups.
    """

    def __init__(self, adamw: torch.optim.Optimizer, matrices: Iterable[nn.Parameter]) -> None:
        moved = {id(matrix) for matrix in matrices}
        groups: list[dict[str, Any]] = []
        for group in adamw.param_groups:
            parts = {muon: [each for each in group["params"] if (id(each) in moved) == muon] for muon in (True, False)}
            groups += [{**group, "params": own, "muon": muon} for muon, own in parts.items() if own]
        super().__init__(groups, dict(adamw.defaults))
        self._adamw = adamw

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        # The library's step on the other groups; the state of all is kept here, where checkpoints look for it.
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        loss: float | None = self._adamw.step(closure)
        moved = [
            (weight, group) for group in self.param_groups if group["muon"] for weight in group["params"]
            if weight.grad is not None
        ]  # fmt: skip
        moved.sort(key=lambda pair: -pair[0].numel())  # stable: processes agree on it, and their shares are alike
        for (weight, group), update in zip(
            moved, _shared([self._averaged(weight) for weight, _ in moved]), strict=True
        ):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            # 0.2 is the root mean square of AdamW's steps; that of an orthogonal (m, n) is 1 / sqrt(max(m, n)).
            weight.add_(update.to(weight.dtype), alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)
        return loss

    def _averaged(self, weight: Tensor) -> Tensor:
        """Return the gradient of a weight, averaged over steps with Nesterov's momentum."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None, "the caller looked"
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        average: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)


def _shared(matrices: list[Tensor]) -> list[Tensor]:
    """Return :func:`orthogonal` of matrices that all processes have, each computed by one of them."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1:
        return [orthogonal(matrix) for matrix in matrices]
    rank = dist.get_rank()
    made = {index: orthogonal(matrices[index]) for index in range(rank, len(matrices), ranks)}
    for sender in range(ranks):
        own = range(sender, len(matrices), ranks)
        sizes = [matrices[index].numel() for index in own]
        if not sizes:
            continue
        # bf16 only if all are: what was iterated in fp32 would lose by it
        dtype = torch.float32 if any(iterated_in(matrices[index]) == torch.float32 for index in own) else torch.bfloat16
        if rank == sender:
            sent = torch.cat([made[index].flatten().to(dtype) for index in own])
        else:
            sent = matrices[own[0]].new_empty(sum(sizes), dtype=dtype)
        dist.broadcast(sent, sender)
        for index, part in zip(own, torch.split(sent, sizes), strict=True):
            made[index] = part.view(matrices[index].shape)
    return [made[index] for index in range(len(matrices))]


def iterated_in(matrix: Tensor) -> torch.dtype:
    """Return the type of :func:`orthogonal` of a matrix."""
    return torch.bfloat16 if choose_precision(matrix.device, max(matrix.shape)) == "bf16" else torch.float32


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix near to U Vᵀ of the singular value decomposition of ``matrix``, as :func:`iterated_in`."""
    x = matrix.to(iterated_in(matrix))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_TURNS):
        square = x @ x.T
        polynomial = torch.addmm(square, square, square, beta=_B, alpha=_C)
        x = torch.addmm(x, polynomial, x, beta=_A)
    return x.T if tall else x


def matrices_of_layers(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of a model's layers that are trained: without embeddings, norms and heads."""
    return [
        weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and "layers." in name
    ]
