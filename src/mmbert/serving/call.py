"""One request on its way through a route: its model, its tasks, and what is said of it in headers, metrics and log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeVar

from mmbert.errors import TooLong
from mmbert.serving.abilities.texts import Cut, check_size
from mmbert.serving.failures import Empty
from mmbert.serving.models import Served
from mmbert.serving.service import Service
from mmbert.serving.task import Task, Timing

R = TypeVar("R")
A = TypeVar("A")


@dataclass
class Call:
    """A request. Filled while it is answered; read by who writes headers, metrics and the access log."""

    service: Service
    model: str | None = None
    device: str | None = None
    texts: int = 0
    characters: int = 0
    timing: Timing = field(default_factory=Timing)
    headers: dict[str, str] = field(default_factory=dict)

    def able(self, ability: type[A], name: str | None) -> tuple[Served, A]:
        """The model that answers. Raises UnknownModel or WrongModel."""
        served, found = self.service.models.able(ability, name)
        self.model, self.device = served.name, served.loaded.device.type
        return served, found

    @property
    def most(self) -> int:
        """Numbers of an answer at most."""
        return self.service.options.max_numbers

    def check_count(self, texts: int, numbers: int = 0, text: int = 0) -> None:
        """Raises Empty for no texts, TooLong for too many, or for an answer of too many numbers or characters."""
        options = self.service.options
        if not texts:
            raise Empty
        if texts > options.max_inputs:
            raise TooLong(f"{texts:,} inputs, at most {options.max_inputs:,} in one request: send them in parts")
        check_size(numbers, text, options.max_numbers)

    def cut(self, truncate: bool | None, direction: str | None = None) -> Cut:
        """What is kept of a text that is too long."""
        wanted = self.service.options.auto_truncate if truncate is None else truncate
        if not wanted:
            return None
        return "end" if (direction or "").lower() == "left" else "beginning"

    async def ask(self, served: Served, task: Task[R]) -> R:
        """The answer to a task. A client that leaves takes it out of the line."""
        self.texts += task.texts
        self.characters += task.characters
        answer = await asyncio.wrap_future(served.engine.submit(task))
        self.timing.tokens += answer.timing.tokens
        self.timing.tokenization += answer.timing.tokenization
        self.timing.queue += answer.timing.queue
        self.timing.inference += answer.timing.inference
        return answer.value
