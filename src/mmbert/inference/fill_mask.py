"""What stands behind ``<mask>``: the most probable tokens, and the text with each of them put in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbert.errors import DataError
from mmbert.inference.checks import whole
from mmbert.inference.predictor import Facade, respond
from mmbert.inference.windows import Rows, run_rows, tokenised, windows, with_ends
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.tokenizer.folder import SPECIALS
from mmbert.tokenizer.tokenizer import BYTE, Tokenizer

Best = tuple[np.ndarray, np.ndarray]
"""Of each mask of a row the best tokens: probabilities (N, k) fp32 and ids (N, k), most probable first."""

_LOGITS_AT_ONCE = 2**25
"""Logits held at a time (128 MiB in fp32): 8,192 masks over 256,000 tokens would be 8 GiB."""


@dataclass(frozen=True)
class Fill:
    """One token for one mask.

    token  its text, without the space before it; a token that is no text by its name (<eos>, <0xE2>)
    id     its number
    score  its probability
    text   the whole text with it; other masks stay
    """

    token: str
    id: int
    score: float
    text: str


@dataclass(frozen=True)
class MaskMetadata:
    """What is known of a text while its rows are computed."""

    text: str
    masks: list[tuple[int, int]]
    """Characters of each mask."""
    taken: list[slice]
    """Of each row, the masks that are taken from it."""


class FillMask(Facade):
    """Guesses for ``<mask>``, by a folder with a ModernBertForMaskedLM."""

    kinds = ("masked_lm",)

    def __call__(self, texts: Any, *, top_k: int = 5, progress: bool | None = None) -> Any:
        """A text -> the ``top_k`` best fills of its mask, best first; with several masks, such a list for each.

        A list of texts -> a list; an iterator -> an iterator. Several masks are filled each for itself, not together.
        Texts longer than the model reads go in windows. Raises DataError for a text without ``<mask>``.
        """
        return respond(texts, lambda items: self.stream(items, top_k, progress))

    def stream(self, texts: Iterable[str], top_k: int = 5, progress: bool | None = None) -> Iterator[Any]:
        """The fills of each text, in order."""
        known = self.loaded.config.vocab_size - len(self._unknown)
        top_k = whole("top_k", top_k, 1, known, "the tokens of the model")
        rows = self.rows(texts)
        return self._stream(rows, top_k, progress)

    def _stream(self, rows: Iterator[Rows[MaskMetadata]], top_k: int, progress: bool | None) -> Iterator[Any]:
        for found in run_rows(self.loaded, rows, lambda b: self.best_of(b, top_k), progress=progress, what="filling"):
            fills = self.fills(found, top_k)
            yield fills[0] if len(fills) == 1 else fills

    def best_of(self, packed: Packed, top_k: int) -> list[Best]:
        """The best tokens of each row of a batch on the model's device, on the host."""
        model = self.loaded.head
        assert isinstance(model, MaskedLM)
        targets = (packed.ids == self.loaded.tokenizer.mask_id).nonzero().squeeze(1)
        asked = replace(packed, targets=targets)
        asked.__dict__["lengths"] = packed.lengths
        scores, tokens = (found.cpu().numpy() for found in best_tokens(model, asked, top_k, self._unknown))
        borders = np.searchsorted(targets.cpu().numpy(), packed.offsets.cpu().numpy())
        return [(scores[start:end], tokens[start:end]) for start, end in pairwise(borders.tolist())]

    def fills(self, found: Rows[MaskMetadata], top_k: int) -> list[list[Fill]]:
        """The fills of each mask of a text whose rows have their ``top_k`` best tokens, or more."""
        metadata = found.metadata
        rows = [
            (scores[taken, :top_k], tokens[taken, :top_k])
            for (scores, tokens), taken in zip(found.results, metadata.taken, strict=True)
        ]
        guesses = zip(np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]), strict=True)
        return [
            [self._fill(metadata.text, span, *guess) for guess in zip(tokens.tolist(), scores.tolist(), strict=True)]
            for span, (scores, tokens) in zip(metadata.masks, guesses, strict=True)
        ]

    def rows(self, texts: Iterable[str]) -> Iterator[Rows[MaskMetadata]]:
        """Each text as the model reads it, without the windows that hold no mask.

        Raises DataError for a text without one.
        """
        mask = self.loaded.tokenizer.mask_id
        for number, text, ids, spans in tokenised(self.loaded, texts):
            masks = np.flatnonzero(ids == mask)
            if not len(masks):
                raise DataError(f"text {number} has no {SPECIALS['mask']}: write it where a token is asked for")
            rows, taken = [], []
            for window in windows(self.loaded, ids):
                here = masks[slice(*np.searchsorted(masks, [window.first, window.last]))]
                if len(here):
                    rows.append(with_ends(self.loaded, ids[window.start : window.end]))
                    before = int(np.diff(np.searchsorted(masks, [window.start, here[0]]))[0])
                    taken.append(slice(before, before + len(here)))
            metadata = MaskMetadata(text, [(int(start), int(end)) for start, end in spans[masks]], taken)
            yield Rows(rows, metadata, number=number, text=text)

    def _fill(self, text: str, span: tuple[int, int], token: int, score: float) -> Fill:
        spelled = self._spell(token)
        return Fill(spelled.removeprefix(" ") or spelled, token, score, _put(text, span, spelled))

    def _spell(self, token: int) -> str:
        """The text of a token, with the space before it; its name if it is no text."""
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
        """Tokens to stand before another: some tokenizers drop the space at the beginning of what they decode."""
        ids = self.loaded.tokenizer.encode_batch(["a"])[0].tolist()
        return ids, self.loaded.tokenizer.decode(ids)


def unknown_ids(tokenizer: Tokenizer, rows: int) -> Tensor:
    """Return the ids below ``rows`` that are no tokens: rows that fill a model's vocabulary up, and gaps in it."""
    gaps = [index for index in range(min(rows, tokenizer.vocab_size)) if tokenizer.id_to_token(index) is None]
    return torch.tensor([*gaps, *range(tokenizer.vocab_size, rows)], dtype=torch.long)


def best_tokens(model: MaskedLM, packed: Packed, top: int, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, top) fp32 and ids (N, top) of the best tokens at ``packed.targets``, most probable first.

    unknown  ids that are no tokens (:func:`unknown_ids`): they have no probability
    """
    features = model.features(packed)
    chunk = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    scores, tokens = [], []
    for start in range(0, max(1, len(features)), chunk):
        logits = model.decoder(features[start : start + chunk]).float()
        if len(unknown):
            logits = logits.index_fill(1, unknown.to(logits.device), -torch.inf)
        best = logits.topk(top, dim=-1)
        scores.append((best.values - logits.logsumexp(dim=-1, keepdim=True)).exp())
        tokens.append(best.indices)
    return torch.cat(scores), torch.cat(tokens)


def _put(text: str, span: tuple[int, int], token: str) -> str:
    """The text with a token in the place of a mask.

    The characters of a mask may have spaces around it that its tokenizer took with it. A token that begins with a
    space keeps the one before it, or brings one; a token that does not stands where the mask's characters begin.
    """
    start, end = span
    left, _, right = text[start:end].partition(SPECIALS["mask"])
    before, after = text[:start], right + text[end:]
    if token.startswith(" "):
        gap = left if left or not before or before[-1].isspace() else " "
        return before + gap + token[1:] + after
    return before + token + after
