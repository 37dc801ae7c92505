"""What a server tells of the tokens of older encoders' tokenizers, and masks by the name that each has for them."""

from __future__ import annotations

from pathlib import Path

import httpx
from serving_models import serving

from mmbert import Tokenizer

TEXT = "Wote wamezaliwa HURU,  hadhi \U0001e900 人人"


def test_tokens_and_masks(older_models: dict[str, Path]) -> None:
    with serving(*older_models.values()) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        for name, folder in older_models.items():
            tokenizer = Tokenizer.load(folder)
            (found,) = client.post("/tokenize", json={"inputs": TEXT, "model": name}).json()
            ids = [token["id"] for token in found]
            assert ids == tokenizer.encode(TEXT, specials=True)
            assert [found[0]["token"], found[-1]["token"]] == [tokenizer.specials["bos"], tokenizer.specials["eos"]]
            assert all(token["special"] or token["text"] == TEXT[token["start"] : token["stop"]] for token in found)
            (back,) = client.post("/decode", json={"ids": ids, "model": name}).json()
            assert back == tokenizer.decode(ids)
            masked = f"Wote {tokenizer.specials['mask']} huru"
            filled = client.post("/fill_mask", json={"inputs": masked, "model": name}).json()
            guessed = client.post("/", json={"inputs": masked, "model": name}).json()
            assert [one["id"] for one in filled[0]] == [one["token"] for one in guessed]
            other = "Wote [MASK] huru" if name == "unigram" else "Wote <mask> huru"
            vectors = client.post("/", json={"inputs": other, "model": name}).json()
            assert len(vectors[0]) == 32, "a text without the model's mask is embedded"
