"""Valid bodies of every route, changed at random: wrong types, huge numbers, deep nesting, keys too many or too few."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import http_search
from outcome import Outcome
from served import Answer, Json, Served, as_json

TRIES = 25
"""Of each valid body."""
GROUP = "fuzzer"

VALID: list[tuple[str, Json]] = [
    ("/v1/embeddings", {"input": ["one", "two"], "model": "tuned", "encoding_format": "float", "dimensions": 8}),
    ("/v1/embeddings", {"input": ["one", "two"], "late_chunking": True}),
    ("/v1/rerank", {"query": "one", "documents": ["two", {"text": "three"}], "top_n": 1, "return_documents": True}),
    ("/classify", {"input": ["one", "two"], "raw_scores": False}),
    ("/embed", {"inputs": ["one", "two"], "normalize": True, "truncate": False, "prompt_name": "query"}),
    ("/embed_all", {"inputs": "one two", "truncate": True, "truncation_direction": "left"}),
    ("/rerank", {"query": "one", "texts": ["two", "three"], "raw_scores": False, "return_text": True}),
    ("/predict", {"inputs": [["one", "two"], ["three"]], "raw_scores": False}),
    ("/similarity", {"inputs": {"source_sentence": "one", "sentences": ["two"]}, "parameters": {"truncate": True}}),
    ("/tokenize", {"inputs": ["one", "two"], "add_special_tokens": True}),
    ("/decode", {"ids": [[5, 6, 7], [8]], "skip_special_tokens": True}),
    ("/token_classify", {"inputs": ["one two", "three"], "strategy": "first"}),
    ("/fill_mask", {"inputs": "one <mask> two", "top_k": 3}),
    ("/answer", {"inputs": {"question": "who?", "context": "one two three"}, "top_k": 2}),
    ("/passages", {"inputs": "One two. Three four.", "by": "size", "size": 2, "normalize": True}),
    ("/search", {"inputs": ["one", "two"], "index": "index", "top_k": 3, "where": {"year": {">=": 1950, "<": 1960}}}),
    ("/search", {"inputs": "one", "where": {"year": [1900, 1901]}}),
    ("/", {"inputs": "one", "parameters": {"truncate": True, "normalize": True}, "model": "tuned"}),
    ("/", {"inputs": {"source_sentence": "one", "sentences": ["two"]}, "model": "tuned"}),
    ("/", {"inputs": {"query": "one", "texts": ["two", "three"]}, "model": "ranks"}),
    ("/", {"inputs": {"text": "one", "text_pair": "two"}, "parameters": {"top_k": 2}, "model": "classes"}),
    ("/", {"inputs": "one two", "parameters": {"aggregation_strategy": "simple"}, "model": "tags"}),
    ("/", {"inputs": "one <mask>", "parameters": {"top_k": 2}, "model": "masks"}),
    ("/", {"inputs": {"question": "who?", "context": "one two"}, "model": "spans"}),
]

KNOWN: dict[str, tuple[str, Json]] = {
    "a model among the inputs": ("/", {"inputs": {"query": "one", "texts": ["two"], "model": "x"}, "model": "ranks"}),
    "a schema among the inputs": ("/", {"inputs": {"query": "one", "texts": ["two"], "schema": 1}, "model": "ranks"}),
    "self among the inputs": ("/", {"inputs": {"query": "one", "texts": ["two"], "self": 1}, "model": "ranks"}),
    "cls among the inputs": ("/", {"inputs": {"query": "one", "texts": ["two"], "cls": 1}, "model": "ranks"}),
}
"""Bodies that once were answered by 500."""


def _nested(draw: random.Random) -> Json:
    value: Json = "deep"
    for _ in range(draw.choice([3, 50, 300])):
        value = [value] if draw.random() < 0.5 else {"inputs": value}
    return value


ODD: tuple[Callable[[random.Random], Json], ...] = (
    lambda draw: draw.choice([None, True, False, "", " ", [], {}, 0, -1, 1, 0.5, "1", "true"]),
    lambda draw: draw.choice([10**6, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 1e308, -1e-308, 10**400]),
    lambda draw: draw.choice([math.nan, math.inf, -math.inf]),
    lambda draw: draw.choice(["\ud800", "\udfff\ud800", "\0", "\ufeff", "\u202e", "\U0010ffff", "<mask>" * 3, "<bos>"]),
    lambda draw: "x " * draw.choice([10, 1000, 20_000]),
    lambda draw: draw.choice([[[]], [[["one"]]], [None], ["one", None], [""], [1, "one"], [True], [{}]]),
    lambda draw: ["one"] * draw.choice([0, 1, 100, 9000]),
    _nested,
    lambda draw: draw.choice(["tuned", "classes", "ranks", "tags", "masks", "spans", "../tuned", "tuned\n"]),
)
"""What a value becomes."""


def mutate(value: Json, draw: random.Random) -> Json:
    """Return a valid body with one to three changes at random places."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.choice([1, 1, 2, 3])):
        places = list(_places(changed))
        holder, key = draw.choice(places)
        how = draw.random()
        if how < 0.7:
            holder[key] = draw.choice(ODD)(draw)
        elif how < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(["model", "schema", "self", "extra", "", "inputs", "__class__", "\0"])] = holder[key]
        else:
            holder.append(holder[key])
        if not changed:
            break
    return changed


