"""FillMask: the most probable tokens for each ``<mask>``, and the text with each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbert.errors import DataError
from mmbert.inference.checks import whole
from mmbert.inference.load import Loaded
from mmbert.inference.predictor import Predictor, respond
from mmbert.inference.windows import Place, Rows, run_rows, tokenised, windows, with_ends
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import BYTE, Tokenizer

Best = tuple[np.ndarray, np.ndarray]
"""The best tokens for the N masks of a row: probabilities (N, k) fp32 and ids (N, k), most probable first."""

_LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in fp32): 8,192 masks over 256,000 tokens would be 8 GiB."""


@dataclass(frozen=True)
class Fill:
    """One token for one mask.

    token  its text without the space before it; its name if it is no text (<eos>, <0xE2>)
    id     its id
    score  its probability
    text   the whole text with it; other masks stay
    """

    token: str
    id: int
    score: float
    text: str


@dataclass(frozen=True)
class MaskMetadata:
    """What the fills of a text are made from, beside the best tokens of its rows."""

    text: str
    masks: list[tuple[int, int]]
    """Characters of each mask."""
    taken: list[slice]
    """The masks that are taken from each row."""
    top_k: int


class FillMask(Predictor):
    """Fills ``<mask>``, by a folder with a ModernBertForMaskedLM."""

    kinds = ("masked_lm",)

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        tokenizer = loaded.tokenizer
        self._mask_id = tokenizer.mask_id  # raises TokenizerError here and not with the first text
        self.mask = tokenizer.specials["mask"]
        """What stands for a token in a text: ``<mask>``, or what the model's tokenizer has for it."""

    def __call__(self, texts: Any, *, top_k: int = 5, progress: bool | None = None) -> Any:
        """Return the ``top_k`` best fills of a text's mask, best first; for several masks, such a list for each.

        A list of texts gives a list, an iterator an iterator. Each of several masks is filled independently.
        Texts longer than the model reads are read in windows. Raises DataError for a text without ``<mask>``.
        """
        return respond(texts, lambda items: self.stream(items, top_k, progress))

    def stream(self, texts: Iterable[str], top_k: int = 5, progress: bool | None = None) -> Iterator[Any]:
        """Return an iterator of the fills of each text, in order."""
        known = self.loaded.config.vocab_size - len(self._unknown)
        top_k = whole("top_k", top_k, 1, known, "the tokens of the model")
        rows = run_rows(self.loaded, self.rows(texts, top_k), self.best_of, progress=progress, what="filling")
        return (fills[0] if len(fills) == 1 else fills for fills in map(self.fills, rows))

    def best_of(self, packed: Packed, places: Sequence[Place]) -> list[Best]:
        """Return the best tokens for each row of a batch on the model's device, on the host.

        All rows get as many as the largest ``top_k`` among them: they share one product with the vocabulary.
        """
        model, top_k = self.loaded.head, max(text.metadata.top_k for text, _ in places)
        assert isinstance(model, MaskedLM)
        targets = (packed.ids == self._mask_id).nonzero().squeeze(1)
        asked = replace(packed, targets=targets)
        asked.__dict__["lengths"] = packed.lengths  # a cached property: computing it again would wait for the device
        scores, tokens = (found.cpu().numpy() for found in best_tokens(model, asked, top_k, self._unknown))
        borders = np.searchsorted(targets.cpu().numpy(), packed.offsets.cpu().numpy())
        return [(scores[start:end], tokens[start:end]) for start, end in pairwise(borders.tolist())]

    def fills(self, found: Rows[MaskMetadata]) -> list[list[Fill]]:
        """Return the fills of each mask of a text whose rows have their best tokens."""
        metadata, top_k = found.metadata, found.metadata.top_k
        rows = [
            (scores[taken, :top_k], tokens[taken, :top_k])
            for (scores, tokens), taken in zip(found.results, metadata.taken, strict=True)
        ]
        guesses = zip(np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]), strict=True)
        return [
            [self._fill(metadata.text, span, *guess) for guess in zip(tokens.tolist(), scores.tolist(), strict=True)]
            for span, (scores, tokens) in zip(metadata.masks, guesses, strict=True)
        ]

    def rows(self, texts: Iterable[str], top_k: int) -> Iterator[Rows[MaskMetadata]]:
        """Yield each text as the model reads it, without the windows that contain no mask.

        Raises DataError for a text without one.
        """
        for number, text, ids, spans in tokenised(self.loaded, texts):
            masks = np.flatnonzero(ids == self._mask_id)
            if not len(masks):
                raise DataError(f"text {number} has no {self.mask}: write it where a token is asked for")
            rows, taken = [], []
            for window in windows(self.loaded, ids):
                here = masks[slice(*np.searchsorted(masks, [window.first, window.last]))]
                if len(here):
                    rows.append(with_ends(self.loaded, ids[window.start : window.end]))
                    # masks of the window before the first that is taken from it
                    before = int(np.diff(np.searchsorted(masks, [window.start, here[0]]))[0])
                    taken.append(slice(before, before + len(here)))
            metadata = MaskMetadata(text, [(int(start), int(end)) for start, end in spans[masks]], taken, top_k)
            yield Rows(rows, metadata, number=number, text=text)

    def _fill(self, text: str, span: tuple[int, int], token: int, score: float) -> Fill:
        spelled = self._spell(token)
        return Fill(spelled.removeprefix(" ") or spelled, token, score, _put(text, span, spelled, self.mask))

    def _spell(self, token: int) -> str:
        """Return the text of a token with the space before it; its name if it is no text."""
        tokenizer = self.loaded.tokenizer
        name = tokenizer.id_to_token(token) or ""
        if token in tokenizer.special_ids:
            return name
        anchor, bare = self._anchor
        spelled = tokenizer.decode([*anchor, token])[len(bare) :]
        return name if spelled == "\ufffd" and BYTE.fullmatch(name) else spelled

    @cached_property
    def _unknown(self) -> Tensor:
        return unknown_ids(self.loaded.tokenizer, self.loaded.config.vocab_size)

    @cached_property
    def _anchor(self) -> tuple[list[int], str]:
        """Tokens to decode before another one: some tokenizers drop the space at the start of what they decode."""
        ids = self.loaded.tokenizer.encode_batch(["a"])[0].tolist()
        return ids, self.loaded.tokenizer.decode(ids)


