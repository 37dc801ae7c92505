"""The files of a tokenizer beside its ``tokenizer.json``, and the download of that file from the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from mmbert.errors import MMBertError, TokenizerError
from mmbert.files import read_json, write_json
from mmbert.hub import HubFailed, hub_file

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"


def write_side_files(
    folder: Path,
    specials: Mapping[str, str],
    ids: Mapping[str, int],
    added: Mapping[int, tokenizers.AddedToken],
    max_tokens: int,
) -> None:
    """Write ``tokenizer_config.json`` and ``special_tokens_map.json`` for Hugging Face readers.

    The class is named PreTrainedTokenizerFast, which transformers 4 and 5 both know.

    specials  role -> content of the special tokens. ``bos`` also stands for CLS and ``eos`` for SEP
    ids       role -> their ids
    added     id -> added token of the tokenizer. Transformers takes the matching flags of special tokens from
              ``tokenizer_config.json``
    """
    roles = {f"{role}_token": token for role, token in specials.items()}
    roles |= {"cls_token": specials["bos"], "sep_token": specials["eos"]}
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(index): _flags(specials[role], added) for role, index in ids.items()},
        **roles,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_tokens,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "truncation_side": "right",
    }
    write_json(folder / _CONFIG, config)
    write_json(folder / "special_tokens_map.json", roles)


def _flags(special: str, added: Mapping[int, tokenizers.AddedToken]) -> dict[str, Any]:
    known = next((token for token in added.values() if token.content == special), None)
    flags = {flag: bool(getattr(known, flag, False)) for flag in ("lstrip", "normalized", "rstrip", "single_word")}
    return {"content": special, **flags, "special": True}


def read_config(file: Path) -> dict[str, Any]:
    """Return the ``tokenizer_config.json`` beside a ``tokenizer.json``, or an empty one. Raises TokenizerError."""
    path = file.parent / _CONFIG
    try:
        values = read_json(path) if path.is_file() else {}
    except MMBertError as error:
        raise TokenizerError(str(error)) from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return values


def download(name: str, revision: str | None) -> Path:
    """Return ``tokenizer.json`` of a hub repository, beside which its ``tokenizer_config.json`` is, if it has one.

    Raises TokenizerError.
    """
    here = Path(name)
    if (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
        or name.startswith(".")
        or here.exists()
        or (here.parent.name and here.parent.is_dir())
    ):
        raise TokenizerError(
            f"no tokenizer at {name}: expected a folder with tokenizer.json, such a file, or a hub name"
        )
    try:
        return hub_file(name, _FILE, beside=[_CONFIG], revision=revision)
    except HubFailed as error:
        raise TokenizerError(f"no folder {name} here, and the hub did not give its tokenizer: {error}") from error
