"""Small tokenizers of the forms there are, and models that fit them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

FORMS: dict[str, dict[str, Any]] = {
    # a space stays a space, words are cut by a pattern: tokenizers trained here
    "ours": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r" ?[\p{L}\p{M}]++|\p{N}| ?[^\s\p{L}\p{M}\p{N}]++|\s+(?!\S)|\s+"},
            "behavior": "Isolated",
            "invert": False,
        },
        "space": " ",
    },
    # the released mmBERT
    "metaspace": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "space": "▁",
    },
    # Gemma 2 as it is: nothing cuts a text before the merges do
    "gemma": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "space": "▁",
    },
}
"""Three ways to write a space and to cut words."""


def tokenizer_json(form: str, seed: int, *, letters: str = "abcdé", merges: int = 60) -> str:
    """A ``tokenizer.json`` with merges drawn at random, in an order that no training would give.

    So there are tokens that no text is cut into, and tokens that are made in several ways.
    """
    draw = random.Random(seed)
    space = FORMS[form]["space"]
    words = [*letters, *(space + letter for letter in letters)]
    pairs = [(space, letter) for letter in letters if draw.random() < 0.5]
    for _ in range(merges):
        left, right = draw.choice(words), draw.choice([word for word in words if not word.startswith(space)])
        if (left, right) not in pairs and len(left + right) < 9:
            pairs.append((left, right))
            words.append(left + right)
    draw.shuffle(pairs)
    tokens = [*SPECIALS, "\n", "\n\n", *BYTES, space, *letters, *"0123456789.,"]
    tokens = list(dict.fromkeys([*tokens, *(token for pair in pairs for token in (*pair, "".join(pair)))]))
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_added(token, tokens.index(token)) for token in (*SPECIALS, "\n", "\n\n")],
            "normalizer": FORMS[form].get("normalizer"),
            "pre_tokenizer": FORMS[form].get("pre_tokenizer"),
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"},
            ]},
            "model": {
                "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "dropout": None,
                "vocab": {token: index for index, token in enumerate(tokens)}, "merges": [list(pair) for pair in pairs],
            },
        }
    )  # fmt: skip


def _added(token: str, index: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": token in SPECIALS}


def text(seed: int, *, letters: str = "abcdé", words: int = 12) -> str:
    """Words of a few letters, a digit, a stop or a line's end now and then."""
    draw = random.Random(seed)
    parts = []
    for _ in range(words):
        parts.append("".join(draw.choice(letters) for _ in range(draw.randint(1, 9))))
        if draw.random() < 0.1:
            parts.append(draw.choice(["7", "42.", ",", "\n", "\n\n"]))
    return " ".join(parts)


def save_model(folder: Path, content: str, *, rows: int | None = None, seed: int = 0) -> MaskedLM:
    """A folder with a masked language model of random weights for a tokenizer; ``rows``: of its embedding."""
    tokens = len(json.loads(content)["model"]["vocab"])
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=rows or tokens, hidden_size=32, intermediate_size=32, num_layers=4, num_heads=2, max_context=64
    )
    model = MaskedLM(config)
    with torch.no_grad():
        model.decoder.bias.normal_()
    model.save(folder)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    decoder = {str(token["id"]): {"content": token["content"]} for token in json.loads(content)["added_tokens"]}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder, "mask_token": "<mask>",
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return model
