"""Reads a large BPE ``tokenizer.json`` in less time and memory than the library does alone, with the same result.

Nearly all of the 34 MB of Gemma 2's file are the vocabulary and 580,000 merges. The library parses them twice, into
trees of small objects that take 400 MB, and a check of the rules in Python would take as much again. Here the part of
the model goes to the library by itself, with merges in the older form ``"a b"``, whose tree is half the size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.models import BPE

from mmbert.errors import TokenizerError
from mmbert.memory import give_back
from mmbert.tokenizer.guard import check_expansion, no_panic

_LEAST = 2**22
"""Bytes of a file below which nothing is gained."""

_HEAD = 2**20
"""Bytes in which the model must begin: those before it are added tokens and rules."""

_MODEL = re.compile(rb'"model"\s*:\s*(?=\{\s*"type"\s*:\s*"BPE")')
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")

_PAIRS = ((b'[\n        "', b'"'), (b'",\n        "', b" "), (b'"\n      ]', b'"'))
"""From the library's pretty form of a merge to ``"a b"``. Strings of JSON hold no raw line feed: none is changed."""


def load_bpe(path: Path, origin: str) -> tokenizers.Tokenizer | None:
    """Return the tokenizer of a file, or None for one that must be read as a whole: small, damaged, or of another form.

    Raises TokenizerError for rules that :func:`mmbert.tokenizer.guard.check_expansion` refuses.
    """
    if path.stat().st_size < _LEAST:
        return None
    with path.open("rb") as file:
        beginning = file.read(_HEAD)
    found = _MODEL.search(beginning)
    head = _head(beginning[: found.start()]) if found else None
    if found is None or head is None:
        return None
    model = _model(path, found.end(), origin, short=True) or _model(path, found.end(), origin, short=False)
    if model is None:
        return None
    check_expansion({**head, "model": {name: getattr(model, name) for name in _AFFIXES}}, origin)
    try:
        with no_panic(origin):
            return _joined(head, model)
    except TokenizerError:
        raise
    except Exception:  # the Rust library raises bare Exception; reading the whole file then says what is wrong with it
        return None


def _joined(head: dict[str, Any], model: BPE) -> tokenizers.Tokenizer | None:
    """Return the tokenizer of a model and of what came before it; None if it adds tokens that the model lacks."""
    added = head.pop("added_tokens")
    if any(model.token_to_id(token["content"]) != token["id"] for token in added):
        return None  # which ids they get is for the library to say
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    made = tokenizers.Tokenizer.from_str(json.dumps({**head, "added_tokens": [], "model": empty}))
    made.model = model
    made.add_tokens([AddedToken(**{key: token[key] for key in token if key != "id"}) for token in added])
    give_back()  # after the trees of small objects are gone
    return made


def _head(content: bytes) -> dict[str, Any] | None:
    """Return what comes before the model, if ``content`` ends where a key of the outermost object may begin."""
    try:
        head = json.loads(content + b'"model": null}')
    except (ValueError, RecursionError):  # "model" is a key of something inside, or the file is damaged
        return None
    return head if isinstance(head.get("added_tokens"), list) else None


def _model(path: Path, start: int, origin: str, *, short: bool) -> BPE | None:
    """Return the model, the last value of the file from ``start`` on. None if it is none that the library can read.

    The library accepts nothing but blanks behind the value. So no second rule can follow the model unchecked.
    """
    with path.open("rb") as file:
        file.seek(start)
        content = file.read().rstrip().removesuffix(b"}")  # of the outermost object
    # the older form cannot say a token with a space (it is an error there), and takes "#version" for a comment
    if short and b'[\n        "#version' not in content:
        for written, older in _PAIRS:
            content = content.replace(written, older)
    made = BPE()
    try:
        with no_panic(origin):
            made.__setstate__(content)
    except Exception:  # the Rust library raises bare Exception for whatever it cannot read
        return None
    return made
