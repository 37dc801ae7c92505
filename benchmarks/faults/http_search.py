"""What one client may ask of a search index that is served."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from http_bodies import LONG, MEGABYTE
from served import Answer, Json, Served, as_json, connect, request

GROUP = "search"
TEXTS = 5000


def _deep(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = {"not": value}
    return value


BODIES: dict[str, Callable[[], Json | bytes]] = {
    "a million numbers where queries belong": lambda: {"inputs": [1] * MEGABYTE},
    "8,000 queries, 100 hits of each": lambda: {"inputs": ["a b"] * 8000, "top_k": 100},
    "1,000 queries, 100 hits of each": lambda: {"inputs": ["a b"] * 1000, "top_k": 100},
    "one query, 10^18 hits": lambda: {"inputs": "a", "top_k": 10**18},
    "hits below zero": lambda: {"inputs": "a", "top_k": -1},
    "a query of 15 MB": lambda: {"inputs": "a" * LONG},
    "an index's name of 1 MB": lambda: {"inputs": "a", "index": "i" * MEGABYTE},
    "a filter of 100,000 fields": lambda: {"inputs": "a", "where": {f"f{number}": 0 for number in range(100_000)}},
    "a filter of 500,000 values": lambda: {"inputs": "a", "where": {"year": list(range(500_000))}},
    "a filter of 200,000 values": lambda: {"inputs": "a", "where": {"year": list(range(200_000))}},
    "ten filters of 20,000 values": lambda: {
        "inputs": ["a"] * 10,
        "where": {"year": {"in": list(range(20_000))}, "not": {"year": list(range(20_000))}},
    },
    "a filter 900 levels deep": lambda: {"inputs": "a", "where": {"year": _deep(900)}},
    "a filter with NaN": lambda: b'{"inputs": "a", "where": {"year": {">": NaN}}}',
    "a filter with quotes": lambda: {"inputs": "a", "where": {"year' OR '1'='1": "x' OR '1'='1"}},
    "a filter of a path": lambda: {"inputs": "a", "where": {"../../id": 1}, "index": "../../etc"},
}
"""Name -> body; an answer is as good as a refusal, if it comes in time."""


def build(model: Path, home: Path) -> Path:
    """Return a new index of some thousand texts with metadata."""
    from mmbert.inference.embedder import Embedder
    from mmbert.search.index import SearchIndex

    rows: list[dict[str, Any]] = [
        {"id": n, "text": f"text number {n}, {n % 97} of some", "metadata": {"year": 1900 + n % 100}}
        for n in range(TEXTS)
    ]
    with SearchIndex.create(home / "index", Embedder.load(model)) as index:
        index.add(rows)
    return home / "index"


def _post(make: Callable[[], Json | bytes]) -> Callable[[Served], Answer]:
    def act(served: Served) -> Answer:
        body = make()
        return served.post("/search", body if isinstance(body, bytes) else as_json(body))

    return act


def abandoned(served: Served) -> Answer | tuple[str, str]:
    """Ten clients search for thousands of queries and leave; another one asks once."""
    body = as_json({"inputs": ["a b c"] * 1000, "top_k": 100})
    for _ in range(10):
        with connect(served.port, 10.0) as made:
            made.sendall(request("/search", body))
            time.sleep(0.2)
    answer = served.post("/search", {"inputs": "text number 7", "top_k": 1}, 10.0)
    return answer if answer.status != 200 or len(json.loads(answer.body)) == 1 else ("silent", "wrong hits")


ATTACKS: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    **{name: _post(make) for name, make in BODIES.items()},
    "ten abandoned searches": abandoned,
}
