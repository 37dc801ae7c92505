"""Quantization of vectors by sentence-transformers' definitions, and their similarity."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mmbert.arrays import unit
from mmbert.errors import ConfigError

Output = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]

OUTPUTS = ("float32", "float16", "int8", "uint8", "binary", "ubinary")
"""int8, uint8: the range of each dimension over a sample, in 255 equal steps. binary: the sign bit of each dimension,
eight in an int8 (minus 128) or, for ubinary, a uint8."""

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


def check_output(output: str) -> None:
    """Raise ConfigError for what is not in OUTPUTS."""
    if output not in OUTPUTS:
        raise ConfigError(f"output {output!r} is none of {', '.join(OUTPUTS)}")


def measure_ranges(vectors: np.ndarray) -> np.ndarray:
    """Return the smallest and largest value of each dimension: (n, d) -> (2, d) fp32. Raises ConfigError for n < 2."""
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ConfigError(f"ranges for int8 need at least two vectors, got {vectors.shape}: take some thousand texts")
    return np.vstack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)


def quantize(vectors: np.ndarray, output: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Return fp32 vectors (..., d) as ``output``. ``ranges`` (2, d) for int8 and uint8, from :func:`measure_ranges`.

    Raises ConfigError if ranges are needed and missing, or do not fit.
    """
    check_output(output)
    if output == "float32":
        return vectors.astype(np.float32, copy=False)
    if output == "float16":
        return vectors.astype(np.float16)
    if output in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if output == "ubinary" else np.asarray(bits.astype(np.int16) - 128, dtype=np.int8)
    if ranges is None:
        raise ConfigError(f"{output} needs the range of each dimension: call calibrate(texts) with some thousand texts")
    if ranges.shape != (2, vectors.shape[-1]):
        raise ConfigError(f"ranges are {ranges.shape}, vectors have {vectors.shape[-1]} dimensions: calibrate again")
    starts = ranges[0].astype(np.float32)
    steps = (ranges[1] - starts) / 255
    levels = np.clip(np.floor((vectors - starts) / np.where(steps == 0, 1, steps)), 0, 255)
    return np.asarray(levels if output == "uint8" else levels - 128, dtype=output)


def similarity(first: Any, second: Any, kind: str = "cosine") -> np.ndarray:
    """Return the similarity of each row of ``first`` (n, d) to each of ``second`` (m, d): (n, m) fp32.

    Larger is more similar: distances are negated. A vector (d,) is one row. Raises ConfigError for different widths.
    """
    try:
        a, b = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (first, second))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"similarity compares vectors, not texts: embed the texts first ({error})") from error
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ConfigError(f"cannot compare vectors of {a.shape} and {b.shape}: they must have the same dimensions")
    if kind == "cosine":
        a, b = unit(a), unit(b)
    if kind in ("cosine", "dot"):
        return np.asarray(a @ b.T)
    power = 1 if kind == "manhattan" else 2  # of differences: a^2 + b^2 - 2 ab is not 0 for equal vectors
    return np.array([-np.linalg.norm(row - b, ord=power, axis=1) for row in a], np.float32).reshape(len(a), len(b))
