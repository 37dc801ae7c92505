"""Servers that cannot be had as a package: the requests, as their public documentation has them.

Those of Elasticsearch and OpenSearch are compared byte for byte. A recorder on loopback answers as the documentation
says that they do. Of Qdrant this is the way to a server alone: what it stores is tried in the client's local mode.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_vectors import unit_rows, write_run

from loopback import address, listen
from mmbert.errors import ConfigError, MMBertError
from mmbert.stores import store as stores
from mmbert.stores.push import Stored, store_vectors


class Recorder:
    """Keeps the documents of indices as a server would, and every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.mappings: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.busy = 0
        """Bulk requests that are refused with 503 first."""
        self.refused: set[str] = set()
        self.overloaded: set[str] = set()
        """Ids that are refused; with 429 the first time."""
        self.server = listen(self._answer)
        self.address = address(self.server)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.partition("?")[0]
        self.requests.append((request.command, request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        status, answer = self._reply(request.command, path, body)
        content = b"" if request.command == "HEAD" else json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("X-Elastic-Product", "Elasticsearch")
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _reply(self, command: str, path: str, body: bytes) -> tuple[int, Any]:
        name = path.strip("/").split("/")[0]
        if path.endswith("/_bulk"):
            return self._bulk(body)
        if command == "HEAD":
            return (200 if name in self.mappings else 404), None
        if command == "PUT":
            self.mappings[name] = json.loads(body)["mappings"]
            self.rows[name] = {}
            return 200, {"acknowledged": True, "shards_acknowledged": True, "index": name}
        if path.endswith("/_mapping"):
            return 200, {name: {"mappings": self.mappings[name]}}
        if path.endswith("/_count"):
            return 200, {"count": len(self.rows[name])}
        return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}

    def _bulk(self, body: bytes) -> tuple[int, Any]:
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"type": "unavailable", "reason": "try again"}, "status": 503}
        assert body.endswith(b"\n")
        lines = [json.loads(line) for line in body.splitlines()]
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            place = action["index"]
            item = {"_index": place["_index"], "_id": place["_id"], "status": 201}
            if place["_id"] in self.overloaded:
                self.overloaded.remove(place["_id"])
                item |= {"status": 429, "error": {"type": "rejected_execution_exception", "reason": "queue is full"}}
            elif place["_id"] in self.refused:
                item |= {"status": 400, "error": {"type": "document_parsing_exception", "reason": "no such field"}}
            else:
                self.rows[place["_index"]][place["_id"]] = source
            items.append({"index": item})
        return 200, {"took": 1, "errors": any("error" in item["index"] for item in items), "items": items}

    def bulks(self) -> list[bytes]:
        return [body for _, path, _, body in self.requests if path.partition("?")[0].endswith("/_bulk")]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(params=["elasticsearch", "opensearch"])
def to(request: pytest.FixtureRequest, recorder: Recorder) -> str:
    pytest.importorskip({"opensearch": "opensearchpy"}.get(request.param, request.param))
    return f"{request.param}+{recorder.address}/passages"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", np.array([[0.5, -0.25], [1.0, 0.0], [0.0, 2.0]], np.float32), dimensions=2)


def test_bytes(run: Path, to: str, recorder: Recorder) -> None:
    done = store_vectors(run, to, columns=["lang", "year"], batch_size=2)
    assert done == Stored(3, 3, f"passages in {recorder.address}")
    opensearch = to.startswith("opensearch")
    # Both clients write JSON without spaces; the second file of the run is a batch of its own.
    assert recorder.bulks() == [
        b'{"index":{"_id":"a0","_index":"passages"}}\n'
        b'{"id":"a0","vector":[0.5,-0.25],"lang":null,"year":2000}\n'
        b'{"index":{"_id":"a1","_index":"passages"}}\n'
        b'{"id":"a1","vector":[1.0,0.0],"lang":"eng","year":2001}\n',
        b'{"index":{"_id":"a2","_index":"passages"}}\n{"id":"a2","vector":[0.0,2.0],"lang":null,"year":2002}\n',
    ]
    headers = next(headers for _, path, headers, _ in recorder.requests if "_bulk" in path)
    kind = "application/json"
    if not opensearch:
        major = version("elasticsearch").partition(".")[0]
        kind = f"application/vnd.elasticsearch+x-ndjson; compatible-with={major}"
    assert headers["content-type"] == kind
    properties = {"id": {"type": "keyword"}, "lang": {"type": "text"}, "year": {"type": "long"}}
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    vector = {"type": "dense_vector", "dims": 2, "index": True, "similarity": "cosine"}
    if opensearch:
        vector = {"type": "knn_vector", "dimension": 2, "method": method}
    created = next(json.loads(body) for command, _, _, body in recorder.requests if command == "PUT")
    assert created["mappings"]["properties"] == {"vector": vector, **properties}
    assert created.get("settings") == ({"index": {"knn": True}} if opensearch else None)


