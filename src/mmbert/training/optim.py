"""StableAdamW: AdamW whose step is shortened for a tensor when its second moment lags behind its gradients.

For one tensor with gradient g, at the t-th step (debiased averages, so the first step takes m = g, v = g²):

    b1 = (β1^t - β1) / (β1^t - 1)         m = b1 m + (1 - b1) g
    b2 = (β2^t - β2) / (β2^t - 1)         v = b2 v + (1 - b2) g²
    rms = sqrt(mean(g² / max(v, ε²)))     η = learning rate / max(1, rms)
    p = p (1 - η weight_decay) - η m / (sqrt(v) + ε)

``rms`` and with it the clipping is per tensor and replaces clipping of the gradient. Source: arXiv 2304.13013;
ModernBERT's ``optimizer.py``; equal to the last bit to torch-optimi. mmBERT's configurations write the decay fully
decoupled, ``8e-5 η / 8e-4``; that is ``0.1 η``, our ``weight_decay`` 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the two averages kept per parameter: m and v."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices (embedding included) with weight decay; norms and biases, of one dimension, without.

    Each group carries the ``names`` of its parameters, so that a checkpoint does not depend on their order.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = []
    for decay, chosen in (
        (weight_decay, [(n, p) for n, p in named if p.ndim >= 2]),
        (0.0, [(n, p) for n, p in named if p.ndim < 2]),
    ):
        if chosen:
            groups.append(
                {"params": [p for _, p in chosen], "names": [n for n, _ in chosen], "weight_decay": decay},
            )
    return groups


class StableAdamW(torch.optim.Optimizer):
    """See the module's formulas. ``params`` are tensors or groups; the step counter is one per group."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            b1, b2 = (_debiased(beta, group["step"]) for beta in group["betas"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    m, v = self._moments(parameter)
                    _update(parameter, parameter.grad, m, v, b1, b2, group["lr"], group["weight_decay"], group["eps"])
        return loss

    def set_learning_rate(self, lr: float) -> None:
        """Use ``lr`` from the next step on."""
        for group in self.param_groups:
            group["lr"] = lr

    def state_tensors(self) -> dict[str, Tensor]:
        """Both averages of every parameter as ``exp_avg.<parameter name>``; needs groups with ``names``."""
        return {
            f"{moment}.{name}": tensor
            for group in self.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
            for moment, tensor in zip(MOMENTS, self._moments(parameter), strict=True)
        }

    def load_state_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take over averages saved by :meth:`state_tensors` after ``step`` steps.

        Raises TrainingError if they belong to other parameters.
        """
        mine = self.state_tensors()
        if mine.keys() != tensors.keys():
            odd = sorted(mine.keys() ^ tensors.keys())
            raise TrainingError(f"the saved optimiser does not fit the model: {odd[0]} and {len(odd) - 1} more differ")
        with torch.no_grad():
            for name, tensor in mine.items():
                if tensor.shape != tensors[name].shape:
                    raise TrainingError(
                        f"the saved optimiser does not fit the model: {name} is {tuple(tensors[name].shape)}, "
                        f"not {tuple(tensor.shape)}"
                    )
                tensor.copy_(tensors[name])
        for group in self.param_groups:
            group["step"] = step

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        for moment in MOMENTS:
            if moment not in state:
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["exp_avg"], state["exp_avg_sq"]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together; a scalar tensor, NaN or infinite if any of them is."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _debiased(beta: float, step: int) -> float:
    """Adam's correction of the zero start, moved into the factor: exactly 0 at the first step."""
    return (beta**step - beta) / (beta**step - 1)


def _update(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, b1: float, b2: float, lr: float, weight_decay: float, eps: float
) -> None:
    """One tensor's step, in place."""
    m.lerp_(g, 1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    rms = (g * g).div_(v.clamp(min=eps * eps)).mean().sqrt()
    # The clipped rate stays a tensor: reading a number from an accelerator would stop its queue once per weight.
    eta = lr / rms.double().clamp(min=1.0)
    p.mul_(1 - eta * weight_decay).sub_((m * eta).div_(v.sqrt().add_(eps)))