def unknown_ids(tokenizer: Tokenizer, rows: int) -> Tensor:
    """Return the ids below ``rows`` that are no tokens: padding rows of the model's embedding, and gaps."""
    gaps = [index for index in range(min(rows, tokenizer.vocab_size)) if tokenizer.id_to_token(index) is None]
    return torch.tensor([*gaps, *range(tokenizer.vocab_size, rows)], dtype=torch.long)


def best_tokens(model: MaskedLM, packed: Packed, top: int, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (N, top) fp32 and ids (N, top) of the best tokens at ``packed.targets``, best first.

    unknown  ids that are no tokens (:func:`unknown_ids`): their probability is 0
    """
    features = model.features(packed)
    chunk = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    scores, tokens = [], []
    for start in range(0, max(1, len(features)), chunk):
        logits = model.decoder(features[start : start + chunk]).float()
        if len(unknown):
            logits = logits.index_fill(1, unknown.to(logits.device), -torch.inf)  # before the softmax: no share of 1
        best = logits.topk(top, dim=-1)
        # a softmax over the whole vocabulary, of which only the best tokens are kept
        scores.append((best.values - logits.logsumexp(dim=-1, keepdim=True)).exp())
        tokens.append(best.indices)
    return torch.cat(scores), torch.cat(tokens)


def _put(text: str, span: tuple[int, int], token: str, mask: str) -> str:
    """Return the text with a token in the place of a mask, which stands in the text as ``mask``.

    The span of a mask may contain spaces that its tokenizer took with it. A token that begins with a space keeps the
    one before the mask, or adds one; any other token is put where the span begins.
    """
    start, end = span
    left, _, right = text[start:end].partition(mask)
    before, after = text[:start], right + text[end:]
    if token.startswith(" "):
        gap = left if left or not before or before[-1].isspace() else " "
        return before + gap + token[1:] + after
    return before + token + after
