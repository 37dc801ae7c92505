"""Learning rate as a pure function of tokens seen: warm-up, stable, decay. Imports no torch."""

from __future__ import annotations

import math

from mmbert.recipe import Phase

_START = 1e-10
"""Where warm-up begins, relative to the peak; not 0, as in the published runs."""


def learning_rate(phase: Phase, tokens_seen: int) -> float:
    """Return the learning rate of a step that begins after ``tokens_seen`` tokens of ``phase``.

    Rises on a line from almost 0 over ``phase.warmup`` tokens, stays at ``phase.peak_lr`` and falls over the last
    ``phase.decay_tokens`` to ``phase.decay.floor`` of the peak. With x in [0, 1] along the fall the multiplier is
    ``floor + (1 - floor)(1 - sqrt(x))`` (mmBERT-base) or ``1 - (1 - floor) x`` (mmBERT-small). After the end it
    stays at the floor. Source: ModernBERT's ``scheduler.py`` and the configurations published with mmBERT.
    """
    if tokens_seen < phase.warmup:
        return phase.peak_lr * (_START + (1 - _START) * tokens_seen / phase.warmup)
    # Counted from the end of the phase backwards: the fall ends exactly with the last token.
    fallen = tokens_seen - (phase.tokens - phase.decay_tokens)
    if phase.decay is None or fallen <= 0:
        return phase.peak_lr
    # min: the last step may begin before the end and reach beyond it.
    x = min(1.0, fallen / max(1, phase.decay_tokens))
    floor = phase.decay.floor
    if phase.decay.shape == "one_minus_sqrt":
        return phase.peak_lr * (floor + (1 - floor) * (1 - math.sqrt(x)))
    return phase.peak_lr * (1 - (1 - floor) * x)
