"""A teacher that our engine does not know, as transformers runs it: XLM-R, DeBERTa and others.

Batches are padded, and sorted by length so that little is. Weights are read from safetensors only, without code of the
model's author.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from mmbert.errors import NotFiniteOutput
from mmbert.finetuning.sentence_model import quiet
from mmbert.inference.batching import token_budget
from mmbert.inference.checks import text_name
from mmbert.log import progress as progress_bar

_WINDOW = 1024
"""Texts tokenised and sorted by length at a time."""

_TYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer")
"""Models whose first position is that of the padding token and one more."""


class TransformersTeacher:
    """A classifier of texts or tokens of transformers. Raises OSError or ValueError for one that it cannot load."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        if precision not in _TYPES:
            raise ValueError(f"precision {precision} is of our engine alone: set teacher.precision=fp32")
        safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        with quiet():
            config = AutoConfig.from_pretrained(folder, **safe)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **safe)
            self._of_tokens = str((config.architectures or [""])[0]).endswith("ForTokenClassification")
            kind = AutoModelForTokenClassification if self._of_tokens else AutoModelForSequenceClassification
            model = kind.from_pretrained(folder, use_safetensors=True, dtype=_TYPES[precision], **safe)
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self._longest = _longest(config, self._tokenizer)

    def stream_logits(
        self, items: Sequence[Any], *, progress: bool | None = None, what: str = "teacher"
    ) -> Iterator[Any]:
        """Yield (labels,) fp32 of each text or pair; of a tagger (spans (n, 2), logits (n, labels)) of each text.

        Texts longer than the model reads are truncated; a tagger reads them in windows that overlap. Raises
        NotFiniteOutput, which names the text.
        """
        stream, first = iter(items), 0
        bar: progress_bar[Any] | None = progress_bar(total=len(items), desc=what, unit="text") if progress else None
        try:
            while chunk := list(islice(stream, _WINDOW)):
                yield from self._window(chunk, first, bar)
                first += len(chunk)
        finally:
            if bar is not None:
                bar.close()

    @torch.inference_mode()
    def _window(self, texts: list[Any], first: int, bar: progress_bar[Any] | None) -> list[Any]:
        pairs = isinstance(texts[0], tuple | list)
        given = [[text[side] for text in texts] for side in (0, 1)] if pairs else [texts]
        options: dict[str, Any] = {}
        if self._longest:
            options = {"truncation": True, "max_length": self._longest}
            if self._of_tokens:
                options |= {"return_overflowing_tokens": True, "stride": self._longest // 4}
        encoded = self._tokenizer(
            *given, **options, return_offsets_mapping=self._of_tokens, return_special_tokens_mask=True
        )
        owners = encoded.get("overflow_to_sample_mapping", list(range(len(texts))))  # of windows: the text
        lengths = [len(ids) for ids in encoded["input_ids"]]
        found: list[Any] = [None] * len(owners)
        for numbers in _batches(lengths, token_budget(self._device)):
            names = [name for name in self._tokenizer.model_input_names if name in encoded]
            batch = self._tokenizer.pad(
                {name: [encoded[name][at] for at in numbers] for name in names}, return_tensors="pt"
            ).to(self._device)
            logits = self._model(**batch).logits.float().cpu().numpy()
            for at, row in zip(numbers, logits, strict=True):
                own = row
                if self._of_tokens:
                    kept = np.array(encoded["special_tokens_mask"][at]) == 0
                    # the tokenizer may pad on the left
                    own = row[batch["attention_mask"][numbers.index(at)].cpu().numpy() == 1][kept]
                if not np.isfinite(own).all():
                    raise NotFiniteOutput(text_name(first + owners[at], texts[owners[at]]), first + owners[at])
                found[at] = (np.array(encoded["offset_mapping"][at])[kept], own) if self._of_tokens else own
            if bar is not None:
                bar.update(
                    sum(owners[at : at + 2] != [owners[at]] * 2 for at in numbers)
                )  # last windows of their texts
        if not self._of_tokens:
            return found
        windows: list[list[Any]] = [[] for _ in texts]
        for owner, window in zip(owners, found, strict=True):
            windows[owner].append(window)
        return [join_windows(own) for own in windows]


def join_windows(windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a text that was read in windows, each once: from the window where it is farther from an end.

    windows  of each its tokens' characters (n, 2) and logits (n, labels), in the order of the text
    """
    parts = [windows[0]]
    for spans, logits in windows[1:]:
        before, there = parts[-1]
        shared = int((before[:, 0] >= spans[0, 0]).sum()) if len(spans) else 0
        half = shared // 2
        parts[-1] = (before[: len(before) - half], there[: len(there) - half])
        parts.append((spans[shared - half :], logits[shared - half :]))
    spans, logits = (np.concatenate(each) for each in zip(*parts, strict=True))
    return spans, logits


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield numbers of texts, from short to long, as many as fit when padded to the longest."""
    batch: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if batch and lengths[number] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _longest(config: Any, tokenizer: Any) -> int | None:
    """Return the most tokens that a text may have; None where nothing limits it."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in _OFFSET_POSITIONS:
        positions -= 2
    stated = tokenizer.model_max_length
    limits = [limit for limit in (positions, stated) if isinstance(limit, int) and 0 < limit < 10**6]
    return min(limits) if limits else None
