"""Tokens of texts and back, as tasks: they need no model, only a thread of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError
from mmbert.inference.windows import Rows
from mmbert.packed import Packed
from mmbert.serving.handlers.texts import characters, check_size
from mmbert.serving.models import Served
from mmbert.serving.task import Place, Task


def tokens_of(
    served: Served, texts: Sequence[str], specials: bool, prompt: str | None, most: int
) -> Task[list[list[dict[str, Any]]]]:
    """Of each text its tokens: {id, text, special, start, stop, token, bytes}, places in characters of the text.

    specials  <bos> and <eos> too
    prompt    a name of the model's prompts, whose text stands before each; None: none
    most      numbers of the answer, see :func:`check_size`; a token is _NUMBERS of them and the text in it
    """
    prompts = served.loaded.prompts
    if prompt is not None and prompt not in prompts:
        raise ConfigError(f"prompt_name {prompt!r} is none of the model's: {', '.join(prompts) or 'it has none'}")
    prefix = prompts[prompt] if prompt is not None else ""

    def work() -> list[list[dict[str, Any]]]:
        size = _Size(most)
        return [_tokens(served, prefix + text, specials, size) for text in texts]

    return _task(texts, characters(texts), work)


_NUMBERS = 32
"""Numbers that a token counts as in the size of an answer: its seven fields are about 150 bytes of JSON."""


class _Size:
    """How large an answer gets. Raises TooLong beyond ``most`` numbers."""

    def __init__(self, most: int) -> None:
        self.most, self.tokens, self.text = most, 0, 0

    def add(self, tokens: int, text: int) -> None:
        self.tokens += tokens
        self.text += text
        check_size(_NUMBERS * self.tokens, self.text, self.most)


def _tokens(served: Served, text: str, specials: bool, size: _Size) -> list[dict[str, Any]]:
    tokenizer = served.loaded.tokenizer
    ((ids, spans),) = tokenizer.encode_spans([text], specials=True)
    size.add(len(ids), 2 * int(served.token_bytes[ids].sum()))
    bytes_of = served.token_bytes
    found = []
    for index, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
        special = index in tokenizer.special_ids
        name = tokenizer.id_to_token(index) or ""
        shown = name if special else text[start:stop]
        found.append(
            {"id": index, "text": shown, "special": special, "start": start, "stop": stop, "token": name,
             "bytes": int(bytes_of[index])}
        )  # fmt: skip
    if not specials:
        return found
    return [_end(served, tokenizer.bos_id), *found, _end(served, tokenizer.eos_id)]


def _end(served: Served, index: int) -> dict[str, Any]:
    name = served.loaded.tokenizer.id_to_token(index) or ""
    return {"id": index, "text": name, "special": True, "start": None, "stop": None, "token": name, "bytes": 0}


def text_of(served: Served, rows: Sequence[Sequence[int]], skip_specials: bool, most: int) -> Task[list[str]]:
    """The text of each list of ids. Raises TokenizerError for an id that is not in the vocabulary.

    most  numbers of the answer, see :func:`check_size`; every id counts as one, and with the text of its token
    """
    tokenizer = served.loaded.tokenizer

    def work() -> list[str]:
        found, ids, text = [], 0, 0
        for row in rows:
            check_cancelled()
            numbers = np.asarray(row, np.int64)
            ids += len(numbers)
            text += int(served.token_bytes[numbers[(numbers >= 0) & (numbers < tokenizer.vocab_size)]].sum())
            check_size(ids, text, most)
            found.append(tokenizer.decode(row, specials=not skip_specials))
        return found

    return _task(rows, 4 * sum(map(len, rows)), work)


def _task(items: Sequence[Any], size: int, work: Any) -> Task[Any]:
    """Work without a row: ``prepare`` does it, in the thread that tokenises."""
    done: list[Any] = []

    def prepare() -> list[Rows[Any]]:
        done.extend(work())
        return []

    return Task(items, size, prepare, _never, lambda found: done)


def _never(packed: Packed, places: Sequence[Place]) -> list[Any]:
    raise AssertionError("a task without rows has no batch")
