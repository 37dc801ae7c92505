"""StableAdamW: AdamW whose step is shortened for a tensor when its second moment lags behind its gradients.

For one tensor with gradient g, at the t-th step (debiased averages, so the first step takes m = g, v = g²):

    b1 = (β1^t - β1) / (β1^t - 1)         m = b1 m + (1 - b1) g
    b2 = (β2^t - β2) / (β2^t - 1)         v = b2 v + (1 - b2) g²
    rms = sqrt(mean(g² / max(v, ε²)))     η = learning rate / max(1, rms)
    p = p (1 - η weight_decay) - η m / (sqrt(v) + ε)

``rms`` and with it the clipping is per tensor and replaces clipping of the gradient. Source: arXiv 2304.13013;
ModernBERT's ``optimizer.py``; bit-identical to torch-optimi (tensors of more than a chunk of numbers differ in the
order in which their mean is summed). mmBERT's configurations write the decay fully decoupled, ``8e-5 η / 8e-4``; that
is ``0.1 η``, our ``weight_decay`` 0.1.

Tensors may be sharded over ranks (FSDP2's DTensors): each rank updates its part, ``rms`` is over the whole tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.training.distributed import is_sharded, part_of, sum_over_parts

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the two averages kept per parameter: m and v."""

CHUNK = 2**24
"""Numbers of a tensor that are updated at a time, which bounds the memory of intermediate results."""
CPU_CHUNK = 2**18
"""The same on a CPU, where they also stay in its cache: 1.4 times as fast (2**20: 1.25, 2**16: 1.17)."""


def parameter_groups(
    model: nn.Module, weight_decay: float, *, embeddings: bool = True, embedding_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups: matrices with weight decay, with the token embeddings if ``embeddings``; norms and biases without.

    embedding_lr  learning rate of the token embeddings relative to all else; they are a group of their own unless it
                  is 1
    Each group carries the ``names`` of its parameters, so that a checkpoint does not depend on their order.
    """
    # By identity, not by name: the decoder's weight is the same tensor as the table (tied), and appears once.
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = {(weight_decay, 1.0): {}, (0.0, 1.0): {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            table = id(parameter) in tables
            pulled = parameter.ndim >= 2 and (embeddings or not table)
            group = (weight_decay if pulled else 0.0, embedding_lr if table else 1.0)
            groups.setdefault(group, {})[name] = parameter
    return [
        {"params": list(chosen.values()), "names": list(chosen), "weight_decay": decay, "relative_lr": rate}
        for (decay, rate), chosen in groups.items()
        if chosen
    ]


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
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "relative_lr": 1.0, "step": 0}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Update one group. All clipping factors first: of sharded tensors they are summed over the ranks at once."""
        group["step"] += 1
        b1, b2 = (_debiased(beta, group["step"]) for beta in group["betas"])
        moving = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not moving:
            return
        # First pass: both moments, and the mean of g² / v of each tensor. Second pass: the update. The passes are apart
        # because the clipping factor of a tensor needs all of its chunks, and of a sharded one all ranks.
        squares = []
        for parameter in moving:
            ratios = (
                _average(g, m, v, b1, b2, group["eps"])
                for g, m, v in _chunks(parameter.grad, *self._moments(parameter))
            )
            if is_sharded(parameter) or parameter.numel() > _chunk(parameter):
                # numel() of a DTensor is that of the whole tensor, so the sums over ranks add up to its mean
                squares.append(torch.stack([ratio.sum() for ratio in ratios]).sum() / parameter.numel())
            else:
                squares.append(next(ratios).mean())
        for parameter, square in zip(moving, sum_over_parts(squares, moving[0]), strict=True):
            for p, m, v in _chunks(parameter, *self._moments(parameter)):
                _update(p, m, v, square.sqrt(), group["lr"], group["weight_decay"], group["eps"])

    def set_learning_rate(self, lr: float) -> None:
        """Use ``lr`` from the next step on, times the ``relative_lr`` of each group."""
        for group in self.param_groups:
            group["lr"] = lr * group["relative_lr"]

    def state_tensors(self) -> dict[str, Tensor]:
        """Return both moments of every parameter as ``exp_avg.<parameter name>``; needs groups with ``names``."""
        return {
            f"{moment}.{name}": tensor
            for group in self.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
            for moment, tensor in zip(MOMENTS, self._moments(parameter), strict=True)
        }

    def set_step(self, step: int) -> None:
        """Go on as after ``step`` steps, when the averages of :meth:`state_tensors` have been read back in place."""
        for group in self.param_groups:
            group["step"] = step

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        for moment in MOMENTS:
            if moment not in state:
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["exp_avg"], state["exp_avg_sq"]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together; a scalar tensor, NaN or infinite if any of them is."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([part_of(gradient) for gradient in gradients])
    if not gradients or not is_sharded(gradients[0]):
        return norm
    (square,) = sum_over_parts([norm.double().square()], gradients[0])  # double: 1e20 squared is no fp32 number
    return square.sqrt().to(norm.dtype)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield this rank's parts of tensors of one shape, flat, a chunk of numbers at a time; views of them."""
    flat = [part_of(tensor).view(-1) for tensor in tensors]
    return zip(*(torch.split(tensor, _chunk(tensor)) for tensor in flat), strict=True)


def _chunk(tensor: Tensor) -> int:
    return CPU_CHUNK if tensor.device.type == "cpu" else CHUNK


def _debiased(beta: float, step: int) -> float:
    """Return Adam's bias correction, moved into the factor: exactly 0 at the first step."""
    return (beta**step - beta) / (beta**step - 1)


def _average(g: Tensor, m: Tensor, v: Tensor, b1: float, b2: float, eps: float) -> Tensor:
    """Take a gradient into both averages, in place; returns g² / max(v, ε²)."""
    # lerp and addcmul as in torch-optimi: written out, m b1 + (1 - b1) g rounds differently in the last bit
    m.lerp_(g, 1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    return (g * g).div_(v.clamp(min=eps * eps))


def _update(p: Tensor, m: Tensor, v: Tensor, rms: Tensor, lr: float, weight_decay: float, eps: float) -> None:
    """Apply one tensor's step, in place."""
    # The clipped rate stays a tensor: reading a number from an accelerator would stop its queue once per weight.
    eta = lr / rms.double().clamp(min=1.0)
    p.mul_(1 - eta * weight_decay).sub_((m * eta).div_(v.sqrt().add_(eps)))
