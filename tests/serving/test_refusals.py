"""Whatever comes over the socket, the answer is clear and the server lives on."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_models import serving

from mmbert.serving.abilities.embedding import Embedding
from mmbert.serving.server import Server
from mmbert.serving.service import Options


@pytest.fixture(autouse=True)
def alive(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.get("/health").status_code == 200
    assert len(client.post("/embed", json={"inputs": "still there"}).json()) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", b"{", 400, "Validation", "Invalid JSON"),
        ("/embed", b'{"inputs": "\xff\xfe"}', 400, "Validation", "Invalid JSON"),
        ("/embed", b'{"inputs": "\\ud800"}', 400, "Validation", "Invalid JSON"),
        ("/embed", b"[" * 100_000, 400, "Validation", "recursion limit"),
        ("/embed", b'{"inputs": ' + b"[" * 60 + b"]" * 60 + b"}", 422, "Validation", "inputs"),
        ("/embed", b"", 400, "Validation", "Invalid JSON"),
        ("/embed", b"null", 422, "Validation", "should be an object"),
        ("/embed", b"{}", 422, "Validation", "inputs: Field required"),
        ("/embed", b'{"inputs": 3}', 422, "Validation", "send strings"),
        ("/embed", b'{"inputs": []}', 400, "Empty", "no text"),
        ("/embed", b'{"inputs": "a", "dimensions": 99}', 422, "Validation", "vectors have 1 to 32"),
        ("/embed", b'{"inputs": "a", "prompt_name": "none"}', 422, "Validation", "document, query"),
        ("/embed", b'{"inputs": "a", "model": "none"}', 404, "NotFound", "no model 'none' is served here: tuned"),
        ("/embed", b'{"inputs": "a", "model": "tags"}', 424, "Backend", "tags: /token_classify"),
        ("/embed_sparse", b'{"inputs": "a"}', 424, "Backend", "no SPLADE head"),
        ("/rerank", b'{"query": " ", "texts": ["a"]}', 422, "Validation", "query is empty"),
        ("/rerank", b'{"query": "a", "texts": []}', 400, "Empty", "no text"),
        ("/rerank", b'{"query": "a", "texts": ["b"], "model": "classes"}', 424, "Backend", "/predict"),
        ("/predict", b'{"inputs": [["a", "b", "c"]]}', 422, "Validation", "at most 2"),
        ("/fill_mask", b'{"inputs": "no mask"}', 422, "Validation", "has no <mask>"),
        ("/fill_mask", b'{"inputs": "<mask>", "top_k": 101}', 422, "Validation", "less than or equal to 100"),
        ("/fill_mask", b'{"inputs": "<mask>", "topk": 1}', 422, "Validation", "topk"),
        ("/token_classify", b'{"inputs": "a", "strategy": "none"}', 422, "Validation", "'simple', 'first'"),
        ("/decode", b'{"ids": [2000000]}', 422, "Validation", "not in the vocabulary"),
        ("/answer", b'{"inputs": {"question": "", "context": "a"}}', 422, "Validation", "question 0 is empty"),
        ("/", b'{"inputs": {"a": 1}}', 422, "Validation", "inputs"),
        ("/nowhere", b"{}", 404, "NotFound", "/openapi.json"),
        ("/health", b"{}", 405, "Validation", "POST is not for /health"),
    ],
)
def test_what_does_not_fit(client: httpx.Client, path: str, body: bytes, status: int, kind: str, message: str) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found.keys() == {"error", "error_type"}
    assert found["error_type"] == kind
    assert message in found["error"]


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]], 7])
def test_token_ids_are_refused_with_the_cure(client: httpx.Client, ids: Any) -> None:
    answer = client.post("/v1/embeddings", json={"input": ids, "model": "tuned"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "check_embedding_ctx_length=False" in error["message"]


def test_errors_under_v1_are_openai_s(client: httpx.Client) -> None:
    error = client.post("/v1/embeddings", json={"input": "a", "model": "none"}).json()["error"]
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
    error = client.post("/v1/embeddings", json={"input": "free " * 600, "model": "tuned"}).json()["error"]
    assert error["code"] == "context_length_exceeded"


def test_too_long_says_the_limit(client: httpx.Client) -> None:
    for path, body in (
        ("/embed", {"inputs": ["a", "free " * 600]}),
        ("/rerank", {"query": "free " * 200, "texts": ["free " * 200]}),
        ("/predict", {"inputs": "free " * 600}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 413
        assert "the model reads" in answer.json()["error"]
        assert '"truncate": true' in answer.json()["error"]
        assert client.post(path, json={**body, "truncate": True}).status_code == 200
    assert "input 1" in client.post("/embed", json={"inputs": ["a", "free " * 600]}).json()["error"]


def test_nul_bytes_and_empty_texts_are_texts(client: httpx.Client) -> None:
    assert len(client.post("/embed", json={"inputs": ["a\0b", "\0", ""]}).json()) == 3


def test_a_hundred_thousand_empty_texts(client: httpx.Client) -> None:
    answer = client.post("/embed", json={"inputs": [""] * 100_000})
    assert answer.status_code == 413
    assert "100,000 inputs, at most 8,192" in answer.json()["error"]
    assert len(client.post("/embed", json={"inputs": [""] * 8192, "dimensions": 1}).json()) == 8192


def test_answers_too_large_are_refused(client: httpx.Client) -> None:
    answer = client.post("/embed_all", json={"inputs": ["free " * 400] * 700})
    assert answer.status_code == 413
    assert "tokens" in answer.json()["error"]


def test_a_body_that_is_too_large(client: httpx.Client) -> None:
    body = b'{"inputs": "' + b"a" * 50_000_000 + b'"}'
    for content in (body, iter([body[:25_000_000], body[25_000_000:]])):  # with its length, and in chunks
        answer = client.post("/embed", content=content)
        assert answer.status_code == 413
        assert "larger than 16,777,216 bytes" in answer.json()["error"]


def test_half_a_request_and_noise(server: Server) -> None:
    for noise in (
        b"\0\0\0\0\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{",
        b"GET / HTTP",
    ):
        with socket.create_connection((server.host, server.port), timeout=10) as made:
            made.sendall(noise)


def test_a_slow_sender_is_told(folders: Path) -> None:
    with serving(folders / "tuned", options=Options(body_seconds=0.3)) as server:  # noqa: SIM117
        with socket.create_connection((server.host, server.port), timeout=10) as made:
            made.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
            answer = made.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"not there after 0.3 seconds" in answer + made.recv(4096)


def test_the_key(folders: Path) -> None:
    options = Options(api_key="schlüssel")
    with serving(folders / "tuned", options=options) as server, httpx.Client(base_url=server.url) as client:
        body = {"input": "a"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "schlüssel".encode()}):
            refused = client.post("/v1/embeddings", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer schlüssel".encode()}
        assert client.post("/v1/embeddings", json=body, headers=right).status_code == 200
        assert client.get("/info").status_code == client.get("/v1/models").status_code == 401
        for path in ("/", "/health", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.post("/", json={"inputs": "a"}).status_code == 401


def test_cors_is_off_and_can_be_on(client: httpx.Client, folders: Path) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/embed", headers=asked).headers
    with serving(folders / "tuned", options=Options(cors=("https://a.example",), api_key="k")) as server:
        answer = httpx.options(f"{server.url}/embed", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = httpx.options(f"{server.url}/embed", headers={**asked, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


class Gate:
    """Holds the thread that computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.busy, self.rows = threading.Event(), threading.Event(), 0
        compute = Embedding.compute

        def gated(embedding: Embedding, packed: Any, places: Any) -> Any:
            self.busy.set()
            assert self.open.wait(20)
            self.rows += len(places)
            return compute(embedding, packed, places)

        monkeypatch.setattr(Embedding, "compute", gated)


