"""Metrics for Prometheus, under the names of text-embeddings-inference.

Its counters have no suffix (``te_request_count``), where the Prometheus library adds ``_total``:
:meth:`ServerMetrics.page` removes it, so that existing dashboards work.
"""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mmbert.serving.task import Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_POWERS = tuple(2**power for power in range(21))

_CREATED = re.compile(rb"^(?:# (?:HELP|TYPE) )?te_\w+_created[ {].*\n", re.MULTILINE)
"""Creation times of series, which are left out."""

_TOTAL = re.compile(rb"^((?:# (?:HELP|TYPE) )?te_\w+?)_total(?=[ {])", re.MULTILINE)

KINDS = ("embed", "predict", "rerank", "tokenize", "token_classify", "fill_mask", "answer")
"""Kinds of requests, counted as ``te_<kind>_count`` and so on."""


class EngineMetrics:
    """Metrics of the engine of one model."""

    def __init__(self, metrics: ServerMetrics, model: str) -> None:
        self._size = metrics.queue_size.labels(model)
        self._waiting = metrics.queue_tokens.labels(model)
        self._rows = metrics.batch_size.labels(model)
        self._tokens = metrics.batch_tokens.labels(model)

    def batch(self, rows: int, tokens: int) -> None:
        """A batch is about to run."""
        self._rows.observe(rows)
        self._tokens.observe(tokens)

    def queue(self, requests: int, tokens: int) -> None:
        """So many requests are unanswered, with so many tokens to compute."""
        self._size.set(requests)
        self._waiting.set(tokens)


class ServerMetrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_size = self._gauge("te_queue_size", "Requests that are not answered yet")
        self.queue_tokens = self._gauge("te_queue_tokens", "Tokens of them that are not computed yet")
        self.batch_size = Histogram(
            "te_batch_next_size", "Rows of a batch", ["model"], buckets=_POWERS, registry=self.registry
        )
        self.batch_tokens = Histogram(
            "te_batch_next_tokens", "Tokens of a batch", ["model"], buckets=_POWERS, registry=self.registry
        )
        self.length = Histogram(
            "te_request_input_length", "Tokens of a request", buckets=_POWERS, registry=self.registry
        )
        self._failures = Counter("te_request_failure", "Requests that failed", ["err"], registry=self.registry)
        self._count = {"request": self._counter("request", "count", ["method"])}
        self._success = {"request": self._counter("request", "success", ["method"])}
        self._times: dict[str, dict[str, Histogram]] = {"request": self._histograms("request")}
        for kind in KINDS:
            self._count[kind] = self._counter(kind, "count", [])
            self._success[kind] = self._counter(kind, "success", [])
            self._times[kind] = self._histograms(kind)

    def engine(self, model: str) -> EngineMetrics:
        return EngineMetrics(self, model)

    def request(self, kind: str | None, texts: int, seconds: float, timing: Timing, failed: str | None) -> None:
        """Count an answered request. ``failed``: the kind of its error."""
        method = "batch" if texts > 1 else "single"
        self._count["request"].labels(method).inc()
        if kind is not None:
            self._count[kind].inc()
        if failed is not None:
            self._failures.labels(failed.lower()).inc()
            return
        self._success["request"].labels(method).inc()
        if kind is not None:
            self._success[kind].inc()
        if timing.tokens:
            self.length.observe(timing.tokens)
        for name in ("request", kind):
            if name is not None:
                times = self._times[name]
                times["duration"].observe(seconds)
                times["tokenization_duration"].observe(timing.tokenization)
                times["queue_duration"].observe(timing.queue)
                times["inference_duration"].observe(timing.inference)

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return _TOTAL.sub(rb"\1", _CREATED.sub(b"", generate_latest(self.registry)))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model"], registry=self.registry)

    def _counter(self, kind: str, what: str, labels: list[str]) -> Counter:
        text = f"Requests ({kind}) that came" if what == "count" else f"Requests ({kind}) that were answered"
        return Counter(f"te_{kind}_{what}", text, labels, registry=self.registry)

    def _histograms(self, kind: str) -> dict[str, Histogram]:
        return {
            what: Histogram(f"te_{kind}_{what}", f"Seconds ({kind}): {what}", buckets=_SECONDS, registry=self.registry)
            for what in ("duration", "tokenization_duration", "queue_duration", "inference_duration")
        }