def _places(value: Json) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key) of every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def _bytes(value: Json, draw: random.Random) -> bytes:
    """Return a body, now and then with a fault that no JSON value has."""
    raw = as_json(value)
    how = draw.random()
    if how < 0.05:
        return raw[: draw.randrange(len(raw))]
    if how < 0.1:
        at = draw.randrange(len(raw))
        return raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]
    if how < 0.15 and raw.startswith(b"{") and len(raw) > 2:
        return raw[:-1] + b", " + raw[1:]  # every key twice
    return raw


def judge(answer: Answer) -> tuple[str, str]:
    """Return (kind, what was said): an answer must be JSON without NaN, a refusal one short line."""
    said = f"{answer.status} {answer.body[:120]!r}"
    if answer.status is None:
        return ("hang" if answer.timed_out else "silent"), said
    if answer.status >= 500 and answer.status != 503:
        return "500", said
    try:
        found = json.loads(answer.body, parse_constant=_refuse)
    except ValueError:
        return "silent", said
    if answer.status == 200:
        return "harmless", ""
    short = isinstance(found, dict) and len(answer.body) < 2000 and "\n" not in str(found.get("error"))
    return ("named" if short else "silent"), said


def fuzz(home: Path, tries: int = TRIES, seed: int = 14) -> Iterator[Outcome]:
    """Send ``tries`` changes of every valid body to a server of a model of every kind."""
    from serving_models import write_models

    folders = write_models(home / "models")
    names = ("tuned", "classes", "ranks", "tags", "masks", "spans")
    served = Served(
        [folders / name for name in names], home, index=http_search.build(folders / "tuned", home / "models")
    )
    draw, since, found = random.Random(seed), served.begin(), []
    bodies = [(name, path, as_json(value)) for name, (path, value) in KNOWN.items()]
    for number, (path, value) in enumerate(VALID):
        answer = served.post(path, value)
        if answer.status != 200:
            raise RuntimeError(f"{path} does not take its valid body {number}: {answer}")
        bodies += [(f"body {number}.{n}", path, _bytes(mutate(value, draw), draw)) for n in range(tries)]
    for name, path, raw in bodies:
        kind, said = judge(served.post(path, raw, 30.0))
        if kind == "500":
            time.sleep(0.2)  # its traceback is written behind the answer
        stderr = served.said()
        if "Traceback" in stderr and kind in ("named", "harmless"):
            kind = "traceback"
        fault = kind not in ("named", "harmless")
        found.append(Outcome(GROUP, name, kind, f"{path} {raw[:300]!r}: {said}" if fault else said))
    health, memory, stop = served.health(since), served.memory(), served.stop()
    last = replace(found[-1], health=health, memory=memory, stop=stop)
    yield from found[:-1]
    yield last if stop is not None else replace(last, kind="hang", said="SIGTERM did not end it")


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
