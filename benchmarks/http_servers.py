"""Which HTTP server to build on: raw requests that must be refused, and speed, with the same application behind each.

    python benchmarks/http_servers.py --model runs/nano/final [--servers uvicorn-h11 ...] [--seconds 3] [--rounds 3]

Servers that are not installed are left out (pip install httptools hypercorn granian zttp). ``ours`` is ``mmbert serve``
as it starts. Every server runs in a process of its own, all at once; one is asked at a time, in turns. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDS = {
    "ours": "uvicorn", "uvicorn-h11": "h11", "uvicorn-httptools": "httptools", "uvicorn-zttp": "zttp",
    "hypercorn": "hypercorn", "granian": "granian",
}  # fmt: skip
BODY = b'{"inputs": "a"}'
HEAD = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"

REFUSED = {
    "Content-Length and Transfer-Encoding": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "two different Content-Length": HEAD + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "Content-Length: +15": HEAD + b"Content-Length: +15\r\n\r\n" + BODY,
    "Transfer-Encoding: xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "Transfer-Encoding : chunked": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "HTTP/1.0 with Transfer-Encoding": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "bare LF after a header": GET + b"X: a\nY: b\r\n\r\n",
    "bare LF everywhere": GET.replace(b"\r\n", b"\n") + b"\n",
    "bare LF after a chunk's length": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(b"f\r\n", b"f\n"),
    "bare LF at the end of chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"\n",
    "CR in a header": GET + b"X: a\rY: b\r\n\r\n",
    "NUL in a header": GET + b"X: a\0\r\n\r\n",
    "folded header": GET + b"X: a\r\n b\r\n\r\n",
    "chunk longer than stated": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(BODY, BODY + b"x"),
    "chunk of negative length": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "two Host": GET + b"Host: b\r\n\r\n",
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "space in the target": b"GET /health x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "1 MB of headers": GET + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "100,000 headers": GET + b"X: a\r\n" * 100_000 + b"\r\n",
}  # fmt: skip


def run_child(name: str, port: int, model: str) -> None:
    """The application of ``mmbert serve`` behind one server."""
    from mmbert.serving.app import make_app
    from mmbert.serving.server import Server

    server = Server([model], port=port if name == "ours" else 0, quiet=True)
    if name == "ours":
        server.start()
        server.load()
        threading.Event().wait()
    server.load()
    app: Any = make_app(server.service)
    if name.startswith("uvicorn"):
        import uvicorn

        uvicorn.run(app, port=port, http=name.partition("-")[2], loop="asyncio", lifespan="off", log_level="critical")
    elif name == "hypercorn":
        import hypercorn.asyncio
        import hypercorn.config

        config = hypercorn.config.Config()
        config.bind, config.errorlog = [f"127.0.0.1:{port}"], None
        asyncio.run(hypercorn.asyncio.serve(app, config, mode="asgi"))
    else:
        from granian.constants import Interfaces
        from granian.server.embed import Server as Granian

        asyncio.run(Granian(app, port=port, interface=Interfaces.ASGI, log_enabled=False).serve())


@contextmanager
def serve(name: str, model: str) -> Iterator[tuple[int, int]]:
    """The port and the process of a server that is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, __file__, "--child", name, str(port), "--model", model]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not send(port, GET + b"\r\n")[0].startswith("200"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start")
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def send(port: int, request: bytes, half_close: bool = False) -> tuple[str, bool]:
    """What came of raw bytes: a status or why there is none; and whether the connection was closed."""
    parts = []
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as made:
            made.sendall(request)
            if half_close:
                made.shutdown(socket.SHUT_WR)
            while part := made.recv(65536):
                parts.append(part)
                made.settimeout(0.5)
    except TimeoutError:
        return _status(parts) or "waits", False
    except OSError:
        return _status(parts) or "reset", True
    return _status(parts) or "closed", True


def _status(parts: list[bytes]) -> str:
    return ", ".join(line[9:12].decode() for line in b"".join(parts).split(b"\r\n") if line.startswith(b"HTTP/1."))


def processor(process: int) -> float:
    """Seconds that all threads of a process have computed: what other programs on the machine do not blur."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, request: bytes, seconds: float, connections: int) -> int:
    """Answers over keep-alive connections, each of which waits for one answer before it asks again."""
    count, end = 0, time.perf_counter() + seconds

    async def connection() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            if b"chunked" in head:
                await reader.readuntil(b"0\r\n\r\n")
            else:
                lines = head.split(b"\r\n")
                await reader.readexactly(next(int(line[15:]) for line in lines if line.startswith(b"content-length:")))
            count += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return count


def race(servers: dict[str, tuple[int, int]], options: argparse.Namespace) -> Iterator[str]:
    requests = {"/health": GET + b"\r\n", "/embed": HEAD + LENGTH + b"\r\n" + BODY}
    rates: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(options.rounds):
        for name in list(servers) if turn % 2 else reversed(list(servers)):
            port, process = servers[name]
            for path, request in requests.items():
                before = processor(process)
                count = asyncio.run(load(port, request, options.seconds, 8))
                used = processor(process) - before
                rates.setdefault((path, name), []).append((count / options.seconds, 1000 * used / count))
    yield "| 8 connections | " + " | ".join(servers) + " |\n| --- |" + " ---: |" * len(servers)
    for path in requests:
        for what, index, form in (("requests/s", 0, ",.0f"), ("processor ms a request", 1, ".3f")):
            cells = [statistics.median(rate[index] for rate in rates[path, name]) for name in servers]
            yield f"| {path}, {what} | " + " | ".join(f"{cell:{form}}" for cell in cells) + " |"


def tries(servers: dict[str, tuple[int, int]]) -> Iterator[str]:
    yield "| request | " + " | ".join(servers) + " |\n|" + " --- |" * (len(servers) + 1)
    for what, request in REFUSED.items():
        cells = []
        for port, _ in servers.values():
            status, closed = send(port, request)
            fine = closed and not status.startswith("2")
            cells.append(f"{status}" if fine else f"**{status}{'' if closed else ', open'}**")
        yield f"| {what} | " + " | ".join(cells) + " |"
    halves = [send(port, HEAD + LENGTH + b"\r\n" + BODY, half_close=True)[0] for port, _ in servers.values()]
    yield "| half-closed (200 is right) | " + " | ".join(h if "200" in h else f"**{h}**" for h in halves) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/nano/final", help="a folder that gives vectors")
    parser.add_argument("--servers", nargs="+", default=list(NEEDS), choices=NEEDS)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement of speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child[0], int(options.child[1]), options.model)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = str(Path(options.model).resolve())
    with ExitStack() as stack:
        names = [name for name in options.servers if importlib.util.find_spec(NEEDS[name])]
        servers = {name: stack.enter_context(serve(name, model)) for name in names}
        packages = dict.fromkeys(["uvicorn", *(NEEDS[name] for name in names)])
        versions = [f"{package} {version(package)}" for package in packages]
        print(f"{', '.join(versions)}, Python {platform.python_version()}\n")
        print("\n".join([*tries(servers), "", *race(servers, options)]))


if __name__ == "__main__":
    main()
