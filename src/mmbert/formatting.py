"""Numbers as tables and messages show them: counts of tokens and weights, and durations."""

from __future__ import annotations


def count(value: float | None) -> str:
    """4096 -> 4,096, 12_345 -> 12.3k, 4_000_000 -> 4.00M: three digits from ten thousand on; empty if not known."""
    if value is None:
        return ""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= max(size * 0.9995, 1e4):
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled + 1e-9))))}f}{suffix}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min, 0.25 -> 0.25 s; days from two on."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
