"""Tokenizers that were made to harm: panics of the Rust library, and rules that make millions of characters of one."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from mmbert import Tokenizer
from mmbert.errors import TokenizerError
from mmbert.tokenizer.guard import check_expansion


def hostile(trained: Tokenizer, folder: Path, **changes: Any) -> Path:
    trained.save(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def replace(content: str, pattern: str = "a") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def table(longest: int) -> str:
    return base64.b64encode(struct.pack("<I", 4) + bytes(4) + b"a\0" + b"b" * longest + b"\0").decode()


@pytest.mark.parametrize(
    "rule",
    [
        replace("b" * 1_000_000),
        {"type": "Sequence", "normalizers": [replace("aaa")] * 20},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [replace("a" * 50)] * 2}]},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "b" * 1000},
        {"type": "Prepend", "prepend": "b" * 1_000_000},
        {"type": "Precompiled", "precompiled_charsmap": table(100_000)},
    ],
)
@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_rules_that_lengthen_texts_without_bound_are_refused(
    trained: Tokenizer, tmp_path: Path, rule: dict[str, Any], part: str
) -> None:
    if part == "decoder" and "normalizers" in rule:
        rule = {**rule, "decoders": rule["normalizers"]}
    path = hostile(trained, tmp_path, **{part: rule})
    with pytest.raises(TokenizerError, match=rf"{path} is not supported: its {part} makes up to [\d,]+ characters"):
        Tokenizer.load(path)


def test_real_rules_are_taken(gemma2: Path, released: Path) -> None:
    for folder in (gemma2, released):
        check_expansion(json.loads((folder / "tokenizer.json").read_text()), "tokenizer.json")
    nmt = {"type": "Precompiled", "precompiled_charsmap": table(33)}
    sequence = [nmt, {"type": "NFKC"}, replace(" ", "  "), {"type": "Prepend", "prepend": "\u2581"}, replace('"', "``")]
    check_expansion({"normalizer": {"type": "Sequence", "normalizers": sequence}, "model": {}}, "tokenizer.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    ],
)
def test_a_panic_is_an_error_that_names_the_file(trained: Tokenizer, tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = Tokenizer.load(hostile(trained, tmp_path, **changes))
    for ask in (
        lambda: loaded.encode_batch(["a word"]),
        lambda: loaded.encode_spans(["a word"], specials=True),
        lambda: loaded.encode_written("a word", "b"),
    ):
        with pytest.raises(TokenizerError, match=rf"{tmp_path}.* makes the tokenizers library fail \(.*\): do not use"):
            ask()


def test_a_panic_of_a_decoder(trained: Tokenizer, tmp_path: Path) -> None:
    decoder = {"type": "Strip", "content": "a", "start": 100, "stop": 100}
    loaded = Tokenizer.load(hostile(trained, tmp_path, decoder=decoder))
    with pytest.raises(TokenizerError, match="makes the tokenizers library fail"):
        loaded.decode(loaded.encode("a word"))
