"""The context of a request: its model, its tasks, and the facts for headers, metrics and log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from mmbert.errors import Overloaded, TooLong
from mmbert.serving.errors import Empty
from mmbert.serving.handlers.texts import Cut, check_size
from mmbert.serving.indexes import ServedIndex
from mmbert.serving.models import Served
from mmbert.serving.service import LARGE, Service
from mmbert.serving.task import Task, Timing

R = TypeVar("R")
A = TypeVar("A")


@dataclass
class RequestContext:
    """Filled while a request is answered; read for headers, metrics and the access log."""

    service: Service
    model: str | None = None
    device: str | None = None
    texts: int = 0
    characters: int = 0
    timing: Timing = field(default_factory=Timing)
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0
    """Bytes of the request."""
    _held: dict[str, int] = field(default_factory=dict)

    def handler_for(self, handler: type[A], name: str | None) -> tuple[Served, A]:
        """Return the model that answers, and its handler. Raises UnknownModel or WrongModel."""
        served, own = self.service.models.handler_for(handler, name)
        self.model, self.device = served.name, served.loaded.device.type
        return served, own

    def index_for(self, name: str | None, model: str | None) -> ServedIndex:
        """Return the index that is searched. Raises UnknownModel."""
        found = self.service.indexes.find(name, model)
        self.model, self.device = found.model.name, found.model.loaded.device.type
        return found

    @property
    def max_numbers(self) -> int:
        """Most numbers of an answer."""
        return self.service.options.max_numbers

    def check_count(self, texts: int, numbers: int = 0, text: int = 0) -> None:
        """Raise Empty for no texts, TooLong for too many, or for an answer of too many numbers or characters."""
        options = self.service.options
        if not texts:
            raise Empty
        if texts > options.max_inputs:
            raise too_many(texts, options.max_inputs)
        check_size(numbers, text, options.max_numbers)

    def hold(self, what: Literal["requests", "answers"], size: int) -> None:
        """Count ``size`` bytes of this request or its answer as in flight. Raises Overloaded for too many."""
        # Only what exceeds a small body counts: thousands of small requests are limited by the queue instead.
        service, more = self.service, max(0, size - LARGE) - self._held.get(what, 0)
        limit = service.options.max_bodies if what == "requests" else service.options.max_answers
        # ``held[what] and``: one request alone may always go on, however large, or it could never be answered.
        if service.held[what] and service.held[what] + more > limit:
            raise Overloaded(
                f"large {what} of {service.held[what]:,} bytes are in flight, at most {limit:,}: try again", 2
            )
        # No lock: this runs on the event loop only, between two awaits.
        service.held[what] += more
        self._held[what] = max(0, size - LARGE)

    def release(self, what: Literal["requests", "answers"]) -> None:
        """Count them as in flight no more."""
        if what in self._held:
            self.service.held[what] -= self._held.pop(what)

    async def offload(self, size: int, work: Callable[[], R]) -> R:
        """Return the result of ``work`` on ``size`` bytes of JSON; large ones run outside the event loop."""
        if size <= LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.service.readers, work)

    def cut(self, truncate: bool | None, direction: str | None = None) -> Cut:
        """Return which side of a text that is too long is kept; None: it is refused."""
        wanted = self.service.options.auto_truncate if truncate is None else truncate
        if not wanted:
            return None
        # Hugging Face names the side that is cut, this package the side that is kept.
        return "end" if (direction or "").lower() == "left" else "beginning"

    async def run(self, served: Served, task: Task[R]) -> R:
        """Return the answer to a task. If the client leaves, the task is cancelled and leaves the queue."""
        self.texts += task.texts
        self.characters += task.characters
        answer = await asyncio.wrap_future(served.engine.submit(task))
        self.timing.tokens += answer.timing.tokens
        self.timing.tokenization += answer.timing.tokenization
        self.timing.queue += answer.timing.queue
        self.timing.inference += answer.timing.inference
        return answer.value


def too_many(texts: int, limit: int) -> TooLong:
    """Return the error for more inputs than a request may have."""
    return TooLong(f"{texts:,} inputs, at most {limit:,} in one request: send them in parts")
