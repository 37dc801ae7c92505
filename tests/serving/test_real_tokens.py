"""What a server tells of the tokens of the Gemma 2 tokenizer and of the released form of it."""

from __future__ import annotations

from pathlib import Path

import httpx
from serving_models import serving

from mmbert import Tokenizer


def test_tokens_and_their_text(real_models: dict[str, Path]) -> None:
    text = "<h1>born</h1>\n\n\tfree    \U0001e900 人"
    with serving(*real_models.values()) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        for name, folder in real_models.items():
            (found,) = client.post("/tokenize", json={"inputs": text, "model": name}).json()
            assert [token["id"] for token in found] == Tokenizer.load(folder).encode(text, specials=True)
            inner = found[1:-1]
            assert all(token["text"] == text[token["start"] : token["stop"]] for token in inner)
            put = [token for token in inner if token["text"] == ""]
            assert {token["token"] for token in put} == ({"▁"} if name == "released" else set())
            spelled = [token for token in inner if token["token"].startswith("<0x")]
            assert {token["bytes"] for token in spelled} == {1}
            ids = [token["id"] for token in found]
            (back,) = client.post("/decode", json={"ids": ids, "model": name}).json()
            assert back == (text if name == "gemma2" else "<h1> born</h1>\n\n \tfree    \U0001e900 人")
            assert sum(token["bytes"] for token in found) == len(back.encode())
