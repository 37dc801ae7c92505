"""The life of a server: bind, answer 503 while the models load, warm them up, serve, drain, stop.

HTTP runs in a thread of its own; the calling thread loads the models and then waits. A signal during loading stops the
server at once. After a later one, accepted requests are answered within ``Options.drain_seconds``; the others are then
refused, and threads that still work are abandoned: all of them are daemons.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mmbert.errors import ConfigError, MissingExtra, MMBertError

try:
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtra(str(error.name), "serve") from error

from mmbert.search.index_manifest import IndexManifest
from mmbert.serving.app import make_app
from mmbert.serving.http import Bounds, make_http, most_connections
from mmbert.serving.lines import Lines, log_through
from mmbert.serving.model_spec import parse_spec
from mmbert.serving.models import Shared, load_served, served_names, warm_up
from mmbert.serving.service import Options, Service
from mmbert.serving.threads import Threads
from mmbert.serving.tracing import Tracer
from mmbert.serving.worker import Worker

log = logging.getLogger(__name__)

_LAST_WORDS = 3
"""Seconds that clients have at least to read their answers at the end of a drain."""

_END = 1
"""Seconds that each kind of threads has to end after the drain."""

_IDLE = 75
"""Seconds that a connection may be idle: more than clients (httpx: 5) and proxies (nginx: 60) keep one, so that the
server never closes a connection at the moment in which they use it."""


class Abandoned(MMBertError):
    """The drain of the server ended before its work: requests were refused, or threads abandoned."""


class Died(MMBertError):
    """A thread that the server cannot do without has ended."""


class Server:
    """Models behind a socket. :meth:`start` answers 503, :meth:`load` makes it serve, :meth:`stop` drains."""

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        names: Sequence[str] = (),
        adapters: Mapping[str, str | Path] | None = None,
        indexes: Sequence[str | Path] = (),
        host: str = "127.0.0.1",
        port: int = 8000,
        device: str = "auto",
        precision: str = "auto",
        batch_tokens: int | None = None,
        queue_tokens: int | None = None,
        options: Options | None = None,
        otlp_endpoint: str | None = None,
        quiet: bool = False,
    ) -> None:
        """Options as in :func:`serve`. Raises ConfigError for wrong options, or a port that is taken."""
        if not models:
            raise ConfigError("no model to serve: give a folder or a hub name")
        for name, value in (("max_batch_tokens", batch_tokens), ("max_queue_tokens", queue_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1")
        if adapters and len(models) != 1:
            raise ConfigError(f"{len(models)} models and adapters: give the one model that the adapters belong to")
        self._adapters = dict(adapters or {})
        self.service = Service(options or Options(), workers=_processors())
        specs = [parse_spec(model) for model in models]
        self._models = list(zip(served_names(specs, names), specs, strict=True))
        self._indexes = {Path(folder).resolve().name: Path(folder) for folder in indexes}
        for folder in self._indexes.values():
            IndexManifest.load(folder)  # no index: known before gigabytes of weights are read
        if len(self._indexes) < len(indexes):
            raise ConfigError("two indexes have the same name, which is that of their folders: rename one")
        self._device, self._precision = device, precision
        self._budgets = (batch_tokens, queue_tokens)
        self._tracer = None if otlp_endpoint is None else Tracer(otlp_endpoint)
        # Bound in the constructor: a taken port is known before gigabytes of weights are read.
        self._socket = _bind(host, port)
        options = self.service.options
        bounds = Bounds(most_connections(options.max_connections), options.head_seconds, options.body_seconds)
        self.lines = Lines()
        self.wake: Callable[[], None] = lambda: None
        """Called when a thread has died that the server needs; ``service.fault`` says which."""
        self._worker = Worker(self._died)
        self._pool = Threads(self.service.workers)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        app = make_app(self.service, host=host, lines=None if quiet else self.lines, tracer=self._tracer)
        self._http = make_http(app, bounds, graceful=_LAST_WORDS, keep_alive=_IDLE)
        self._thread = threading.Thread(target=self._run_http, name="http", daemon=True)

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host if ':' not in host or host.startswith('[') else f'[{host}]'}:{self.port}"

    def start(self) -> None:
        """Accept connections; requests get 503 until the models are loaded."""
        # Before HTTP starts: a full pipe on stderr must not block the first request.
        self.lines.start()
        self._thread.start()
        # uvicorn tells nobody that it listens; it sets a flag.
        while not self._http.started:
            if not self._thread.is_alive():
                raise ConfigError(f"the server at {self.url} did not start")
            time.sleep(0.005)
        self._socket.listen(2048)  # the kernel's queue; asyncio's own backlog is how many it accepts in one round

    def load(self) -> None:
        """Load all models and indexes, and become ready. Raises the errors of loading them."""
        for name, spec in self._models:
            shared = Shared(self._worker, self._pool, self._budgets, self.service.metrics)
            for served in load_served(name, spec, self._adapters, shared, self._device, self._precision):
                # Before the model is added: no client is served by kernels that are still being prepared.
                warm_up(served)
                self.service.models.add(served)
        for name, folder in self._indexes.items():
            self.service.indexes.open(name, folder, self.service.models)
        gc.collect()
        gc.freeze()  # looking for garbage among torch's million objects stops all threads for 0.15 s, again and again
        self.service.state = "ready"

    def _run_http(self) -> None:
        try:
            self._http.run([self._socket])
        finally:
            # The thread ended without being asked to.
            if not self._http.should_exit:
                self._died("the HTTP thread died: the log has the traceback")

    def _died(self, reason: str) -> None:
        # The first reason is the cause; what follows it are consequences.
        self.service.fault = self.service.fault or reason
        self.wake()

    def drain(self) -> int:
        """Refuse new requests and wait until the accepted ones are answered, for ``drain_seconds`` at most.

        Then refuse the others. Return how many those were.
        """
        # The state first, so that requests that come from here on get 503 and the count can only fall.
        self.service.state = "draining"
        end = time.monotonic() + self.service.options.drain_seconds
        for served in self.service.models:
            served.engine.close("the server is stopping")
        while self.service.outstanding and time.monotonic() < end:
            time.sleep(0.02)
        return sum(served.engine.abandon("the server stopped before the answer") for served in self.service.models)

    def stop(self) -> str | None:
        """Drain, let clients read their answers, and end all threads, in ``drain_seconds`` and ten seconds at most.

        Return what was abandoned; None: all accepted requests were answered, and no thread runs any more.
        """
        end = time.monotonic() + self.service.options.drain_seconds
        abandoned = self.drain()
        left = max(_LAST_WORDS, math.ceil(end - time.monotonic()))
        # uvicorn reads it when it stops, so it may be set this late: clients get what is left of the drain.
        self._http.config.timeout_graceful_shutdown = left
        self._http.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(left + _END)
        self._socket.close()
        threads = ["http"] if self._thread.is_alive() else []
        threads += [*self._worker.stop(_END), *self._pool.stop(_END)]
        # Not waited for: a thread inside a parser cannot be interrupted.
        self.service.readers.shutdown(wait=False)
        if self._tracer is not None:
            # In a thread: a collector that does not answer would hold the process.
            last = threading.Thread(target=self._tracer.close, name="traces", daemon=True)
            last.start()
            last.join(_LAST_WORDS)
        self.lines.close()
        said = [f"{abandoned:,} requests were not answered"] if abandoned else []
        said += [f"still at work: {', '.join(threads)}"] if threads else []
        limit = f"{self.service.options.drain_seconds:g} seconds of --drain-seconds"
        return f"abandoned after {limit}: {'; '.join(said)}" if said else None


def serve(
    models: str | Path | Sequence[str | Path],
    *,
    names: Sequence[str] = (),
    adapters: Mapping[str, str | Path] | None = None,
    indexes: Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    precision: str = "auto",
    max_batch_tokens: int | None = None,
    max_queue_tokens: int | None = None,
    max_body: int = 2**24,
    drain_seconds: float = Options.drain_seconds,
    auto_truncate: bool = False,
    api_key: str | None = None,
    cors: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    max_bodies: int | None = None,
    max_connections: int | None = None,
    otlp_endpoint: str | None = None,
) -> None:
    """Serve models over HTTP until SIGTERM or SIGINT, which lets accepted requests be answered.

    models            folders or hub names; ``MODEL@layers=6,dimensions=256`` serves the first of both
    names             what clients call them; default: hub names as they are, the last part of folders
    adapters          folders or hub names of adapters of the one model, by what clients call them; they share its
                      weights and its batches
    indexes           folders of search indexes, each made by one of the models; called by the last part of the folder
    host              127.0.0.1: this machine only
    port              0: any that is free
    device            auto, cpu, cuda, cuda:1
    precision         auto, fp32, bf16, fp16 or int8
    max_batch_tokens  tokens of one batch; default: 2,048 on a CPU, 32,768 on a GPU
    max_queue_tokens  tokens that wait at most for each model; default: 256 batches. More are refused (429)
    max_body          bytes of a request
    drain_seconds     in which accepted requests must be answered after a signal
    auto_truncate     cut texts that are too long if a request does not set ``truncate``; else refuse them (413)
    api_key           key that requests must carry; None: none
    cors              origins whose pages may send requests
    allowed_hosts     names of this server for its clients, beside localhost, addresses and its own; "*": any
    max_bodies        bytes of all requests in flight; default: 8 * ``max_body``. Beyond it large ones get 429
    max_connections   open connections; default: as many as there are file descriptors for, 4,096 at most
    otlp_endpoint     URL for OpenTelemetry traces; None: none are sent
    Raises ConfigError, WeightsError or TokenizerError; Died if a thread has ended that the server needs; Abandoned if
    the drain ended before its work: threads may then still run.
    """
    options = Options(
        max_body=max_body, max_bodies=8 * max_body if max_bodies is None else max_bodies,
        max_connections=max_connections, drain_seconds=drain_seconds, auto_truncate=auto_truncate,
        api_key=api_key, cors=tuple(cors), allowed_hosts=tuple(allowed_hosts),
    )  # fmt: skip
    given = [models] if isinstance(models, str | Path) else list(models)
    server = Server(
        given, names=names, adapters=adapters, indexes=indexes, host=host, port=port, device=device, options=options,
        precision=precision, batch_tokens=max_batch_tokens, queue_tokens=max_queue_tokens, otlp_endpoint=otlp_endpoint,
    )  # fmt: skip
    if host not in ("127.0.0.1", "::1", "localhost") and api_key is None:
        log.warning("bound to %s without an API key: everyone who reaches this machine may ask", host)
    _serve(server)


def _serve(server: Server) -> None:
    """Run a server until a signal comes or a thread dies, then stop it. Raises Died or Abandoned."""
    abandoned: str | None = None
    with log_through(server.lines), _signals() as stopped:
        server.wake = stopped.wake
        try:
            server.start()
            server.load()
            served = [*server.service.models, *server.service.indexes]
            log.info("%s serves %s", server.url, ", ".join(each.describe() for each in served))
            stopped.wait_for_one()
            say(lambda: log.info("draining: %s requests are answered, new ones refused", server.service.outstanding))
        except _Stopped:
            log.info("stopped while loading")
        finally:
            abandoned = server.stop()
    if server.service.fault is not None:
        raise Died(f"{server.service.fault}{'; ' + abandoned if abandoned else ''}")
    if abandoned is not None:
        raise Abandoned(abandoned)


def say(write: Callable[[], object]) -> None:
    """Write a line while the server stops. A pipe that nobody reads delays it by a second, not for ever."""
    thread = threading.Thread(target=write, name="say", daemon=True)
    thread.start()
    thread.join(1)


class _Stopped(BaseException):
    """A signal arrived while models were loading."""


class _Signals:
    """SIGTERM and SIGINT: the first one ends waiting or loading, the second one the process."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waiting = False

    def wait_for_one(self) -> None:
        self._waiting = True
        self._event.wait()

    def wake(self) -> None:
        """End waiting, as a signal does."""
        self._event.set()

    def heard(self, number: int, frame: FrameType | None) -> None:
        # A second signal, while the server stops: the user does not want to wait for the drain.
        if self._event.is_set():
            raise SystemExit(128 + number)
        self._event.set()
        # Raised inside whatever the main thread does (reading weights), as KeyboardInterrupt would be.
        if not self._waiting:
            raise _Stopped


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Handle signals inside; Python delivers them to the main thread only."""
    heard = _Signals()
    # signal.signal raises outside the main thread: a server inside another program has that program's signals.
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before: dict[int, Callable[..., object] | int | None] = {
        number: signal.signal(number, heard.heard) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _processors() -> int:
    """Return the number of tokenising threads: the processors of this process, two to eight."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(2, given))


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to this address. Raises ConfigError if that fails."""
    bound = None
    try:
        family, kind, protocol, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)  # without the protocol asyncio leaves Nagle on: 40 ms an answer
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        if bound is not None:
            bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from error
    return bound
