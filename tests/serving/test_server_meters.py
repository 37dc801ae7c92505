"""What a server counts, logs and traces."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_models import serving

NAMES = [
    "te_request_count",
    "te_request_success",
    "te_request_failure",
    "te_request_duration",
    "te_request_tokenization_duration",
    "te_request_queue_duration",
    "te_request_inference_duration",
    "te_request_input_length",
    "te_embed_count",
    "te_embed_success",
    "te_embed_duration",
    "te_embed_tokenization_duration",
    "te_embed_queue_duration",
    "te_embed_inference_duration",
    "te_predict_count",
    "te_predict_success",
    "te_predict_duration",
    "te_rerank_count",
    "te_tokenize_count",
    "te_queue_size",
    "te_batch_next_size",
    "te_batch_next_tokens",
]
"""Of text-embeddings-inference."""


def test_metrics_by_text_embeddings_inference_s_names(folders: Path) -> None:
    with serving(folders / "tuned") as server, httpx.Client(base_url=server.url) as client:
        client.post("/embed", json={"inputs": ["free", "equal"]})
        client.post("/v1/embeddings", json={"input": "free"})
        client.post("/embed", json={"inputs": []})
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")} >= set(NAMES)
    assert "_total" not in answer.text
    assert "_created" not in answer.text
    values: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            values[sample.name.removesuffix("_total"), ",".join(sample.labels.values())] = sample.value
    assert values["te_request_count", "batch"] == 1
    assert values["te_request_count", "single"] == 2
    assert values["te_request_success", "single"] == 1
    assert values["te_request_failure", "empty"] == 1
    assert values["te_embed_success", ""] == values["te_embed_duration_count", ""] == 2
    assert values["te_queue_size", "tuned"] == values["te_queue_tokens", "tuned"] == 0
    assert values["te_batch_next_size_count", "tuned"] >= 3  # the first of them warmed the model up
    assert values["te_request_input_length_count", ""] == 2


def test_the_log_has_no_texts(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(folders / "tuned", quiet=False) as server, httpx.Client(base_url=server.url) as client:
        client.post("/embed", json={"inputs": ["a secret", "b"], "prompt_name": "query"})
        client.post("/embed", json={"inputs": "a secret", "prompt_name": "a secret"})
        client.post("/embed?text=secret", json={"inputs": "a", "model": "a secret"})
    err = capsys.readouterr().err
    lines = [orjson.loads(line) for line in err.splitlines()]
    assert [line["status"] for line in lines] == [200, 422, 404]
    first = lines[0]
    assert (first["method"], first["path"], first["model"], first["texts"]) == ("POST", "/embed", "tuned", 2)
    assert first["tokens"] > 0
    assert first["client"] == "127.0.0.1"
    assert {"time", "ms", "bytes", "queue_ms", "inference_ms"} <= first.keys()
    assert "secret" not in err


class Collector(BaseHTTPRequestHandler):
    """Takes traces."""

    bodies: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        Collector.bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_traces_go_on_the_client_s(folders: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        with serving(folders / "tuned", otlp_endpoint=endpoint) as server:
            headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            httpx.post(f"{server.url}/embed", json={"inputs": "a secret"}, headers=headers)
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
    ((path, body),) = Collector.bodies
    assert path == "/v1/traces"
    assert b"secret" not in body
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert spans.keys() == {"POST /embed", "tokenization", "queue", "inference"}
    request = spans["POST /embed"]
    assert request.trace_id.hex() == trace
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {span.parent_span_id for name, span in spans.items() if name != "POST /embed"} == {request.span_id}
    attributes = {item.key: item.value for item in request.attributes}
    assert attributes["mmbert.model"].string_value == "tuned"
    assert attributes["http.response.status_code"].int_value == 200
    assert request.start_time_unix_nano <= spans["tokenization"].start_time_unix_nano
