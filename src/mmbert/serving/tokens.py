"""Tokens of texts and back, as tasks: they need no model, only a thread of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmbert.errors import ConfigError, TooLong
from mmbert.inference.rows import Rows
from mmbert.packed import Packed
from mmbert.serving.abilities.texts import characters
from mmbert.serving.models import Served
from mmbert.serving.task import Place, Task


def tokens_of(
    served: Served, texts: Sequence[str], specials: bool, prompt: str | None, most: int
) -> Task[list[list[dict[str, Any]]]]:
    """Of each text its tokens: {id, text, special, start, stop, token, bytes}, places in characters of the text.

    specials  <bos> and <eos> too
    prompt    a name of the model's prompts, whose text stands before each; None: none
    most      tokens in all; for more: TooLong
    """
    prompts = served.loaded.prompts
    if prompt is not None and prompt not in prompts:
        raise ConfigError(f"prompt_name {prompt!r} is none of the model's: {', '.join(prompts) or 'it has none'}")
    prefix = prompts[prompt] if prompt is not None else ""

    def work() -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        left = most
        for text in texts:
            found.append(_tokens(served, prefix + text, specials, left))
            left -= len(found[-1])
        return found

    return _task(texts, characters(texts), work)


def _tokens(served: Served, text: str, specials: bool, most: int) -> list[dict[str, Any]]:
    tokenizer = served.loaded.tokenizer
    ((ids, spans),) = tokenizer.encode_spans([text], specials=True)
    if len(ids) > most:
        raise TooLong(f"the inputs have more tokens than one answer tells of, by {len(ids) - most:,}: send fewer")
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


def text_of(served: Served, rows: Sequence[Sequence[int]], skip_specials: bool) -> Task[list[str]]:
    """The text of each list of ids. Raises TokenizerError for an id that is not in the vocabulary."""
    tokenizer = served.loaded.tokenizer
    size = 4 * sum(map(len, rows))
    return _task(rows, size, lambda: [tokenizer.decode(row, specials=not skip_specials) for row in rows])


def _task(items: Sequence[Any], size: int, work: Any) -> Task[Any]:
    """Work without a row: ``prepare`` does it, in the thread that tokenises."""
    done: list[Any] = []

    def prepare() -> list[Rows[Any]]:
        done.extend(work())
        return []

    return Task(items, size, prepare, _never, lambda found: done)


def _never(packed: Packed, places: Sequence[Place]) -> list[Any]:
    raise AssertionError("a task without rows has no batch")