@pytest.fixture
def gated(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Gate]]:
    with serving(folders / "tuned", batch_tokens=16, queue_tokens=64) as server:
        gate = Gate(monkeypatch)
        yield server, gate
        gate.open.set()


def test_overload(gated: tuple[Server, Gate]) -> None:
    server, gate = gated
    with httpx.Client(base_url=server.url, timeout=20) as client, ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(client.post, "/embed", json={"inputs": "free men"}) for _ in range(40)]
        deadline = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [answer.result() for answer in answers if answer.done()]
        assert len(refused) >= 20
        assert {answer.status_code for answer in refused} == {429}
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].json()["error_type"] == "Overloaded"
        assert "of at most 64" in refused[0].json()["error"]
        gate.open.set()
        accepted = [answer.result() for answer in answers if answer.result().status_code == 200]
        assert accepted
        assert {answer.result().status_code for answer in answers} == {200, 429}


def test_a_client_that_leaves_is_skipped(gated: tuple[Server, Gate]) -> None:
    server, gate = gated

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=server.url) as client:
            first = asyncio.create_task(client.post("/embed", json={"inputs": "first"}))
            while not gate.busy.is_set():
                await asyncio.sleep(0.01)
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/embed", json={"inputs": ["gone"] * 4}, timeout=0.2)
            deadline = time.monotonic() + 10
            while server.service.outstanding > 1 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert server.service.outstanding == 1
            gate.open.set()
            assert (await first).status_code == 200

    asyncio.run(leave())
    assert gate.rows <= 2  # the first, and at most a batch that was prepared


def test_a_failing_batch(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Embedding.compute

    def poisoned(embedding: Embedding, packed: Any, places: Any) -> Any:
        if packed.longest > 100:
            raise RuntimeError("out of memory")
        return compute(embedding, packed, places)

    monkeypatch.setattr(Embedding, "compute", poisoned)
    answer = client.post("/embed", json={"inputs": "free " * 200})
    assert answer.status_code == 424
    assert answer.json() == {"error": "the model failed: RuntimeError: out of memory", "error_type": "Backend"}
    assert client.post("/embed", json={"inputs": "free"}).status_code == 200


def test_json_is_written_from_memory(client: httpx.Client) -> None:
    found = json.loads(client.post("/embed", json={"inputs": "a"}).content)
    assert all(isinstance(value, float) for value in found[0])
