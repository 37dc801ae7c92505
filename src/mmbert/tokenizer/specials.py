"""The special tokens of a tokenizer: which token has which role, found in its files.

Five roles are known: ``bos`` begins every text (BERT calls it CLS) and ``eos`` ends it (SEP); ``pad``, ``unk`` and
``mask`` are what they are called. Only ``mask`` may be missing: masked language modelling alone needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing

from mmbert.errors import TokenizerError
from mmbert.tokenizer.guard import no_panic

FAMILIES: dict[str, dict[str, str]] = {
    "Gemma": {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"},
    "XLM-R": {"pad": "<pad>", "eos": "</s>", "bos": "<s>", "unk": "<unk>", "mask": "<mask>"},
    "BERT": {"pad": "[PAD]", "eos": "[SEP]", "bos": "[CLS]", "unk": "[UNK]", "mask": "[MASK]"},
}
"""Family -> role -> content. Gemma comes first: its vocabulary also holds ``<s>`` and ``</s>``, as tags of HTML."""

GEMMA = FAMILIES["Gemma"]
"""The special tokens of the released mmBERT, and of tokenizers trained here."""

_KEYS = {
    "pad": ("pad_token",), "eos": ("sep_token", "eos_token"), "bos": ("cls_token", "bos_token"),
    "unk": ("unk_token",), "mask": ("mask_token",),
}  # fmt: skip
"""Role -> keys of ``tokenizer_config.json``, the first one first."""

_UNK_ID = re.compile(rb'\{"type":"Unigram","unk_id":(\d+)')


def find_specials(rust: tokenizers.Tokenizer, config: Mapping[str, Any], origin: str) -> dict[str, str]:
    """Return role -> content of a tokenizer that neither cuts nor pads; without ``mask`` if it has none.

    For each role the first token that the vocabulary holds counts: the two that ``tokenizer.json`` puts around a text,
    and the one for what its model does not know; the one that ``config`` (``tokenizer_config.json``) names; that of the
    family of which the vocabulary holds most. Raises TokenizerError if a role other than ``mask`` has no token.
    """
    family = max(FAMILIES.values(), key=lambda tokens: sum(_has(rust, token) for token in tokens.values()))
    written = _written(rust, origin)
    found = {}
    for role, token in family.items():
        named = [_content(config.get(key)) for key in _KEYS[role]]
        content = next((one for one in (written.get(role), *named, token) if one and _has(rust, one)), None)
        if content is not None:
            found[role] = content
    missing = [token for role, token in family.items() if role not in found and role != "mask"]
    if missing:
        needed = " ".join(token for role, token in family.items() if role != "mask")
        raise TokenizerError(f"{origin} has no {', '.join(missing)}: mmBERT needs {needed}, or others in these roles")
    return found


def _written(rust: tokenizers.Tokenizer, origin: str) -> dict[str, str | None]:
    """Return what ``tokenizer.json`` itself says: the tokens around a text, if it puts two, and the unknown token."""
    with no_panic(origin):
        around = rust.encode("").tokens
    found = {"unk": _unknown(rust.model)}
    if len(around) == 2:  # Gemma 2's own file, for one, puts no <eos>
        found |= {"bos": around[0], "eos": around[1]}
    return found


def _unknown(model: Any) -> str | None:
    """Return the token that a model gives for what it does not know."""
    if not isinstance(model, tokenizers.models.Unigram):
        return _content(getattr(model, "unk_token", None))
    stated = _UNK_ID.match(model.__getstate__())  # the library says it nowhere else
    return None if stated is None else model.id_to_token(int(stated[1]))


def _content(value: Any) -> str | None:
    """Return the content of a token in ``tokenizer_config.json``: a string, or an object with its flags."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _has(rust: tokenizers.Tokenizer, token: str) -> bool:
    return rust.token_to_id(token) is not None


def around(specials: Mapping[str, str], ids: Mapping[str, int], origin: str) -> TemplateProcessing:
    """Return what puts ``<bos>`` and ``<eos>`` around a text, and joins two."""
    bos, eos = specials["bos"], specials["eos"]
    try:
        return TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} $B {eos}",
            special_tokens=[(bos, ids["bos"]), (eos, ids["eos"])],
        )
    except ValueError as error:  # a template cannot say a token with a space or a colon
        raise TokenizerError(f"{origin}: {bos!r} and {eos!r} around a text are not supported") from error


def add_specials(rust: tokenizers.Tokenizer, specials: Mapping[str, str]) -> None:
    """Make added tokens of the special tokens that are so far only in the vocabulary, as readers do by their config.

    The mask then takes the space before it with it, as in XLM-R: it stands for a word.
    """
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    for role, token in specials.items():
        if token not in known:
            rust.add_special_tokens(
                [tokenizers.AddedToken(token, special=True, normalized=False, lstrip=role == "mask")]
            )


def kept_apart(rust: tokenizers.Tokenizer, contents: Iterable[str]) -> None:
    """Make a tokenizer that ignores special strings in a text read them as other text.

    The vocabulary of a Unigram or WordPiece model holds them, so the model itself would find them. A split behind the
    first character keeps it from that; all other text stays as it was.
    """
    model = rust.model
    if isinstance(model, tokenizers.models.BPE) and not model.ignore_merges:
        return  # merges make no special token
    pattern = "|".join(f"{re.escape(one[0])}(?={re.escape(one[1:])})" for one in contents if len(one) > 1)
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "merged_with_previous")
    before = rust.pre_tokenizer
    rust.pre_tokenizer = split if before is None else pre_tokenizers.Sequence([before, split])
