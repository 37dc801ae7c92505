"""HTTP/1.1: uvicorn's h11 protocol, stricter, with time limits and a limit of connections.

Why h11 and not a faster parser: docs/decisions/0012-the-http-server.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import h11
import orjson
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmbert.errors import ConfigError
from mmbert.serving.errors import Refused, failure

ACCEPTED_AT_ONCE = 16
"""Connections that asyncio accepts in one round (its ``backlog``); the queue of the kernel is longer."""

_FEWEST = 8


class _StrictLines(ReceiveBuffer):
    """Refuses heads and trailers that another parser, such as a proxy's, could read differently."""

    names_chunks = False
    """Whether the last head can have a Transfer-Encoding."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        data, count = self._data, self._data.count
        if not data.startswith(b"\r\n"):
            end = data.find(b"\r\n\r\n")
            if end < 0:
                end = len(data) - data.endswith(b"\r")
            # as many LF and CR as CRLF: none is bare
            lines = count(b"\r\n", 0, end)
            folded = count(b"\n ", 0, end) + count(b"\n\t", 0, end)
            if folded or count(b"\n", 0, end) != lines or count(b"\r", 0, end) != lines:
                raise h11.LocalProtocolError("a line does not end in CRLF, or is folded")
            self.names_chunks = b"transfer-encoding" in data[:end].lower()
        return super().maybe_extract_lines()


class _StrictConnection(h11.Connection):
    """Refuses chunks in a request with Content-Length, which h11 accepts: request smuggling (RFC 9112, 6.3)."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._receive_buffer = self._lines = _StrictLines()

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request) and self._lines.names_chunks:
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                raise h11.RemoteProtocolError("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
        return event


@dataclass(frozen=True)
class Bounds:
    """Limits of connections.

    connections   open at once
    head_seconds  from the first moment of a connection, or the first byte of a later request, to the end of its headers
    body_seconds  in which a client has to read a part of its answer, or to stop sending a refused body
    """

    connections: int
    head_seconds: float
    body_seconds: float


def most_connections(wanted: int | None, cap: int = 4096) -> int:
    """Return how many connections may be open: as wanted, or as many as there are file descriptors for, up to ``cap``.

    Some descriptors are kept for files, and for connections that are accepted before another one is closed.
    Raises ConfigError for too many.
    """
    try:
        import resource
    except ModuleNotFoundError:  # no POSIX
        return wanted or 512
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    own = Path("/dev/fd")
    used = len(os.listdir(own)) if own.is_dir() else 64
    left = sys.maxsize if limit == resource.RLIM_INFINITY else limit - used - 4 * ACCEPTED_AT_ONCE - 64
    if left < max(_FEWEST, wanted or 0):
        raise ConfigError(
            f"the limit of {limit:,} open files leaves {max(0, left):,} connections, not {wanted or _FEWEST:,}: "
            "raise it (ulimit -n; LimitNOFILE= in systemd)"
        )
    return min(left, cap) if wanted is None else wanted


class Protocol(H11Protocol):
    """A connection. It either waits for its client (since ``since``) or is being answered."""

    def __init__(self, bounds: Bounds, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.conn = _StrictConnection()
        self.bounds = bounds
        self.since = self.loop.time()
        self.heading = True
        """Whether a head must arrive in time; between two requests there is more time (keep-alive)."""
        self._unsent = 0
        self._stuck_since = self.since

    @property
    def answering(self) -> bool:
        """Whether a request has arrived, complete or not, that has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)  # adds this connection to ``connections``
        # Checked after the connection is added, so one more than the limit is open for a moment.
        if len(self.connections) > self.bounds.connections:
            self._make_room()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client; if all are being answered, refuse this one."""
        others = [other for other in self.connections if isinstance(other, Protocol) and other is not self]
        closing = sum(other.transport.is_closing() for other in others)
        if len(self.connections) - closing <= self.bounds.connections:
            return
        # A request whose body has not arrived waits for its client too; an answer that is being computed never does.
        waiting = [o for o in others if not o.transport.is_closing() and (not o.answering or o.cycle.more_body)]
        self.logger.warning("%d connections, the limit: those that wait for their clients are closed", len(others))
        if waiting:
            min(waiting, key=lambda other: (other.answering, other.since)).transport.abort()
        else:
            error = Refused(503, "too many connections: try again later", {"Retry-After": "1"})
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        if not self.answering and not self.heading:
            self.since, self.heading = self.loop.time(), True
        super().data_received(data)
        if self.answering and self.heading:
            self.since, self.heading = self.loop.time(), False

    def on_response_complete(self) -> None:
        self.since, self.heading = self.loop.time(), False
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a half-closed connection whose client waits for its answer, and notice one whose client has left.

        Both look the same until something is written: only the socket of a client that has left is then reset. An
        informational response (100) is harmless, because clients skip it.
        """
        if not self.answering or self.cycle.more_body:
            return False
        # The client will send no other request on this connection.
        self.cycle.keep_alive = False
        if not self.cycle.response_started and self.conn.their_http_version == b"1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._look_whether_gone(0.02)
        return True

    def _look_whether_gone(self, pause: float) -> None:
        if self.transport.is_closing() or not self.answering:
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(pause, self._look_whether_gone, min(1.0, 2 * pause))

    def send_400_response(self, msg: str) -> None:
        """Send the error of a request that cannot be parsed, and close."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.ProtocolError) else 400
        said = re.sub(r"bytearray\(b'(.*?)'\)", r"'\1'", str(error or msg))  # h11 quotes its buffers
        self._refuse(Refused(status, f"not a request of HTTP/1.1: {said}"))

    def _refuse(self, error: Refused) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else the answer has been sent
            response = failure(error)
            body = orjson.dumps(response.body(""))
            head = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            lines = [
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
                *(f"{k}: {v}" for k, v in (head | response.headers).items()),
            ]
            self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            self.conn.send_failed()
            if self.answering:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()

    def shutdown(self) -> None:
        """Close at the end of the server; h11 refuses to for a connection that is closing already."""
        if not self.transport.is_closing():
            super().shutdown()

    def look_at_times(self, now: float) -> None:
        """Close a connection whose head does not arrive, or whose client does not read its answer."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:  # the client reads, or there is nothing to read
            self._unsent, self._stuck_since = unsent, now
        elif now - self._stuck_since > self.bounds.body_seconds:
            self.transport.abort()
        if self.heading and not self.answering and not self.transport.is_closing():
            refused = self.conn.their_state is h11.SEND_BODY  # it has its answer, but goes on sending
            if now - self.since > (self.bounds.body_seconds if refused else self.bounds.head_seconds):
                self.transport.close()


def make_http(app: Any, bounds: Bounds, *, graceful: int, keep_alive: int) -> uvicorn.Server:
    """Return uvicorn with this protocol. ``graceful``: seconds for last answers; ``keep_alive``: between requests."""

    async def look_at_times() -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(server.server_state.connections):
            if isinstance(connection, Protocol):
                connection.look_at_times(now)

    def protocol(**options: Any) -> Protocol:
        return Protocol(bounds, **options)

    config = uvicorn.Config(
        app, http=cast("type[Protocol]", protocol), ws="none", loop="asyncio", lifespan="off", access_log=False,
        log_config=None, server_header=False, timeout_graceful_shutdown=graceful, timeout_keep_alive=keep_alive,
        backlog=ACCEPTED_AT_ONCE, callback_notify=look_at_times, timeout_notify=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_SELDOM)
    return server


class Seldom(logging.Filter):
    """Passes a repeated message once a minute, with the number of repetitions."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        begin = str(record.msg).partition("\n")[0]
        if isinstance(error, OSError):  # such as too many open files: a traceback adds nothing
            record.msg, record.args, record.exc_info = f"{begin}: {error}", (), None
        key = f"{begin[:200]} {type(error).__name__}"
        # Not the record's own time: it may be set back.
        now = time.monotonic()
        last, missed = self._seen.get(key, (-self._seconds, 0))
        if now - last < self._seconds:
            self._seen[key] = (last, missed + 1)
            return False
        # Bounded: messages with changing text would fill the memory.
        if len(self._seen) > 100:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if missed:
            record.msg = f"{record.getMessage()} (and {missed:,} times since the last such line)"
            record.args = ()
        return True


_SELDOM = Seldom()
