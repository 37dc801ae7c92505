"""A ``tokenizer.json`` and the library's tokenizer that holds it: reading one, its fingerprint, others of its model."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from mmbert.errors import TokenizerError, first_line
from mmbert.tokenizer.guard import check_expansion, no_panic


def read_json(content: str, origin: str) -> tokenizers.Tokenizer:
    """Return what the text of a ``tokenizer.json`` holds. Raises TokenizerError, which names ``origin``."""
    try:
        check_expansion(json.loads(content), origin)
        with no_panic(origin):
            return tokenizers.Tokenizer.from_str(content)
    except TokenizerError:
        raise
    except Exception as error:  # the Rust library raises bare Exception for whatever it cannot read
        raise TokenizerError(f"{origin} is not a tokenizer.json: {first_line(error)}") from error


def fingerprint_of(rust: tokenizers.Tokenizer) -> str:
    """Return 16 hexadecimal digits of all that affects ids: model, normaliser, splitting, added tokens.

    False and null count as absent, so that the same tokenizer written by a newer library keeps its fingerprint.
    """
    values = json.loads(rust.to_str())
    parts = {key: _bare(values.get(key)) for key in ("normalizer", "pre_tokenizer", "added_tokens")}
    large = {key: values["model"].pop(key) for key in ("vocab", "merges") if key in values["model"]}
    parts["model"] = {**_bare(values["model"]), **large}  # nothing in these is false or null
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def spacing_of(rust: tokenizers.Tokenizer) -> str:
    """Return the normalizer and the pre-tokenizer, which say how spaces are written, as JSON."""
    parts = (rust.normalizer, rust.pre_tokenizer)
    return "".join(part.__getstate__().decode() for part in parts if part is not None)


def sharing(rust: tokenizers.Tokenizer, added: Mapping[int, tokenizers.AddedToken]) -> Any:
    """Return another tokenizer, with these added tokens, that shares the same model in memory."""
    other = tokenizers.Tokenizer(rust.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if (value := getattr(rust, part)) is not None:
            setattr(other, part, value)
    other.add_tokens([added[index] for index in sorted(added)])
    return other


def as_special(token: tokenizers.AddedToken) -> tokenizers.AddedToken:
    """Return a copy of an added token that is special."""
    token = copy.copy(token)
    token.special = True
    return token


def _bare(value: Any) -> Any:
    """Return a value without what is false or null, at any depth."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if inner is not None and inner is not False}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    return value
