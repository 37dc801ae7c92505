"""Cancellation of long work: a caller sets a watch, and loops check it between bounded chunks.

    with watched(Watch(future.done, most_tokens=100_000)):
        rows = encode(texts)  # calls check_cancelled() between chunks, and count_tokens()

Without a watch, as in the library, both calls do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from mmbert.errors import MMBertError, TooLong


class Cancelled(MMBertError):
    """Nobody waits for the result of this work any more."""


@dataclass
class Watch:
    """How work is cancelled.

    cancelled    whether nobody waits for its result any more
    most_tokens  that it may read; from the first token beyond them it raises TooLong
    """

    cancelled: Callable[[], bool]
    most_tokens: int
    tokens: int = 0


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[Watch]:
    """Watch the work inside, in this thread."""
    # A context variable, not an argument: tokenising is called through many layers that know nothing of requests.
    before = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(before)


def is_watched() -> bool:
    """Return whether the work of this thread can be cancelled, so that it is worth doing in small chunks."""
    return _watch.get() is not None


def check_cancelled() -> None:
    """Raise Cancelled if nobody waits for the work of this thread any more. Cheap: called between chunks."""
    watch = _watch.get()
    # One look at a future: cheap enough to stand between any two chunks.
    if watch is not None and watch.cancelled():
        raise Cancelled("nobody waits for this any more")


def count_tokens(tokens: int) -> None:
    """Count tokens of texts that are read as a whole. Raises TooLong as soon as they are too many, or Cancelled."""
    check_cancelled()
    if (watch := _watch.get()) is not None:
        # Counted as they come: a long text is refused after the first chunk beyond the limit, not after all of it.
        watch.tokens += tokens
        if watch.tokens > watch.most_tokens:
            raise too_many_tokens(watch.tokens, watch.most_tokens, "or more")


def too_many_tokens(tokens: int, most: int, more: str = "") -> TooLong:
    """Return the error for a request of more tokens than one request may have."""
    known = f"{tokens:,} tokens {more}".rstrip()
    return TooLong(f"the request has {known}, at most {most:,} can wait for one request: send it in parts")
