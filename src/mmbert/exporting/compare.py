"""Comparison of an export with its model: the outputs for the same texts, number by number, in several paddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmbert.errors import ConfigError, MMBertError
from mmbert.exporting.source import Output, Source
from mmbert.inference.batching import text_encoder
from mmbert.inference.pooling import pool
from mmbert.model.heads import MaskedLM
from mmbert.model.tasks import SequenceClassifier, SpanClassifier, TaskHead, TokenClassifier
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer

TOLERANCE = 1e-4
"""Largest difference of an fp32 export, relative to the model's largest number, or to 1."""

TOGETHER = 3
"""Texts of a batch with padding: few, because scores over a vocabulary are large."""

_PIECE = 1 << 20
"""Numbers compared at a time."""

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Ids of texts -> an array for each: (n, h) hidden, (d,) embedding, logits as the head gives them."""


@dataclass(frozen=True)
class Agreement:
    """How close an export is to its model.

    texts       number of texts, each compared alone and in batches with padding
    difference  largest difference of two numbers
    largest     largest number of the model, by size
    cosine      smallest cosine of a text, whose numbers are one vector (for classifiers: the scores of all texts)
    worst       number of the text with the smallest cosine
    """

    texts: int
    difference: float
    largest: float
    cosine: float
    worst: int

    @property
    def equal(self) -> bool:
        """Whether the export is equal up to fp32 rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def compare(expected: Run, found: Run, rows: Sequence[np.ndarray], *, joint: bool = False) -> Agreement:
    """Run both on the same ids. ``joint``: the numbers of all texts are one vector, as each text has too few."""
    difference = largest = 0.0
    products = np.zeros((len(rows), 2, 3))  # for each text, alone and batched: a.b, a.a, b.b
    for which, batch in _batches(len(rows)):
        chosen = [rows[index] for index in batch]
        for index, a, b in zip(batch, expected(chosen), found(chosen), strict=True):
            if a.shape != b.shape:
                raise MMBertError(f"text {index} gives {b.shape} numbers in the export, {a.shape} in the model")
            for start in range(0, a.size, _PIECE):  # logits over a vocabulary are gigabytes
                left, right = (x.reshape(-1)[start : start + _PIECE].astype(np.float64) for x in (a, b))
                gap = float(np.abs(left - right).max())
                difference = max(difference, gap) if np.isfinite(gap) else float("inf")
                largest = max(largest, float(np.abs(left).max()))
                products[index, which] += left @ right, left @ left, right @ right
    if joint:
        products = products.sum(axis=0, keepdims=True)
    cosines = _cosines(*np.moveaxis(products, 2, 0)).min(axis=1)
    return Agreement(len(rows), difference, largest, float(cosines.min()), int(cosines.argmin()))


def _cosines(ab: np.ndarray, aa: np.ndarray, bb: np.ndarray) -> np.ndarray:
    """Return cosines from products; two zero vectors give 1, and infinite or NaN products -1."""
    lengths = np.sqrt(aa * bb)
    cosines: np.ndarray = np.divide(ab, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosines[(aa == 0) & (bb == 0)] = 1.0
    cosines[~np.isfinite(lengths)] = -1.0
    return cosines


def encode(source: Source, texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return the ids of texts. Raises ConfigError if ``tokenizer``, of the export, gives others than the model's."""
    rows = text_encoder(source, max_tokens=source.max_tokens)(texts, 0)
    for index, (row, ids) in enumerate(zip(rows, tokenizer.encode_batch(texts, specials=True), strict=True)):
        if not np.array_equal(row[1:-1], ids[: source.max_tokens - 2]):
            raise ConfigError(f"text {index} has other tokens with the tokenizer that was written")
    return [np.asarray(row) for row in rows]


def model_run(source: Source, output: Output) -> Run:
    """Return the function of the model itself, with packed documents."""
    model: nn.Module = source.encoder
    if output == "logits":
        model = _with_head(source)

    def run(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        packed = Packed.from_lists(list(rows)).to("cpu")
        with torch.inference_mode():
            if output != "embedding":
                return _split(model(packed), packed)
            x = pool(source.encoder(packed, source.pooling.shares), packed, source.pooling.modes)
            for module in source.behind_pooling:
                x = module(x)
            return list(x.numpy())

    return run


def graph_run(path: Path, source: Source, output: Output) -> Run:
    """Return the function of an ONNX file in onnxruntime, with padded batches."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.enable_cpu_mem_arena = 3, False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pad = source.config.pad_id

    def run(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        lengths = [len(row) for row in rows]
        ids = np.full((len(rows), max(lengths)), pad, np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, 1
        found = session.run(None, {"input_ids": ids, "attention_mask": mask})
        values = found[0] if len(found) == 1 else np.stack(found, axis=-1)
        if output == "embedding" or (output == "logits" and source.kind == "sequence"):
            return list(values)
        return [value[:length] for value, length in zip(values, lengths, strict=True)]

    return run


def _with_head(source: Source) -> nn.Module:
    if isinstance(source.head, MaskedLM):
        return source.head
    assert isinstance(source.head, TaskHead)
    # choices are compared as pairs of texts, one by one
    kinds = {"span": SpanClassifier, "tokens": TokenClassifier}
    model = kinds.get(source.kind, SequenceClassifier)
    return model.around(source.encoder, source.head, source.classifier_pooling).eval()


def _split(x: Tensor, packed: Packed) -> list[np.ndarray]:
    """Return the row of each text, or the rows of its tokens."""
    values = x.float().numpy()
    return list(values) if len(values) == len(packed.lengths) else packed.unpack(values)


def _batches(count: int) -> Iterator[tuple[int, list[int]]]:
    """Yield every text alone (0), and batches of neighbours (1)."""
    for index in range(count):
        yield 0, [index]
    for start in range(0, count, TOGETHER):
        yield 1, list(range(start, min(start + TOGETHER, count)))
