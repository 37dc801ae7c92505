"""A simulation of replicas of ``mmbert serve`` behind a balancer, with measured service times.

A replica is the server's own queue: :class:`mmbert.serving.queue.RequestQueue` cuts the batches and
:class:`mmbert.serving.engine.Limits` says what is refused; only time is simulated. As in the server, one batch is
computed at a time, a full one is cut while the one before it runs, and one that is not full stays open until then.

A batch of R requests with N rows and T tokens takes ``batch + row N + token T`` seconds times a measured factor, and
``request R`` for what the server does besides: reading and tokenising requests and writing answers. With cores to spare
that runs beside the batches and only delays its own request (``beside``).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmbert.serving.engine import Limits
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken, size
from mmbert.serving.task import Task


@dataclass(frozen=True)
class Service:
    """Seconds that a server spends. ``factors``: measured over fitted times of batches, drawn anew for each batch."""

    batch: float = 0.0
    row: float = 0.0
    token: float = 0.0
    request: float = 0.0
    beside: bool = False
    factors: Sequence[float] = (1.0,)

    def seconds(self, requests: float, rows: float, tokens: float) -> float:
        """Return the seconds of a batch, on average."""
        own = 0.0 if self.beside else self.request * requests
        return own + self.batch + self.row * rows + self.token * tokens

    def rate(self, tokens: float, rows: float, budget: int) -> float:
        """Return the requests per second of a replica that is never idle: requests of so many tokens and rows."""
        full = budget / tokens
        return full / self.seconds(full, full * rows, budget)


@dataclass
class Request:
    """A request: when it came, the tokens of its rows, and when it was answered; None: it was refused."""

    at: float
    rows: list[int]
    answered: float | None = None
    replica: int = -1

    @property
    def tokens(self) -> int:
        return sum(self.rows)

    @property
    def latency(self) -> float:
        return float("nan") if self.answered is None else self.answered - self.at


_TASK: Task[Any] = Task((), 0, list, lambda *_: [], lambda rows: rows)
"""Of all requests, since only tasks with the same function share batches."""


@dataclass
class _Text:
    rows: list[range]
    """As long as the rows have tokens."""


@dataclass
class Replica:
    """One server: its queue, what it has accepted, and the batch that runs."""

    limits: Limits
    queue: RequestQueue = field(init=False)
    waiting: int = 0
    """Tokens that are accepted and not computed: ``te_queue_tokens``."""
    requests: dict[QueuedTask, Request] = field(default_factory=dict)
    """Those that are not answered."""
    ready: list[Taken] = field(default_factory=list)
    """A full batch that was cut while another one runs."""
    running: list[Taken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.limits.batch_tokens)

    def accept(self, request: Request) -> bool:
        """Queue a request, or refuse it as ``Engine.submit`` does."""
        tokens = request.tokens
        if len(self.requests) >= self.limits.requests or self.waiting + tokens > self.limits.room(tokens):
            return False
        text = _Text([range(tokens) for tokens in request.rows])
        job = QueuedTask(_TASK, missing=len(request.rows), waiting=deque((text, n) for n in range(len(request.rows))))  # type: ignore[misc]
        self.requests[job] = request
        self.waiting += tokens
        self.queue.add(job)
        return True

    def start(self) -> list[Taken]:
        """Return the batch that runs from now on; empty if one runs already, or nothing waits."""
        if self.running:
            if not self.ready and self.queue.full:
                self.ready = self.queue.take()
            return []
        self.running, self.ready = self.ready or self.queue.take(), []
        if self.running and self.queue.full:
            self.ready = self.queue.take()
        return self.running

    def end(self) -> list[Request]:
        """Return the requests whose last row was in the batch that has run."""
        done = []
        for job, place in self.running:
            job.missing -= 1
            self.waiting -= size(place)
            if not job.missing:
                done.append(self.requests.pop(job))
        self.running = []
        return done


Choose = Callable[[Sequence[Replica], np.random.Generator], int]


def round_robin() -> Choose:
    """Return a balancer that takes replicas in turn."""
    turn = iter(range(10**12))
    return lambda replicas, draw: next(turn) % len(replicas)


def at_random() -> Choose:
    """Return a balancer that draws a replica: what a Kubernetes service does with each connection."""
    return lambda replicas, draw: int(draw.integers(len(replicas)))


def least_requests() -> Choose:
    """Return a balancer that takes the replica with the fewest unanswered requests, the first in turn of several."""
    turn = iter(range(10**12))

    def choose(replicas: Sequence[Replica], draw: np.random.Generator) -> int:
        first = next(turn)
        order = [(first + step) % len(replicas) for step in range(len(replicas))]
        return min(order, key=lambda number: len(replicas[number].requests))

    return choose


def best_of_two() -> Choose:
    """Return a balancer that takes the better of two drawn replicas, as Envoy's LEAST_REQUEST does."""

    def choose(replicas: Sequence[Replica], draw: np.random.Generator) -> int:
        two = draw.integers(len(replicas), size=2)
        return int(min(two, key=lambda number: len(replicas[number].requests)))

    return choose


BALANCERS: dict[str, Callable[[], Choose]] = {
    "round robin": round_robin,
    "random": at_random,
    "best of two": best_of_two,
    "least requests": least_requests,
}


def poisson(rate: float, seconds: float, draw: np.random.Generator, group: int = 1) -> np.ndarray:
    """Return times of requests, ``rate`` a second: groups of ``group`` at once, the groups as a Poisson process."""
    count = draw.poisson(rate / group * seconds)
    return np.repeat(np.sort(draw.uniform(0.0, seconds, count)), group)


def simulate(
    requests: Sequence[Request],
    replicas: int,
    service: Service,
    limits: Limits,
    *,
    balancer: str = "least requests",
    draw: np.random.Generator | None = None,
) -> Sequence[Request]:
    """Set when and by which replica each request is answered, and return the requests. Those refused stay None.

    requests  in the order in which they come
    """
    draw = draw or np.random.default_rng(0)
    choose, servers = BALANCERS[balancer](), [Replica(limits) for _ in range(replicas)]
    ends: list[tuple[float, int]] = []  # (time, replica) of batches that run: one a replica at most

    def start(number: int, now: float) -> None:
        batch = servers[number].start()
        if batch:
            # a request that is spread over batches is charged with its first one
            first = sum(index == 0 for _, (_, index) in batch)
            seconds = service.seconds(first, len(batch), sum(size(place) for _, place in batch))
            heapq.heappush(ends, (now + seconds * service.factors[int(draw.integers(len(service.factors)))], number))

    def finish(until: float) -> None:
        while ends and ends[0][0] <= until:
            now, number = heapq.heappop(ends)
            for request in servers[number].end():
                request.answered = now + (service.request if service.beside else 0.0)
            start(number, now)

    for request in requests:
        finish(request.at)
        request.replica = choose(servers, draw)
        if servers[request.replica].accept(request):
            start(request.replica, request.at)
    finish(float("inf"))
    return requests


@dataclass(frozen=True)
class Summary:
    """What clients saw. Seconds; ``refused``: the share of requests."""

    count: int
    p50: float
    p99: float
    refused: float

    @classmethod
    def of(cls, requests: Sequence[Request], begin: float = 0.0) -> Summary:
        """Return the summary of the requests that came after ``begin``, when the queues are as long as they get."""
        late = [request for request in requests if request.at >= begin]
        answered = np.array([request.latency for request in late if request.answered is not None])
        p50, p99 = np.percentile(answered, [50, 99]) if len(answered) else (float("nan"), float("nan"))
        return cls(len(late), float(p50), float(p99), 1 - len(answered) / len(late))
