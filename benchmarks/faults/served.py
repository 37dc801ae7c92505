"""``mmbert serve`` in a process of its own, watched while it is attacked; and a client that sends any bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START = 180.0
"""Seconds until a server must be ready."""
STOP = 75.0
"""Seconds after which a server that heard SIGTERM counts as hanging."""
MEMORY = 6 * 2**30
"""Bytes of memory that a server may take."""
KEPT = 2**22
"""Bytes of an answer that the client keeps."""
Json = Any


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int | None
    """None: no answer."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    timed_out: bool = False
    rest: bytes = b""
    """What came behind the first answer on the same connection."""


def request(path: str, body: bytes, *headers: str, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    """Return the bytes of an HTTP/1.1 request of JSON; ``headers`` (``Name: value``) come first and may replace it."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if not any(line.lower().startswith("content-type:") for line in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


def as_json(value: Json) -> bytes:
    """Return the bytes of a JSON value."""
    return json.dumps(value).encode()


def connect(port: int, timeout: float) -> socket.socket:
    """Return a connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def send(port: int, raw: bytes, timeout: float = 60.0, *, half_close: bool = False, linger: float = 0.0) -> Answer:
    """Send bytes on a connection of their own and return the answer.

    half_close  say at once that nothing more will be sent
    linger      seconds to wait for a second answer on the same connection
    """
    try:
        with connect(port, timeout) as made:
            sender = threading.Thread(target=_send, args=(made, raw, half_close), daemon=True)
            sender.start()  # beside reading: a server may answer before it has read all
            return receive(made, timeout, linger)
    except OSError as error:
        return Answer(None, timed_out=isinstance(error, TimeoutError))


def receive(made: socket.socket, timeout: float, linger: float = 0.0) -> Answer:
    """Return the next answer of a connection."""
    until = time.monotonic() + timeout
    data, length, size = b"", None, 0
    try:
        while length is None or size < length:
            made.settimeout(max(until - time.monotonic(), 0.001))
            block = made.recv(2**16)
            if not block:
                break
            size += len(block)
            data = data if len(data) > KEPT else data + block
            if data.startswith(b"HTTP/1.1 100 "):  # an answer that says only that there will be one
                data = data.partition(b"\r\n\r\n")[2]
                size = len(data)
            if b"\r\n\r\n" in data:
                length = _length(data)
    except TimeoutError:
        return Answer(None, timed_out=True)
    except OSError:
        pass
    if b"\r\n\r\n" not in data:
        return Answer(None)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, _, rest = body.partition(b"\r\n0\r\n\r\n")
        body = body.partition(b"\r\n")[2]
    else:
        stated = int(headers.get("content-length", len(body)))
        body, rest = body[:stated], body[stated:]
    if linger and not rest:
        made.settimeout(linger)
        with suppress(OSError):
            rest = made.recv(2**16)
    return Answer(int(first.split(" ")[1]), body, headers, rest=rest if rest.startswith(b"HTTP/1.") else b"")


def _length(data: bytes) -> int:
    """Return the bytes of head and body of an answer, as its head states them; of chunks one more until they end."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in lines:
        return len(data) if b"0\r\n\r\n" in body else len(data) + 1
    stated = [line for line in lines if line.startswith(b"content-length:")]
    return len(head) + 4 + (int(stated[0].split(b":")[1]) if stated else 0)


def _send(made: socket.socket, raw: bytes, half_close: bool) -> None:
    with suppress(OSError):
        made.sendall(raw)
        if half_close:
            made.shutdown(socket.SHUT_WR)


class Served:
    """A server that is attacked: its port, its stderr, its memory, and how fast ``/health`` answers all the while."""

    def __init__(
        self,
        models: list[Path],
        home: Path,
        *,
        index: Path | None = None,
        stderr: str = "file",
        descriptors: int | None = None,
    ) -> None:
        """Start ``mmbert serve`` with default options on a free port and wait until it is ready.

        index        a search index that is served too
        stderr       file: it is kept; unread: a pipe that nobody reads; full: ``/dev/full``
        descriptors  the limit of open files
        Raises RuntimeError with its last words if it ends instead.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._log = home / f"serve-{self.port}.txt"
        self._read = 0
        unread, write = os.pipe()
        added = ["--index", str(index)] if index is not None else []
        target = {"file": str(self._log), "full": "/dev/full"}.get(stderr)
        with open(target or write, "w", closefd=True) as handle:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmbert", "serve", *map(str, models), "--port", str(self.port), *added],
                stdout=subprocess.DEVNULL, stderr=handle, preexec_fn=_limit(descriptors),
                env={**os.environ, "MMBERT_QUIET": "1"},
            )  # fmt: skip
        self._pipe = [unread] if target is None else [unread, write]
        self._probes: list[tuple[float, float]] = []
        self._asking: float | None = None
        self._ended = threading.Event()
        self._wait_until_ready()
        self.said()
        self.idle = self._memory("VmRSS")
        threading.Thread(target=self._watch, daemon=True).start()

    def post(self, path: str, value: Json, timeout: float = 60.0, *headers: str) -> Answer:
        """Return the answer to a JSON value, or to bytes."""
        body = value if isinstance(value, bytes) else as_json(value)
        return send(self.port, request(path, body, *headers), timeout)

    def begin(self) -> float:
        """Return the time from which :meth:`health` looks on, and begin to measure the highest memory anew."""
        with suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return time.monotonic()

    def health(self, since: float) -> float:
        """Return the slowest answer of ``/health`` since then, in seconds; one that is still awaited counts."""
        now, asking = time.monotonic(), self._asking
        waiting = [now - asking] if asking is not None else []
        return max([seconds for at, seconds in self._probes if at + seconds >= since] + waiting, default=0.0)

    def memory(self) -> float:
        """Return the highest resident memory since :meth:`begin`, as a multiple of that when idle."""
        return self._memory("VmHWM") / self.idle

    def said(self) -> str:
        """Return what is new on its stderr."""
        if not self._log.is_file():
            return ""
        with self._log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return text.decode(errors="replace")

    def stop(self) -> float | None:
        """Return the seconds from SIGTERM to its end; None if it had to be killed."""
        since = time.monotonic()
        self._ended.set()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.process.kill()
            self.process.wait()
            for end in self._pipe:
                os.close(end)
            self._pipe = []
        return time.monotonic() - since

    def _watch(self) -> None:
        """Ask for ``/health`` every 50 ms on a new connection, as orchestrators do."""
        while not self._ended.is_set():
            self._asking = since = time.monotonic()
            send(self.port, request("/health", b"", method="GET"), 120.0)
            self._asking = None
            self._probes.append((since, time.monotonic() - since))
            time.sleep(0.05)

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + START
        while send(self.port, request("/health", b"", method="GET"), 5.0).status != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(self.said() or "the server did not start")
            time.sleep(0.1)

    def _memory(self, name: str) -> float:
        """Return a figure of the process in kB; 0 when it is gone."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return float(line.split()[1])
        return 0.0


@contextmanager
def held(port: int, count: int, raw: bytes = b"") -> Iterator[list[socket.socket]]:
    """Yield connections that are kept open, on each of which ``raw`` was sent."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                connection = connect(port, 10.0)
                made.append(connection)
                connection.sendall(raw)
        yield made
    finally:
        for connection in made:
            connection.close()


def _limit(descriptors: int | None) -> Callable[[], None]:
    """Return what sets the limits of the server's process: no attack may take the machine that it is tried on."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return limit
