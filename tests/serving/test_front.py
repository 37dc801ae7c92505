"""What comes before a model is asked: bodies, connections, hosts, origins, logs. No client stops the others."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from raw_requests import GET, HEAD, REFUSED, send
from serving_models import serving

from mmbert.serving.app import ROUTES
from mmbert.serving.auth import known_hosts
from mmbert.serving.errors import shortened
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.lines import Lines
from mmbert.serving.server import Server
from mmbert.serving.service import Options

JSON = {"Content-Type": "application/json"}


@contextmanager
def healthy(server: Server, within: float = 3.0) -> Iterator[None]:
    """While something goes on, health answers, on a connection of its own each time."""
    slowest, stop = [0.0], threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            begun = time.perf_counter()
            assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
            slowest.append(time.perf_counter() - begun)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert max(slowest) < within


MANY = 1_000_000


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/embed", b'{"inputs": [' + b"{}," * MANY + b"1]}", 413, "more than 262,144 values"),
        ("/embed", b'{"inputs": ["a",' + b"2," * 200_000 + b"1]}", 413, "200,002 inputs, at most 8,192"),
        ("/embed", b'{"inputs": ["a",' + b"2," * 8_000 + b"1]}", 422, "inputs.1: Input should be a valid string"),
        ("/embed", b'{"inputs": ' + b'"",' * MANY + b'""}', 413, "more than 262,144 values"),
        ("/embed", b'{"inputs": "a", "' + b'\\"' * MANY + b'": 1, "dimensions": 0}', 422, "dimensions"),
        ("/v1/rerank", b'{"query": "q", "documents": [' + b"1," * 300_000 + b"1]}", 413, "values"),
        ("/v1/rerank", b'{"query": "q", "documents": [' + b'{"a":1},' * 100_000 + b"1]}", 413, "at most 8,192"),
        ("/v1/rerank", b'{"query": "q", "documents": [' + b'{"a":1},' * 8_000 + b"1]}", 422, "documents.0"),
        ("/rerank", b'{"query": "q", "texts": [' + b"1," * 200_000 + b"1]}", 422, "texts.0: Input should"),
        ("/rerank", b'{"query": "q", "texts": [' + b"null," * 200_000 + b"1]}", 413, "at most 8,192"),
        ("/similarity", b'{"inputs": {"source_sentence": "a", "sentences": [' + b"{}," * 9_000 + b"1]}}", 413, "9,001"),
        ("/predict", b'{"inputs": [' + b"[1]," * 8_000 + b'["a"]]}', 422, "inputs.0"),
        ("/decode", b'{"ids": [' + b"-1," * 200_000 + b"1]}", 422, "ids.0"),
        ("/decode", b'{"ids": [' + b"[1]," * 9_000 + b"[1]]}", 413, "9,001 inputs"),
        ("/answer", b'{"inputs": [' + b'{"question": "q"},' * 8_000 + b"1]}", 422, "inputs.0.context"),
        ("/fill_mask", b'{"inputs": "a"' + b"".join(b', "%d": 1' % k for k in range(50_000)) + b"}", 422, "50,001"),
        ("/answer", b'{"inputs": [{' + b",".join(b'"%d": 1' % k for k in range(50_000)) + b"}]}", 422, "50,000 field"),
        ("/", b'{"inputs": [' + b'["a"],' * 8_000 + b"1]}", 422, "inputs.0"),
        ("/", b'{"inputs": {"query": "q", "texts": [' + b"[]," * 9_000 + b'1]}, "model": "ranks"}', 413, "9,001"),
        ("/embed", b'{"inputs": NaN}', 400, "Invalid JSON"),
        ("/", b'{"inputs": [Infinity]}', 400, "Invalid JSON"),
        ("/embed", b'{"inputs": ' + b"9" * 100_000 + b"}", 400, "number out of range"),
        ("/embed", b'{"inputs": ' + b"[" * MANY + b"}", 413, "values"),
        ("/embed", b'{"inputs": ' + b"[" * 100_000 + b"}", 400, "recursion limit"),
    ],
)  # fmt: skip
def test_no_body_is_slow(server: Server, path: str, body: bytes, status: int, message: str) -> None:
    begun = time.perf_counter()
    with healthy(server):
        answer = httpx.post(f"{server.url}{path}", content=body, headers=JSON, timeout=60)
    assert time.perf_counter() - begun < 10
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert message in (error["message"] if path.startswith("/v1/") else error)
    assert len(answer.content) < 1200


def test_every_list_of_a_request_is_refused_at_its_first_fault() -> None:
    def lists(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if schema.get("type") == "list":
                yield schema
            for inner in schema.values():
                yield from lists(inner)
        elif isinstance(schema, list | tuple):
            for inner in schema:
                yield from lists(inner)

    for route in ROUTES:
        found = list(lists(route.schema.__pydantic_core_schema__))
        assert all(one.get("fail_fast") for one in found), route.path


LONG = "x" * MANY


@pytest.mark.parametrize(
    ("path", "body", "status", "kept"),
    [
        ("/embed", {"inputs": "a", "model": LONG}, 404, "is served here: tuned"),
        ("/v1/embeddings", {"input": "a", "model": LONG}, 404, "is served here: tuned"),
        ("/embed", {"inputs": "a", "prompt_name": LONG}, 422, "query"),
        ("/fill_mask", {"inputs": "<mask>", LONG: 1}, 422, "Extra inputs are not permitted"),
        ("/fill_mask", {"inputs": LONG[:20_000]}, 422, "has no <mask>"),
        ("/token_classify", {"inputs": "a", "strategy": LONG}, 422, "'simple'"),
        ("/", {"inputs": "a", "model": LONG}, 404, "is served here: tuned"),
    ],
)
def test_what_is_quoted_is_cut(client: httpx.Client, path: str, body: Any, status: int, kept: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text[:2000]
    error = answer.json()["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert len(message) <= 1000
    assert kept in message


def test_shortened_keeps_both_ends() -> None:
    assert shortened("a" * 1000) == "a" * 1000
    cut = shortened("begin" + "a" * 5000 + "end")
    assert len(cut) == 1000
    assert (cut[:5], cut[-3:]) == ("begin", "end")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "ranks"}, 200), ({"schema": "x", "call": 1, "fields": 2}, 200), ({"model": "none"}, 404),
        ({"model": 3}, 422), ({"texts": ["a", 2**70]}, 422),
    ],
)  # fmt: skip
def test_fields_inside_of_inputs(client: httpx.Client, fields: dict[str, Any], status: int) -> None:
    body = {"inputs": {"query": "q", "texts": ["a", "b"], **fields}, "model": "ranks"}
    answer = client.post("/", json=body)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert [one.keys() for one in answer.json()] == [{"index", "score"}] * 2


@contextmanager
def upload(server: Server, size: int, sent: int) -> Iterator[socket.socket]:
    """A request of so many bytes, of which some have come."""
    with socket.create_connection((server.host, server.port), timeout=20) as made:
        made.sendall(HEAD + b'Content-Length: %d\r\n\r\n{"inputs": "' % size + b"a" * (sent - 12))
        yield made


def wait_until(there: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_large_requests_have_a_bound_and_small_ones_go_on(folders: Path) -> None:
    options = Options(max_bodies=2**20, auto_truncate=True)
    body = orjson.dumps({"inputs": "a" * 400_000})
    with serving(folders / "tuned", options=options) as server, httpx.Client(base_url=server.url) as client:
        with upload(server, 10**6, 600_000), upload(server, 10**6, 400_000):
            wait_until(lambda: server.service.held["requests"] == 1_000_000 - 2 * 2**16)
            refused = client.post("/embed", content=body, headers=JSON)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "in flight, at most 1,048,576" in refused.json()["error"]
            assert client.post("/embed", json={"inputs": "small " * 9000}).status_code == 200
        wait_until(lambda: not server.service.held["requests"])
        assert client.post("/embed", content=body, headers=JSON).status_code != 429
        assert not server.service.held["requests"]


def test_an_answer_that_nobody_takes(folders: Path) -> None:
    body = orjson.dumps({"inputs": ["men"] * 32_768})  # an answer of 12 MB: the kernel alone may hold 4 MB of it
    options = Options(body_seconds=1.5, max_inputs=40_000)
    with serving(folders / "tuned", options=options) as server, socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect((server.host, server.port))
        made.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: server.service.held["answers"] > 2**20, 60)
        wait_until(lambda: not server.service.held["answers"], 20)
        assert httpx.get(f"{server.url}/health").status_code == 200


def closed_after(made: socket.socket, seconds: float) -> float:
    begun = time.monotonic()
    made.settimeout(seconds)
    assert made.recv(10) == b""
    return time.monotonic() - begun


def test_headers_have_a_time(folders: Path) -> None:
    options = Options(head_seconds=1.0)
    with serving(folders / "tuned", options=options) as server, ExitStack() as stack:
        kept = stack.enter_context(httpx.Client(base_url=server.url))
        assert kept.get("/health").status_code == 200
        (connection,) = server._http.server_state.connections
        silent, slow, later = (
            stack.enter_context(socket.create_connection((server.host, server.port))) for _ in range(3)
        )
        slow.sendall(GET)
        later.sendall(GET + b"\r\n")
        assert later.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(1.5)
        later.sendall(GET)  # the time of a later request begins with its first byte
        slow_ends = threading.Timer(0.1, lambda: slow.sendall(b"X: a\r\n"))
        slow_ends.start()
        assert closed_after(silent, 5) < 2.5
        with contextlib.suppress(ConnectionError):
            assert closed_after(slow, 5) < 2.5
        assert 0.3 < closed_after(later, 5) < 3.5
        assert kept.get("/health").status_code == 200
        assert server._http.server_state.connections == {connection}  # an idle one between two requests was kept


def test_connections_have_a_bound(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, compute = threading.Event(), EmbeddingHandler.compute

    def gated(embedding: EmbeddingHandler, packed: Any, places: Any) -> Any:
        assert gate.wait(20)
        return compute(embedding, packed, places)

    options = Options(max_connections=20)
    with serving(folders / "tuned", options=options) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection((server.host, server.port)))
        with healthy(server):
            time.sleep(0.5)
        assert len(server._http.server_state.connections) <= 21
        monkeypatch.setattr(EmbeddingHandler, "compute", gated)
        request = HEAD + b'Content-Length: 15\r\n\r\n{"inputs": "a"}'
        asked = []
        for _ in range(20):
            asked.append(stack.enter_context(socket.create_connection((server.host, server.port), timeout=20)))
            asked[-1].sendall(request)
        wait_until(lambda: server.service.outstanding == 20)
        refused = httpx.get(f"{server.url}/health")
        assert refused.status_code == 503
        assert "too many connections" in refused.json()["error"]
        assert refused.headers["retry-after"] == "1"
        gate.set()
        assert [made.recv(12) for made in asked] == [b"HTTP/1.1 200"] * 20


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_http(server: Server, name: str) -> None:
    status, closed = send(server.port, REFUSED[name])
    assert closed
    assert status in ("400", "431", "501", "reset")


def test_answers_are_sent_at_once(server: Server, client: httpx.Client) -> None:
    """Without TCP_NODELAY an answer's body waits for the client's delayed acknowledgement of its head."""
    assert client.get("/info").status_code == 200
    for connection in server._http.server_state.connections:
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_bad_chunk_after_the_answer(server: Server) -> None:
    """A refusal is out before the body has come; what follows is no HTTP."""
    with socket.create_connection((server.host, server.port), timeout=10) as made:
        made.sendall(HEAD.replace(b"/embed", b"/nowhere") + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = made.recv(4096)
        while not answer.endswith(b"}"):  # head and body may come by themselves
            answer += made.recv(4096)
        assert answer.startswith(b"HTTP/1.1 404")
        made.sendall(b"zz\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert made.recv(4096) == b""


def test_a_client_that_only_listens_is_answered(server: Server) -> None:
    length = b'Content-Length: 15\r\n\r\n{"inputs": "a"}'
    assert send(server.port, HEAD + length, half_close=True) == ("100, 200", True)
    assert send(server.port, HEAD.replace(b"1.1", b"1.0") + length, half_close=True) == ("200", True)
    assert send(server.port, GET + b"\r\n", half_close=True)[0].endswith("200")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200), ("Application/JSON; charset=utf-8", 200), ("application/vnd.api+json", 200),
        ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=a", 415),
        ("text/plain; application/json", 415), (None, 415), ("application/jsonx", 415),
    ],
)  # fmt: skip
def test_only_json_is_read(client: httpx.Client, kind: str | None, status: int) -> None:
    for path, body in (("/embed", b'{"inputs": "a"}'), ("/v1/embeddings", b'{"input": "a", "model": "tuned"}')):
        answer = client.post(path, content=body, headers={} if kind is None else {"Content-Type": kind})
        assert answer.status_code == status
        if status == 415:
            assert "send JSON with the header Content-Type: application/json" in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("10.1.2.3:8000", 200),
        ("evil.example", 403), ("evil.example:8000", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("127.1", 403), ("[evil]", 403),
    ],
)  # fmt: skip
def test_the_host_is_one_of_the_server_s(client: httpx.Client, host: str, status: int) -> None:
    for path in ("/info", "/metrics", "/", "/web/page.js", "/v1/models"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == status
        assert status == 200 or "--allowed-host" in answer.text
    assert client.post("/embed", json={"inputs": "a"}, headers={"Host": host}).status_code == status
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_hosts_that_are_allowed(folders: Path) -> None:
    machine = socket.gethostname().lower()
    assert known_hosts("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert machine in known_hosts("0.0.0.0")
    for allowed, other in ((("Embed.Example.org",), 403), (("*",), 200)):
        with serving(folders / "tuned", options=Options(allowed_hosts=allowed)) as server:
            for host, status in (("embed.example.org", 200), ("other.example.org", other)):
                assert httpx.get(f"{server.url}/info", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("same", 200), (None, 200), ("null", 403), ("https://evil.example", 403), ("http://localhost:1", 403),
        ("http://localhost", 403),
    ],
)  # fmt: skip
def test_pages_of_other_origins_may_not_ask(server: Server, origin: str | None, status: int) -> None:
    asked = {} if origin is None else {"Origin": server.url if origin == "same" else origin}
    assert httpx.post(f"{server.url}/embed", json={"inputs": "a"}, headers=asked).status_code == status
    assert httpx.get(f"{server.url}/info", headers=asked).status_code == status


def test_pages_of_named_origins_may_ask(folders: Path) -> None:
    for cors, other in ((("https://A.example/",), 403), (("*",), 200)):
        with serving(folders / "tuned", options=Options(cors=cors)) as server:
            for origin, status in (("https://a.example", 200), ("https://b.example", other)):
                answer = httpx.post(f"{server.url}/embed", json={"inputs": "a"}, headers={"Origin": origin})
                assert answer.status_code == status
                assert ("access-control-allow-origin" in answer.headers) is (status == 200)


def test_nothing_redirects(client: httpx.Client) -> None:
    for path in ("/embed/", "/health/", "/web"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "location" not in answer.headers


@contextmanager
def command(folder: Path, stderr: Any, prefix: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``mmbert serve`` in a process of its own, when it is ready."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port = int(made.getsockname()[1])
    line = f'{prefix} exec "{sys.executable}" -m mmbert serve "{folder}" --port {port} --precision fp32'
    process = subprocess.Popen(["bash", "-c", line], stderr=stderr)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            assert time.monotonic() < end
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stderr", ["unread", "full", "gone"])
def test_a_log_that_nobody_reads_stops_nothing(folders: Path, stderr: str) -> None:
    read, write = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    with command(folders / "tuned", full if stderr == "full" else write) as (process, url):
        os.close(write)
        if stderr == "gone":
            os.close(read)
        with httpx.Client(base_url=url, timeout=5) as client:
            for _ in range(600):  # some 150 bytes each: more than a pipe holds
                assert client.get("/v1/models/none").status_code == 404
            assert client.post("/embed", json={"inputs": "a"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    os.close(full)
    if stderr != "gone":
        os.close(read)


def test_lines_that_are_dropped_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(most=3)
    for number in range(10):
        lines.put(f"line {number}")
    lines.start()
    lines.close()
    assert capfd.readouterr().err.splitlines() == ["line 0", "line 1", "line 2", '{"dropped_lines": 7}']


def test_more_connections_than_descriptors(folders: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as written, command(folders / "tuned", written, "ulimit -n 256;") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(20):
                assert httpx.get(f"{url}/health", timeout=5).status_code == 200
            for _ in range(50):
                send(int(port), b"nonsense\r\n\r\n")
            assert httpx.post(f"{url}/embed", json={"inputs": "a"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert text.count("connections, the limit") == 1
    assert text.count("Invalid HTTP request") == 1
