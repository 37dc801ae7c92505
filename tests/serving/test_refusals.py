"""Whatever comes over the socket, the answer is clear and the server lives on."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from serving_models import serving

from mmbert.inference.fill_mask import FillMask
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.server import Server
from mmbert.serving.service import Options
from mmbert.tokenizer.tokenizer import Tokenizer

JSON = {"Content-Type": "application/json"}
TYPE = b"Content-Type: application/json\r\n"


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
        ("/embed", b'{"inputs": "a", "dimensions": 99}', 422, "Validation", "must be a whole number from 1 to 32"),
        ("/embed", b'{"inputs": "a", "prompt_name": "none"}', 422, "Validation", "document, query"),
        ("/embed", b'{"inputs": "a", "model": "none"}', 404, "NotFound", "no model 'none' is served here: tuned"),
        ("/embed", b'{"inputs": "a", "model": "tags"}', 424, "Backend", "tags: /token_classify"),
        ("/rerank", b'{"query": " ", "texts": ["a"]}', 422, "Validation", "query is empty"),
        ("/rerank", b'{"query": "a", "texts": []}', 400, "Empty", "no text"),
        ("/rerank", b'{"query": "a", "texts": ["b"], "model": "classes"}', 424, "Backend", "/predict"),
        ("/predict", b'{"inputs": [["a", "b", "c"]]}', 422, "Validation", "inputs.0: List should have at most 2"),
        ("/predict", b'{"inputs": ["a", "b", "c"]}', 422, "Validation", "inputs: 3 strings: expected a text, a pair"),
        ("/predict", b'{"inputs": ["a", ["b"]]}', 422, "Validation", "inputs."),
        ("/predict", b'{"inputs": [["a"], "b"]}', 422, "Validation", "inputs."),
        ("/predict", b'{"inputs": [["a"], [2]]}', 422, "Validation", "inputs.1.0: Input should be a valid string"),
        ("/predict", b'{"inputs": [[]]}', 422, "Validation", "inputs.0: List should have at least 1"),
        ("/predict", b'{"inputs": []}', 400, "Empty", "no text"),
        ("/embed", b'{"inputs": "a", "dimensions": true}', 422, "Validation", "dimensions: Input should be a valid in"),
        ("/embed", b'{"inputs": "a", "dimensions": 2.0}', 422, "Validation", "dimensions: Input should be a valid in"),
        ("/embed", b'{"inputs": "a", "dimensions": "2"}', 422, "Validation", "dimensions: Input should be a valid in"),
        ("/embed", b'{"inputs": "a", "normalize": "no"}', 422, "Validation", "normalize: Input should be a valid bool"),
        ("/embed", b'{"inputs": "a", "truncate": 1}', 422, "Validation", "truncate: Input should be a valid boolean"),
        ("/embed", b'{"inputs": "a", "model": 1}', 422, "Validation", "model: Input should be a valid string"),
        ("/embed", b'{"inputs": ["a", ["b"]]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/embed", b'{"inputs": [["a"]]}', 422, "Validation", "inputs.0: Input should be a valid string"),
        ("/embed", b'{"inputs": ["a", null]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/embed", b'{"inputs": null}', 422, "Validation", "inputs: Input should be a valid string or a valid arr"),
        ("/embed", b'{"inputs": {"a": 1}}', 422, "Validation", "inputs: Input should be a valid string or a valid arr"),
        ("/embed_all", b'{"inputs": ["a", 2.5]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/rerank", b'{"query": 1, "texts": ["a"]}', 422, "Validation", "query: Input should be a valid string"),
        ("/rerank", b'{"query": "a", "texts": "b"}', 422, "Validation", "texts: Input should be a valid array"),
        ("/rerank", b'{"query": "a", "texts": [["b"]]}', 422, "Validation", "texts.0: Input should be a valid string"),
        ("/rerank", b'{"query": "a", "texts": ["b"], "raw_scores": 0}', 422, "Validation", "raw_scores: Input should"),
        ("/similarity", b'{"inputs": {"source_sentence": "a", "sentences": ["b", 1]}}', 422, "Validation",
         "inputs.sentences.1: Input should be a valid string"),
        ("/similarity", b'{"inputs": {"source_sentence": "a", "sentences": "b"}}', 422, "Validation",
         "inputs.sentences: Input should be a valid array"),
        ("/tokenize", b'{"inputs": ["a", ["b"]]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/tokenize", b'{"inputs": "a", "add_special_tokens": "yes"}', 422, "Validation", "add_special_tokens: Input"),
        ("/decode", b'{"ids": [true]}', 422, "Validation", "ids.0: Input should be a valid integer"),
        ("/decode", b'{"ids": ["3"]}', 422, "Validation", "ids.0: Input should be a valid integer"),
        ("/decode", b'{"ids": [[3], 4]}', 422, "Validation", "ids."),
        ("/token_classify", b'{"inputs": ["a", 1]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/fill_mask", b'{"inputs": "<mask>", "top_k": true}', 422, "Validation", "top_k: Input should be a valid int"),
        ("/fill_mask", b'{"inputs": [["<mask>"]]}', 422, "Validation", "inputs.0: Input should be a valid string"),
        ("/answer", b'{"inputs": {"question": 1, "context": "a"}}', 422, "Validation", "inputs.question: Input should"),
        ("/answer", b'{"inputs": [{"question": "a", "context": ["b"]}]}', 422, "Validation", "inputs.0.context: Input"),
        ("/passages", b'{"inputs": "a", "size": true}', 422, "Validation", "size: Input should be a valid integer"),
        ("/passages", b'{"inputs": "a", "normalize": 1}', 422, "Validation", "normalize: Input should be a valid bool"),
        ("/classify", b'{"input": [["a"]]}', 422, "Validation", "input.0: Input should be a valid string"),
        ("/", b'{"inputs": ["a", ["b"]]}', 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/", b'{"inputs": "a", "dimensions": true}', 422, "Validation", "dimensions: Input should be a valid in"),
        ("/", b'{"inputs": "a", "parameters": {"truncate": 1}}', 422, "Validation", "parameters.truncate: Input"),
        ("/", b'{"inputs": "a", "parameters": {"top_k": true}, "model": "classes"}', 422, "Validation",
         "parameters.top_k: Input should be a valid integer"),
        ("/", b'{"inputs": {"text": 1}, "model": "classes"}', 422, "Validation", "inputs.0.0: Input should be a valid"),
        ("/", b'{"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}, "model": "classes"}', 422, "Validation",
         "the model applies softmax"),
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
)  # fmt: skip
def test_what_does_not_fit(client: httpx.Client, path: str, body: bytes, status: int, kind: str, message: str) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found.keys() == {"error", "error_type"}
    assert found["error_type"] == kind
    assert message in found["error"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": ["a", ["b"]]}, "input.1"),
        ({"input": "a", "late_chunking": 1}, "late_chunking"),
    ],
)
def test_types_are_checked_under_v1(client: httpx.Client, body: Any, place: str) -> None:
    answer = client.post("/v1/embeddings", json={**body, "model": "tuned"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(f"{place}: Input should be a valid ")
    answer = client.post("/v1/rerank", json={"query": "a", "documents": ["b", {"text": 1}], "top_n": 1})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("documents.1")


@pytest.fixture(scope="module")
def overflowing(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The models with weights that overflow on one word of a text, and are right for all else."""
    made = []
    for name in ("tuned", "classes", "ranks", "tags", "masks", "spans"):
        folder = tmp_path_factory.mktemp("nan") / name
        shutil.copytree(folders / name, folder)
        (path,) = folder.rglob("model.safetensors")
        state = load_file(path)
        (table,) = (key for key in state if key.endswith("tok_embeddings.weight"))
        words = Tokenizer.load(folder)
        for token in {*words.encode("zebra"), *words.encode("good zebra")} - {*words.encode("good")}:
            state[table][token] = torch.tensor([3e38, -3e38] * (state[table].shape[1] // 2))
        save_file(state, path, metadata={"format": "pt"})
        made.append(folder)
    with serving(*made) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/embed", {"inputs": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/embed_all", {"inputs": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/passages", {"inputs": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/similarity", {"inputs": {"source_sentence": "good", "sentences": ["zebra"]}}, "input 1 ('zebra')"),
        ("/v1/embeddings", {"input": ["good", "zebra"], "encoding_format": "base64"}, "input 1 ('zebra')"),
        ("/v1/embeddings", {"input": ["good", "zebra"], "late_chunking": True}, "the document"),
        ("/predict", {"inputs": [["good"], ["good", "zebra"]], "model": "classes"}, "input 1 ('good / zebra')"),
        ("/classify", {"input": ["good", "zebra"], "model": "classes"}, "input 1 ('zebra')"),
        ("/rerank", {"query": "good", "texts": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/v1/rerank", {"query": "good", "documents": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/token_classify", {"inputs": ["good", "zebra"]}, "input 1 ('zebra')"),
        ("/fill_mask", {"inputs": ["zebra <mask>"]}, "input 0 ('zebra <mask>')"),
        ("/answer", {"inputs": {"question": "Who?", "context": "zebra"}}, "input 0 ('Who? / zebra')"),
        ("/", {"inputs": "zebra"}, "input 0 ('zebra')"),
        ("/", {"inputs": "zebra <mask>", "model": "masks"}, "input 0 ('zebra <mask>')"),
    ],
)
def test_nan_is_told_and_never_null(overflowing: httpx.Client, path: str, body: dict[str, Any], named: str) -> None:
    answer = overflowing.post(path, json=body)
    assert answer.status_code == 424, answer.text
    error = answer.json()["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert message.startswith(f"{named}: the model computed NaN or infinite numbers")
    assert overflowing.post("/embed", json={"inputs": "good"}).status_code == 200


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
        answer = client.post("/embed", content=content, headers=JSON)
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
            made.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\n" + TYPE + b"Content-Length: 50\r\n\r\n{")
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
        compute = EmbeddingHandler.compute

        def gated(embedding: EmbeddingHandler, packed: Any, places: Any) -> Any:
            self.busy.set()
            assert self.open.wait(20)
            self.rows += len(places)
            return compute(embedding, packed, places)

        monkeypatch.setattr(EmbeddingHandler, "compute", gated)


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
    compute = EmbeddingHandler.compute

    def poisoned(embedding: EmbeddingHandler, packed: Any, places: Any) -> Any:
        if packed.longest > 100:
            raise RuntimeError("out of memory")
        return compute(embedding, packed, places)

    monkeypatch.setattr(EmbeddingHandler, "compute", poisoned)
    answer = client.post("/embed", json={"inputs": "free " * 200})
    assert answer.status_code == 424
    assert answer.json() == {"error": "the model failed: RuntimeError: out of memory", "error_type": "Backend"}
    assert client.post("/embed", json={"inputs": "free"}).status_code == 200


def test_json_is_written_from_memory(client: httpx.Client) -> None:
    found = json.loads(client.post("/embed", json={"inputs": "a"}).content)
    assert all(isinstance(value, float) for value in found[0])


def test_no_answer_is_made_that_is_larger_than_the_limit(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, and the characters that an answer repeats, are counted before it is made."""
    names = ("tuned", "classes", "ranks", "masks", "spans", "tags")
    text = "free and equal " * 20
    too_large: list[tuple[str, dict[str, Any]]] = [
        ("/fill_mask", {"inputs": text + "<mask> <mask>", "top_k": 20}),
        ("/", {"inputs": text + "<mask> <mask>", "parameters": {"top_k": 20}, "model": "masks"}),
        ("/embed", {"inputs": ["a"] * 40}),
        ("/embed_all", {"inputs": text}),
        ("/tokenize", {"inputs": text}),
        ("/decode", {"ids": [300] * 2000}),
        ("/passages", {"inputs": "Free. " * 40}),
        ("/passages", {"inputs": text, "by": "size", "size": 1}),
        ("/rerank", {"query": "a", "texts": [text] * 16, "return_text": True}),
        ("/v1/rerank", {"query": "a", "documents": [text] * 16, "return_documents": True}),
        ("/predict", {"inputs": [["a"]] * 150, "model": "classes"}),
        ("/classify", {"input": ["a"] * 150, "model": "classes"}),
    ]
    with (
        serving(*(folders / name for name in names), options=Options(max_numbers=1000)) as small,
        httpx.Client(base_url=small.url, timeout=60) as client,
    ):
        monkeypatch.setattr(FillMask, "fills", lambda *_: pytest.fail("made"))
        for path, body in too_large:
            answer = client.post(path, json=body)
            assert answer.status_code == 413, (path, answer.text[:200])
            assert "1,000" in answer.text or "1000" in answer.text or "31" in answer.text, (path, answer.text)
        monkeypatch.undo()
        assert client.post("/fill_mask", json={"inputs": "a <mask>", "top_k": 20}).status_code == 200
        assert client.post("/rerank", json={"query": "a", "texts": [text] * 16}).status_code == 200


def test_requests_that_were_left_hold_no_thread(folders: Path) -> None:
    """Large texts of clients that have gone stop being tokenised; small requests have a thread meanwhile."""
    with serving(folders / "tuned", queue_tokens=8_000_000) as own:
        body = json.dumps({"inputs": ["free and equal " * 60_000] * 3, "by": "paragraph"}).encode()

        def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{own.url}/passages", content=body, headers={"content-type": "application/json"}, timeout=0.5
                )

        with ThreadPoolExecutor(4) as pool:
            gone = [pool.submit(leave) for _ in range(4)]
            time.sleep(0.2)
            begun = time.monotonic()
            assert httpx.post(f"{own.url}/embed", json={"inputs": "a"}, timeout=20).status_code == 200
            assert time.monotonic() - begun < 5
            for one in gone:
                one.result()
        end = time.monotonic() + 5
        while own.service.outstanding:
            assert time.monotonic() < end
            time.sleep(0.02)
