"""Who asks, and in which bytes: pages of other origins, rebound names, and requests that can be read in two ways."""

from __future__ import annotations

from collections.abc import Callable

from served import Answer, Served, as_json, request, send

BODY = as_json({"inputs": "a"})
FORM = b"inputs=a"
EVIL = "evil.example"


def _refused(raw: bytes) -> Callable[[Served], Answer | tuple[str, str]]:
    """What must not be answered as a request: a refusal, or a closed connection."""

    def act(served: Served) -> Answer | tuple[str, str]:
        answer = send(served.port, raw, 20.0, linger=0.5)
        if answer.rest.startswith(b"HTTP/1.1 200"):
            return "silent", f"{answer.status}, and a second answer on the same connection"
        if answer.status is not None and answer.status < 300:
            return "silent", f"{answer.status} {answer.body[:60]!r}"
        return ("harmless", "closed") if answer.status is None and not answer.timed_out else answer

    return act


def _redirected(served: Served) -> Answer | tuple[str, str]:
    """A redirection must not name the host that the client made up."""
    for path in ("/embed/", "/web", f"//{EVIL}/embed/"):
        answer = send(served.port, request(path, BODY, host=EVIL), 20.0)
        if EVIL in answer.headers.get("location", ""):
            return "silent", f"{answer.status} to {answer.headers['location']}"
    return "harmless", ""


def _answered(raw: bytes) -> Callable[[Served], Answer | tuple[str, str]]:
    """What must go on working."""

    def act(served: Served) -> Answer | tuple[str, str]:
        answer = send(served.port, raw, 20.0)
        return answer if answer.status == 200 else ("silent", f"{answer.status} {answer.body[:100]!r}")

    return act


def _post(*headers: str, body: bytes = BODY, host: str = "127.0.0.1") -> bytes:
    return request("/embed", body, *headers, host=host)


def _get(path: str, host: str) -> bytes:
    return request(path, b"", method="GET", host=host)


_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def _head(*lines: str, body: bytes = b"", path: str = "/embed", end: str = "\r\n") -> bytes:
    """Return a request written line by line, whatever the lines say."""
    first = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return end.join([*first, *lines, "", ""]).encode("latin-1") + body


ORIGINS: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    "text/plain of another origin": _refused(_post("Content-Type: text/plain", f"Origin: http://{EVIL}")),
    "text/plain": _refused(_post("Content-Type: text/plain")),
    "a form of another origin": _refused(
        _post("Content-Type: application/x-www-form-urlencoded", f"Origin: http://{EVIL}", body=FORM)
    ),
    "JSON as a form": _refused(_post("Content-Type: application/x-www-form-urlencoded", f"Origin: http://{EVIL}")),
    "JSON as multipart": _refused(_post("Content-Type: multipart/form-data; boundary=x", f"Origin: http://{EVIL}")),
    "JSON of another origin": _refused(_post(f"Origin: http://{EVIL}")),
    "JSON of a sandboxed page": _refused(_post("Origin: null")),
    "JSON of another port": _refused(_post("Origin: http://127.0.0.1:1")),
    "a rebound host": _refused(_post(host=EVIL)),
    "a rebound host with a port": _refused(_post(host=f"{EVIL}:8000")),
    "a rebound host asks /info": _refused(_get("/info", EVIL)),
    "a rebound host asks /v1/models": _refused(_get("/v1/models", EVIL)),
    "a rebound host asks /metrics": _refused(_get("/metrics", EVIL)),
    "a host that begins like ours": _refused(_post(host=f"127.0.0.1.{EVIL}")),
    "a redirection to another host": _redirected,
    "localhost": _answered(_post(host="localhost")),
    "JSON with a charset": _answered(_post("Content-Type: application/json; charset=utf-8")),
}

FRAMING: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    "Content-Length and Transfer-Encoding": _refused(
        _head(f"Content-Length: {len(_CHUNKS)}", "Transfer-Encoding: chunked", body=_CHUNKS + _post())
    ),
    "Transfer-Encoding and Content-Length": _refused(
        _head("Transfer-Encoding: chunked", "Content-Length: 4", body=_CHUNKS + _post())
    ),
    "two different lengths": _refused(
        _head(f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY) + 9}", body=BODY)
    ),
    "a length below zero": _refused(_head("Content-Length: -1", body=BODY)),
    "a length with a sign": _refused(_head(f"Content-Length: +{len(BODY)}", body=BODY)),
    "a length of thirty digits": _refused(_head(f"Content-Length: {'9' * 30}", body=BODY)),
    "an unknown transfer encoding": _refused(_head("Transfer-Encoding: xchunked", body=_CHUNKS)),
    "a chunk size that is none": _refused(_head("Transfer-Encoding: chunked", body=b"zz\r\n" + BODY)),
    "a chunk size of thirty digits": _refused(_head("Transfer-Encoding: chunked", body=b"f" * 30 + b"\r\n" + BODY)),
    "bare line feeds": _refused(_head(f"Content-Length: {len(BODY)}", body=BODY, end="\n")),
    "a folded header": _refused(_head("X-Folded: a\r\n b", f"Content-Length: {len(BODY)}", body=BODY)),
    "a space before the colon": _refused(_head(f"Content-Length : {len(BODY)}", body=BODY)),
    "a zero byte in a header": _refused(_head("X-Zero: a\0b", f"Content-Length: {len(BODY)}", body=BODY)),
    "no host": _refused(b"POST /embed HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + BODY),
    "two hosts": _refused(_head(f"Host: {EVIL}", f"Content-Length: {len(BODY)}", body=BODY)),
    "a megabyte of headers": _refused(_head(*[f"X-{n}: {'x' * 1000}" for n in range(1000)], body=BODY)),
    "a path of a megabyte": _refused(_head("Content-Length: 15", body=BODY, path="/" + "x" * 10**6)),
    "another protocol": _refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300),
    "HTTP/2 without a word": _refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "an upgrade to a WebSocket": _refused(
        _head("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13")
    ),
    "chunks": _answered(_head("Transfer-Encoding: chunked", body=_CHUNKS)),
    "two requests at once": _answered(_post() + _post()),
}
