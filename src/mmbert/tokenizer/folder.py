"""The files of a tokenizer beside its ``tokenizer.json``, and the download of that file from the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from mmbert.errors import TokenizerError
from mmbert.files import write_json
from mmbert.hub import HubFailed, hub_file

SPECIALS = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"}
"""Role -> content. ``<bos>`` also stands for CLS and ``<eos>`` for SEP."""


def write_side_files(
    folder: Path, ids: Mapping[str, int], added: Mapping[int, tokenizers.AddedToken], max_tokens: int
) -> None:
    """Write ``tokenizer_config.json`` and ``special_tokens_map.json`` for Hugging Face readers.

    The class is named PreTrainedTokenizerFast, which transformers 4 and 5 both know.

    ids    role -> id of the special tokens
    added  id -> added token of the tokenizer. Transformers takes the matching flags of special tokens from the config
    """
    roles = {f"{role}_token": token for role, token in SPECIALS.items()}
    roles |= {"cls_token": SPECIALS["bos"], "sep_token": SPECIALS["eos"]}
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(index): _flags(SPECIALS[role], added) for role, index in ids.items()},
        **roles,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_tokens,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "truncation_side": "right",
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", roles)


def _flags(special: str, added: Mapping[int, tokenizers.AddedToken]) -> dict[str, Any]:
    known = next((token for token in added.values() if token.content == special), None)
    flags = {flag: bool(getattr(known, flag, False)) for flag in ("lstrip", "normalized", "rstrip", "single_word")}
    return {"content": special, **flags, "special": True}


def download(name: str, revision: str | None) -> Path:
    """Return ``tokenizer.json`` of a hub repository. Raises TokenizerError."""
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
        return hub_file(name, "tokenizer.json", revision=revision)
    except HubFailed as error:
        raise TokenizerError(f"no folder {name} here, and the hub did not give its tokenizer: {error}") from error
