"""The state that the routes of a server share: its models, options and counts."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from mmbert.serving.indexes import Indexes
from mmbert.serving.metrics import ServerMetrics
from mmbert.serving.models import Models

LARGE = 2**16
"""Bytes beyond which a request or answer is parsed or written outside the event loop, and counts as in flight."""

State = Literal["loading", "ready", "draining"]


@dataclass(frozen=True)
class Options:
    """Limits and options of a server; those of :func:`mmbert.serve` have the same names.

    max_inputs        texts of one request
    max_numbers       numbers of one answer: 8 million are about 100 MB of JSON
    max_values        values (texts, numbers, fields) of one request
    max_body          bytes of one request
    max_bodies        bytes of all requests that are read or answered; the first 64 KiB of each do not count
    max_answers       bytes of all answers that clients have not read yet, counted in the same way
    max_connections   open connections; None: as many as there are file descriptors for, 4,096 at most
    head_seconds      until the headers of a request must have arrived
    body_seconds      until a request must have arrived, and in which a client must read a part of its answer
    drain_seconds     in which accepted requests must be answered after a signal
    auto_truncate     cut texts that are too long if a request does not set ``truncate``
    api_key           None: no key is required
    cors              origins whose pages may send requests
    allowed_hosts     names of the server for its clients, beside its own; "*": any
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
    """Models, options and state of a server."""

    options: Options = field(default_factory=Options)
    models: Models = field(default_factory=Models)
    indexes: Indexes = field(default_factory=Indexes)
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    state: State = "loading"
    workers: int = 1
    """Number of tokenising threads."""
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="json"))
    """Threads that parse and write large JSON: two, since Python runs one at a time anyway."""
    held: Counter[str] = field(default_factory=Counter)
    """Bytes of large requests and answers in flight; only the event loop changes them."""
    fault: str | None = None
    """Which thread has died, so that nothing can be answered any more."""

    @property
    def outstanding(self) -> int:
        """Number of unanswered requests."""
        return sum(served.engine.outstanding for served in self.models)
