"""What the routes of a server share: its models, its options, its state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmbert.serving.meters import Meters
from mmbert.serving.models import Models

State = Literal["loading", "ready", "draining"]


@dataclass(frozen=True)
class Options:
    """How a server answers.

    max_inputs        texts of one request
    max_numbers       numbers in one answer: an answer of 8 million is some 100 MB of JSON
    max_body          bytes of a request
    body_seconds      until a request has to be read
    drain_seconds     that accepted requests have to be answered once the server is told to stop
    auto_truncate     leave out the rest of texts that are too long, where the request says nothing
    api_key           None: everyone may ask
    cors              origins whose pages may ask
    """

    max_inputs: int = 8192
    max_numbers: int = 2**23
    max_body: int = 2**24
    body_seconds: float = 60.0
    drain_seconds: float = 30.0
    auto_truncate: bool = False
    api_key: str | None = None
    cors: tuple[str, ...] = ()


@dataclass
class Service:
    """A server's models while they load, serve and go."""

    options: Options = field(default_factory=Options)
    models: Models = field(default_factory=Models)
    meters: Meters = field(default_factory=Meters)
    state: State = "loading"
    workers: int = 1
    """Threads that tokenise."""
    fault: str | None = None
    """Why nothing can be answered any more: which thread has died."""

    @property
    def outstanding(self) -> int:
        """Requests that are not answered yet."""
        return sum(served.engine.outstanding for served in self.models)
