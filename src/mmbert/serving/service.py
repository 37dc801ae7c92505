"""What the routes of a server share: its models, its options, its state."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from mmbert.serving.metrics import Meters
from mmbert.serving.models import Models

LARGE = 2**16
"""Bytes of a request or an answer beyond which it is not read or written on the event loop, and is in flight."""

State = Literal["loading", "ready", "draining"]


@dataclass(frozen=True)
class Options:
    """How a server answers.

    max_inputs        texts of one request
    max_numbers       numbers in one answer: an answer of 8 million is some 100 MB of JSON
    max_values        values (texts, numbers, fields) of one request
    max_body          bytes of a request
    max_bodies        bytes of all requests that are read or answered; each one's first 64 KiB do not count
    max_answers       bytes of all answers that their clients have not taken yet, counted in the same way
    max_connections   open at once; None: as many as there are file descriptors for, 4,096 at most
    head_seconds      until the headers of a request have to be there
    body_seconds      until a request has to be there; and in which a client has to take a part of its answer
    drain_seconds     that accepted requests have to be answered once the server is told to stop
    auto_truncate     leave out the rest of texts that are too long, where the request says nothing
    api_key           None: everyone may ask
    cors              origins whose pages may ask
    allowed_hosts     names under which clients reach the server, beside its own; "*": any
    """

    max_inputs: int = 8192
    max_numbers: int = 2**23
    max_values: int = 2**18
    max_body: int = 2**24
    max_bodies: int = 2**27
    max_answers: int = 2**29
    max_connections: int | None = None
    head_seconds: float = 30.0
    body_seconds: float = 60.0
    drain_seconds: float = 30.0
    auto_truncate: bool = False
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()


@dataclass
class Service:
    """A server's models while they load, serve and go."""

    options: Options = field(default_factory=Options)
    models: Models = field(default_factory=Models)
    meters: Meters = field(default_factory=Meters)
    state: State = "loading"
    workers: int = 1
    """Threads that tokenise."""
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="json"))
    """Threads that read and write large JSON: two, since Python runs one at a time anyway."""
    held: Counter[str] = field(default_factory=Counter)
    """Bytes of large requests and answers in flight; the event loop's alone."""
    fault: str | None = None
    """Why nothing can be answered any more: which thread has died."""

    @property
    def outstanding(self) -> int:
        """Requests that are not answered yet."""
        return sum(served.engine.outstanding for served in self.models)
