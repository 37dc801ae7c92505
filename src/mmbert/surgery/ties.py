"""TIES: merge models that share an ancestor by trimming, electing signs and averaging what agrees (arXiv 2306.01708).

    d_k = variant_k - base                       task vectors
    trim     keep the ``density`` largest |d_k| of each variant, zero the rest
    elect    sign_p = sign(sum_k w_k d_kp)       the heavier side of each parameter
    mean     m_p = sum w_k d_kp / sum w_k        over the variants whose kept entry has that sign
    result   base + scale * m

Two published forms differ in what "largest" is relative to and in a vote that is exactly even:

* over the whole model, an even vote takes the sign that won most parameters of the model (the authors' notebook);
* in each tensor, an even vote is positive (mergekit's ``ties`` with normalize).

``int(density * n)`` entries are kept, at least one. (The authors' notebook keeps one entry more, since it compares
with ``>=`` the value just below the ones it wants; the paper says the top k %.) Tensors in, tensors out; shapes:
K variants, n entries.
"""

from __future__ import annotations

import torch
from torch import Tensor


def entries_kept(count: int, density: float) -> int:
    """Return how many of ``count`` entries a trim keeps."""
    # At least one, else a density near 0 would leave no threshold to compare with.
    return max(1, int(density * count))


def elect(trimmed: Tensor, weights: Tensor, even: float = 1.0) -> Tensor:
    """Return signs (n,), +1 or -1, of (K, n) trimmed differences with weights (K,); ``even`` where the sum is 0."""
    # sign_p = sign(sum_k w_k d_kp)
    total = (trimmed * weights[:, None]).sum(0)
    return torch.where(total == 0, torch.full_like(total, even), total.sign())


def disjoint_mean(trimmed: Tensor, weights: Tensor, signs: Tensor) -> Tensor:
    """Return (n,) the weighted mean of the entries (K, n) that carry the elected sign (n,); 0 where none does."""
    # m_p = sum_k w_k d_kp / sum_k w_k over the k with sign(d_kp) = sign_p; trimmed entries are 0 and have no sign
    agreeing = (trimmed.sign() == signs).to(trimmed.dtype) * weights[:, None]
    total = agreeing.sum(0)
    return (trimmed * agreeing).sum(0) / torch.where(total == 0, torch.ones_like(total), total)