def test_the_same_again_and_another_layout(run: Path, to: str, recorder: Recorder) -> None:
    store_vectors(run, to)
    assert store_vectors(run, to).rows == 3
    with pytest.raises(ConfigError, match=r"passages in .* has metric cosine, these vectors dot"):
        store_vectors(run, to, metric="dot")
    recorder.mappings["mine"] = {"properties": {"vector": {"type": "dense_vector", "dims": 2}}}
    with pytest.raises(ConfigError, match=r"mine in .* is there and was not made by mmbert store"):
        store_vectors(run, to.replace("passages", "mine"))


def test_what_passes_is_sent_again(run: Path, to: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    recorder.busy = 2
    recorder.overloaded = {"a1"}
    assert store_vectors(run, to).rows == 3
    assert len(recorder.bulks()) == 5  # two files, two refusals of a whole request, and one row again
    assert len(waits) == 3  # twice ours, each longer, and once the client's, for the row
    assert waits[0] < waits[1]
    recorder.refused = {"a2"}
    with pytest.raises(MMBertError, match=r"passages in .* refused the row 'a2': no such field"):
        store_vectors(run, to)


def test_bits(tmp_path: Path, to: str, recorder: Recorder) -> None:
    bits = np.packbits(unit_rows(4) > 0, axis=1)
    store_vectors(write_run(tmp_path / "bits", bits, files=1, output="ubinary"), to, columns=[])
    vector = recorder.mappings["passages"]["properties"]["vector"]
    if to.startswith("opensearch"):
        assert (vector["dimension"], vector["data_type"], vector["method"]["space_type"]) == (16, "binary", "hamming")
    else:
        assert (vector["dims"], vector["element_type"]) == (16, "bit")
    stored = recorder.rows["passages"]["a3"]["vector"]
    assert np.array_equal(np.array(stored, np.int8).view(np.uint8), bits[3])


def test_keys_are_sent_and_never_shown(
    run: Path, to: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sent() -> str:
        return recorder.requests[-1][2]["authorization"]

    basic = "Basic " + base64.b64encode(b"ann:sesame/1").decode()
    store_vectors(run, to.replace("://", "://ann:sesame%2F1@"))
    assert sent() == basic
    named = to.partition("+")[0].upper()
    monkeypatch.setenv(f"{named}_PASSWORD", "sesame/1")
    store_vectors(run, to.replace("://", "://ann@"))
    assert sent() == basic
    if named == "ELASTICSEARCH":
        monkeypatch.delenv("ELASTICSEARCH_PASSWORD")
        monkeypatch.setenv("ELASTICSEARCH_API_KEY", "c2VzYW1l")
        store_vectors(run, to)
        assert sent() == "ApiKey c2VzYW1l"
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    monkeypatch.setattr(stores.time, "sleep", lambda seconds: None)
    recorder.busy = 99
    with pytest.raises(MMBertError, match=r"cannot write to passages in http") as caught:
        store_vectors(run, to.replace("://", "://ann:sesame%2F1@"))
    assert "sesame" not in str(caught.value) + caplog.text
    assert "\n" not in str(caught.value)


def test_qdrant_server(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client")
    requests: list[tuple[str, str, str | None, Any]] = []
    statuses = {"/collections/passages/points": [503, 429, 200]}

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.partition("?")[0]
        requests.append((request.command, path, request.headers.get("api-key"), json.loads(body or b"null")))
        status = statuses.get(path, [200]).pop(0)
        result: Any = {"/exists": {"exists": False}, "/points/count": {"count": 3}}.get(
            path.removeprefix(PASSAGES), True
        )
        if path.endswith("/points"):
            result = {"operation_id": 1, "status": "completed"}
        content = json.dumps({"result": result, "status": "ok", "time": 0.1}).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    server = listen(answer)
    waits: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    monkeypatch.setenv("QDRANT_API_KEY", "sesame")
    statuses["/collections/passages/points"].append(200)
    try:
        to = f"qdrant+{address(server)}/passages"
        assert store_vectors(run, to, columns=["year"]) == Stored(3, 3, f"passages in {address(server)}")
        assert len(waits) == 2
        assert {key for _, _, key, _ in requests} == {"sesame"}
        created = next(body for command, path, _, body in requests if (command, path) == ("PUT", PASSAGES))
        assert created["vectors"] == {"size": 2, "distance": "Cosine", "datatype": "float32"}
        assert created["metadata"]["mmbert"]["made"]["model_hash"] == "0123456789abcdef"
        sent = [body["batch"] for _, path, _, body in requests if path.endswith("/points")]
        assert sent[0] == sent[1] == sent[2]
        assert sent[0]["payloads"] == [{"id": "a0", "year": 2000}, {"id": "a1", "year": 2001}]
        statuses[f"{PASSAGES}/exists"] = [401]
        with pytest.raises(MMBertError, match=r"cannot write to passages in http.*: HTTP 401") as caught:
            store_vectors(run, to)
        assert "sesame" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


PASSAGES = "/collections/passages"
