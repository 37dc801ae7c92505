"""Bodies that cost a server far more than they cost the client who sends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from served import Answer, Json, Served, as_json, connect, held, request

MEGABYTE = 10**6
LONG = 15 * MEGABYTE
UPLOADS = 60

BODIES: dict[str, tuple[str, Callable[[], Json | bytes]]] = {
    "a million numbers where texts belong": ("/embed", lambda: {"inputs": [1] * MEGABYTE}),
    "a million wrong items behind a text": ("/embed", lambda: {"inputs": ["a", *[None] * MEGABYTE]}),
    "a million pairs that are none": ("/predict", lambda: {"inputs": [[]] * MEGABYTE}),
    "300,000 bad documents": ("/v1/rerank", lambda: {"query": "q", "documents": [1] * 300_000}),
    "three million token ids below zero": ("/decode", lambda: {"ids": [-1] * 3 * MEGABYTE}),
    "four million short texts": ("/embed", lambda: {"inputs": ["a"] * (3 * MEGABYTE)}),
    "16 MB of brackets": ("/embed", lambda: b'{"inputs": ' + b"[" * LONG),
    "a number of 15 MB": ("/embed", lambda: b'{"inputs": "a", "dimensions": ' + b"9" * LONG + b"}"),
    "500,000 keys": ("/embed", lambda: {"inputs": "a", **{f"key{number}": 0 for number in range(500_000)}}),
    "passages of 1 MB, size 1": ("/passages", lambda: {"inputs": "a " * (MEGABYTE // 2), "by": "size", "size": 1}),
    "passages of 1 MB of sentences": ("/passages", lambda: {"inputs": "A b. " * (MEGABYTE // 5)}),
    "900 masks, 100 fills each": ("/fill_mask", lambda: {"inputs": "<mask> " * 900, "top_k": 100}),
    "texts full of masks": ("/fill_mask", lambda: {"inputs": ["<mask> " * 100] * 500, "top_k": 100}),
    "15 MB of one letter, truncate": ("/embed", lambda: {"inputs": "a" * LONG, "truncate": True}),
    "15 MB of one letter": ("/embed", lambda: {"inputs": "a" * LONG}),
    "15 MB of white space, truncate": ("/embed", lambda: {"inputs": " " * LONG, "truncate": True}),
    "tokens of 15 MB of one letter": ("/tokenize", lambda: {"inputs": "a" * LONG}),
    "tokens of 8,000 texts of 1,800 letters": ("/tokenize", lambda: {"inputs": ["ab " * 600] * 8000}),
    "all tokens' vectors of 8,000 texts": ("/embed_all", lambda: {"inputs": ["a b c d"] * 8000}),
}
"""Name -> route and body; an answer is as good as a refusal, if it comes in time."""


def _post(path: str, make: Callable[[], Json | bytes]) -> Callable[[Served], Answer]:
    def act(served: Served) -> Answer:
        body = make()
        raw = body if isinstance(body, bytes) else as_json(body)
        return served.post(path, raw)

    return act


def abandoned(served: Served) -> Answer | tuple[str, str]:
    """Three clients ask for passages of 1 MB and leave; a fourth one asks for a vector."""
    body = as_json({"inputs": "a " * (MEGABYTE // 2), "by": "size", "size": 1})
    for _ in range(3):
        with connect(served.port, 10.0) as made:
            made.sendall(request("/passages", body))
            time.sleep(1.0)
    return served.post("/embed", {"inputs": "a fourth one"}, 10.0)


def locked_out(served: Served) -> Answer | tuple[str, str]:
    """While one client has a text of 15 MB read, others ask for vectors of a word, five times a second."""
    large = threading.Thread(target=served.post, args=("/embed", {"inputs": "a" * LONG, "truncate": True}))
    large.start()
    statuses = []
    while large.is_alive() and len(statuses) < 50:
        statuses.append(served.post("/embed", {"inputs": "a word"}, 20.0).status)
        time.sleep(0.2)
    large.join()
    refused = [status for status in statuses if status != 200]
    return ("hang" if None in refused else "silent", f"{len(refused)} of {len(statuses)} were not answered by 200: "
            f"{sorted(set(map(str, refused)))}") if refused else ("harmless", f"{len(statuses)} answered")  # fmt: skip


def uploads(served: Served) -> Answer | tuple[str, str]:
    """Sixty uploads of 16 MB are held open, one byte short; another client asks for a vector."""
    body = as_json({"inputs": "a" * (16 * MEGABYTE)})
    raw = request("/embed", body)[:-1]
    began = threading.Event()

    def hold() -> None:
        with held(served.port, UPLOADS, raw):
            began.set()
            time.sleep(2.0)

    holder = threading.Thread(target=hold)
    holder.start()
    began.wait(60.0)
    answer = served.post("/embed", {"inputs": "another one"}, 20.0)
    holder.join()
    return answer


def long_name(served: Served) -> Answer | tuple[str, str]:
    """A model's name of 1 MB must not come back."""
    return served.post("/embed", {"inputs": "a", "model": "m" * MEGABYTE})


ATTACKS: dict[str, Callable[[Served], Answer | tuple[str, str]]] = {
    **{name: _post(*body) for name, body in BODIES.items()},
    "three abandoned requests for passages": abandoned,
    "others while 15 MB are read": locked_out,
    "sixty uploads of 16 MB held open": uploads,
    "a model's name of 1 MB": long_name,
}
