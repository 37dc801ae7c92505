"""Tasks for tokens of texts and texts of tokens: they need no model, only a thread of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.cancellation import check_cancelled
from mmbert.inference.windows import Place, Rows
from mmbert.packed import Packed
from mmbert.serving.handlers.texts import characters, check_size
from mmbert.serving.models import Served
from mmbert.serving.task import Task


@dataclass(frozen=True)
class Token:
    """``bytes``: of its text, 0 for special tokens. ``token``: as in the vocabulary."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None
    token: str
    bytes: int


def tokens_of(
    served: Served, texts: Sequence[str], specials: bool, prompt: str | None, limit: int
) -> Task[list[list[Token]]]:
    """Return the task for the tokens of each text.

    specials  <bos> and <eos> too
    prompt    a name of the model's prompts, whose text is put before each; None: none
    limit     size of the answer, see :func:`check_size`; a token counts as _NUMBERS and its text
    """
    tokenizer, bytes_of = served.loaded.tokenizer, served.token_bytes
    prefix = "" if served.loaded.check_prompt(prompt) is None else served.loaded.prompt_text(prompt)

    def work() -> list[list[Token]]:
        answers, tokens, size = [], 0, 0
        for text in texts:
            ((ids, spans),) = tokenizer.encode_spans([prefix + text], specials=True)
            tokens += len(ids)
            size += 2 * int(bytes_of[ids].sum())
            check_size(_NUMBERS * tokens, size, limit)  # before the objects, which take most of the memory
            answers.append(_tokens(served, prefix + text, ids, spans, specials))
        return answers

    return _task(texts, characters(texts), work)


_NUMBERS = 32
"""Numbers that a token counts as in the size of an answer: its seven fields are about 150 bytes of JSON."""


def _tokens(served: Served, text: str, ids: np.ndarray, spans: np.ndarray, specials: bool) -> list[Token]:
    tokenizer, bytes_of = served.loaded.tokenizer, served.token_bytes
    tokens = []
    for index, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
        special = index in tokenizer.special_ids
        name = tokenizer.id_to_token(index) or ""
        shown = name if special else text[start:stop]
        tokens.append(Token(index, shown, special, start, stop, name, int(bytes_of[index])))
    if not specials:
        return tokens
    return [_end(served, tokenizer.bos_id), *tokens, _end(served, tokenizer.eos_id)]


def _end(served: Served, index: int) -> Token:
    name = served.loaded.tokenizer.id_to_token(index) or ""
    return Token(index, name, True, None, None, name, 0)


def text_of(served: Served, rows: Sequence[Sequence[int]], skip_specials: bool, limit: int) -> Task[list[str]]:
    """Return the task for the text of each list of ids. It raises TokenizerError for an unknown id.

    limit  size of the answer, see :func:`check_size`; an id counts as one number and the text of its token
    """
    tokenizer = served.loaded.tokenizer

    def work() -> list[str]:
        answers, ids, text = [], 0, 0
        for row in rows:
            check_cancelled()
            numbers = np.asarray(row, np.int64)
            ids += len(numbers)
            text += int(served.token_bytes[numbers[(numbers >= 0) & (numbers < tokenizer.vocab_size)]].sum())
            check_size(ids, text, limit)
            answers.append(tokenizer.decode(row, specials=not skip_specials))
        return answers

    return _task(rows, 4 * sum(map(len, rows)), work)


def _task(items: Sequence[Any], size: int, work: Any) -> Task[Any]:
    """Return a task without rows: ``prepare`` does the work, in a tokenising thread."""
    done: list[Any] = []

    def prepare() -> list[Rows[Any]]:
        done.extend(work())
        return []

    return Task(items, size, prepare, _never, lambda found: done)


def _never(packed: Packed, places: Sequence[Place]) -> list[Any]:
    raise AssertionError("a task without rows has no batch")
