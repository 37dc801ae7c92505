"""Connections that cost a server more than they cost the client: many, idle, slow, half closed; and its own stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from served import Answer, Served, as_json, connect, held, receive, request, send

IDLE = 1100
"""Connections, beyond the 1,024 descriptors of a usual limit."""
PATIENCE = 100.0
"""Seconds within which a server must have closed a connection that does not get on."""
BODY = as_json({"inputs": "a"})


def idle(served: Served) -> Answer | tuple[str, str]:
    """1,100 idle connections to a server of 1,024 descriptors; another client asks for a vector."""
    with held(served.port, IDLE):
        time.sleep(2.0)
        return served.post("/embed", {"inputs": "another one"}, 20.0)


def unread(served: Served) -> Answer | tuple[str, str]:
    """Nobody reads stderr: after more access lines than a pipe holds, a client asks for a vector."""
    path = "/nothing/" + "x" * 2000
    for _ in range(600):
        answer = send(served.port, request(path, b"", method="GET"), 10.0)
        if answer.status is None:
            break
    return served.post("/embed", {"inputs": "another one"}, 10.0)


def full(served: Served) -> Answer | tuple[str, str]:
    """stderr is a full disk; twenty clients ask for vectors."""
    answers = [served.post("/embed", {"inputs": "one"}, 10.0) for _ in range(20)]
    return next((answer for answer in answers if answer.status != 200), answers[0])


def short_lived(served: Served) -> Answer | tuple[str, str]:
    """Two thousand connections that are reset before their request is through."""
    for number in range(2000):
        with connect(served.port, 10.0) as made:
            made.sendall(request("/embed", BODY)[: 1 + number % 150])
    return served.post("/embed", {"inputs": "another one"}, 20.0)


def pipelined(served: Served) -> Answer | tuple[str, str]:
    """A thousand requests on one connection whose answers nobody reads; another client asks for a vector."""
    with connect(served.port, 10.0) as made:
        made.settimeout(5.0)
        with suppress(TimeoutError):
            made.sendall(request("/info", b"", method="GET") * 1000)
        return served.post("/embed", {"inputs": "another one"}, 20.0)


def half_closed(served: Served) -> Answer | tuple[str, str]:
    """A client that says it will send nothing more still wants its answer."""
    return _right(send(served.port, request("/embed", BODY), 20.0, half_close=True))


def _right(answer: Answer) -> Answer | tuple[str, str]:
    return answer if answer.status == 200 or answer.timed_out else ("silent", f"answered by {answer.status}")


def _drip(raw: bytes, rest: bytes) -> Callable[[Served], Answer | tuple[str, str]]:
    """Send ``raw``, then ``rest`` over and over, a byte a second, until the server has enough of it."""

    def act(served: Served) -> Answer | tuple[str, str]:
        since = time.monotonic()
        with connect(served.port, PATIENCE) as made:
            try:
                made.sendall(raw)
                for number in range(int(PATIENCE)):
                    answer = receive(made, 1.0)
                    spent = f"after {time.monotonic() - since:.0f} s"
                    if answer.status is not None and answer.status >= 400:
                        return "named", f"{answer.status} {spent}"
                    if answer.status is None and not answer.timed_out:
                        return "harmless", f"closed {spent}"
                    if rest:
                        made.sendall(rest[number % len(rest)].to_bytes())
            except OSError:
                return "harmless", f"closed after {time.monotonic() - since:.0f} s"
        return "hang", f"still open after {PATIENCE:.0f} s"

    return act


_HEAD = request("/embed", BODY)[: -len(BODY)]

SLOW: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    "nothing at all": _drip(b"", b""),
    "a header a byte a second": _drip(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"x"),
    "the first line a byte a second": _drip(b"POST /", b"x"),
    "a header each second": _drip(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"A:b\r\n"),
    "a body a byte a second": _drip(_HEAD.replace(b"Content-Length: 15", b"Content-Length: 15000"), b"x"),
    "a connection kept and not used": _drip(request("/health", b"", method="GET"), b""),
}

ATTACKS: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    "1,100 idle connections, 1,024 descriptors": idle,
    "stderr that nobody reads": unread,
    "/dev/full as stderr": full,
    "2,000 connections cut short": short_lived,
    "1,000 requests, no answer read": pipelined,
    "a half-closed client": half_closed,
}

SERVERS: dict[str, dict[str, Any]] = {
    "1,100 idle connections, 1,024 descriptors": {"descriptors": 1024},
    "stderr that nobody reads": {"stderr": "unread"},
    "/dev/full as stderr": {"stderr": "full"},
}
"""How the server of an attack is started, where not by default."""
