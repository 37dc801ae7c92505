"""A small HTTP server on loopback for tests that need somebody to ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def listen(answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    """Return a server that gives every request to ``answer``, in threads of its own, and logs nothing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  (the names that the library calls)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def address(server: ThreadingHTTPServer) -> str:
    """Return the server's URL."""
    return f"http://127.0.0.1:{server.server_port}"
