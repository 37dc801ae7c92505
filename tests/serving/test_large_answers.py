"""Large answers are written in pieces, in the bytes that orjson writes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from mmbert.search.query import Hit
from mmbert.serving.endpoint import LARGE, to_json, weight

VECTORS = np.random.default_rng(0).standard_normal((300, 64), np.float32)
HITS = [[Hit(n, 0.5, f'text "{n}" é', {"year": n}, 0, 9) for n in range(20)] for _ in range(90)]
ANSWERS: dict[str, Any] = {
    "an array": VECTORS,
    "a list of arrays": list(VECTORS),
    "lists of objects": HITS,
    "a list of numbers": VECTORS.ravel().tolist(),
    "an array of one dimension": VECTORS.ravel(),
    "keys that are numbers, one long text": {1: "x" * LARGE, "hits": HITS, "vectors": VECTORS, "none": None},
    "OpenAI's": {"object": "list", "data": [{"index": n, "embedding": row} for n, row in enumerate(VECTORS)]},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_bytes_are_those_of_one_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, sizes, write = ANSWERS[name], [], orjson.dumps
    assert weight(answer) > LARGE
    whole = write(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)

    def dumps(item: Any, option: int) -> bytes:
        sizes.append(len(made := write(item, option=option)))
        return made

    monkeypatch.setattr(orjson, "dumps", dumps)
    monkeypatch.setattr("mmbert.serving.endpoint.LARGE", 2**13)
    assert to_json(answer) == whole
    assert max(sizes) < len(whole) / 3 or "long text" in name  # other threads run in between
