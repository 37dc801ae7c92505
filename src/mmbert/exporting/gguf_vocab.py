"""A tokenizer as the vocabulary of a GGUF file, and the ids that llama.cpp makes with it.

llama.cpp has two vocabularies of byte fallback and spaces written as ``▁``, neither with a normalizer or a regular
expression of one's own:

- ``gemma4`` applies merges by rank, as we do, to the text between line breaks.
- ``llama`` joins the neighbours whose joined token has the best score, whatever its parts, and can put a space before a
  text. It gives the same ids where the merges are SentencePiece's: all splits of a token into two tokens are merges,
  and stand side by side in the list. (Gemma 2's are, those of trained BPE are not.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from mmbert.errors import ConfigError
from mmbert.surgery.bpe import Bpe
from mmbert.surgery.tokenizer_json import is_space
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in GGUF."""

_PROBE = "A\u0301 B\u00e9  c\t\ufb01\u2460\n\u0130 x"
"""Text that a normalizer of Unicode, case or white space changes."""

_LOWEST = -1e9
"""Score of tokens that nothing is joined to."""

Merges = Sequence[tuple[str, str]]


def vocabulary(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """Return the metadata ``tokenizer.ggml.*`` of a tokenizer, for a model with ``size`` rows of embeddings.

    Raises ConfigError for a tokenizer that llama.cpp's vocabularies cannot express.
    """
    _check_form(tokenizer)
    bpe = Bpe(tokenizer.written.to_str(), tokenizer.origin)
    spaced = SPACE in tokenizer.normalise(" ") or tokenizer.puts_space
    prefix = tokenizer.puts_space
    written = {token: token if spaced or token in bpe.added else token.replace(" ", SPACE) for token in bpe.ids}
    merges = _possible(tokenizer, bpe.merges)
    if not spaced:  # ▁ in a text is read as a space, so that a token with a true ▁ is out of reach
        merges = [pair for pair in merges if SPACE not in pair[0] + pair[1]]
        written |= {token: "" for token in bpe.ids if SPACE in token and token not in bpe.added}
        merges = [(left.replace(" ", SPACE), right.replace(" ", SPACE)) for left, right in merges]
    if prefix:
        made = {left + right for left, right in merges}
        known = made | {token for token in bpe.added if SPACE not in token}
        known |= {tokenizer.id_to_token(index) or "" for index in tokenizer.byte_tokens}
        # No text gives the others, such as "▁▁", but llama.cpp would join their parts: it must not find them.
        written |= {token: "" for token in bpe.ids if len(token) > 1 and token not in known}
        _check_scores(tokenizer.origin, {*filter(None, written.values())}, merges, bpe.added)
    tokens, types = _listed(tokenizer, bpe, written, size)
    metadata = {
        "model": "llama" if prefix else "gemma4",
        "tokens": tokens,
        "token_type": types,
        **{f"{name}_token_id": getattr(tokenizer, f"{role}_id") for name, role in _ROLES.items()},
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": False,
        "add_space_prefix": prefix,
        **({"scores": _scores(tokens, merges)} if prefix else {"merges": [" ".join(pair) for pair in merges]}),
    }
    if not prefix:
        metadata["pre"] = "gemma4"
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


_ROLES = {"bos": "bos", "eos": "eos", "seperator": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}
"""GGUF's names of special tokens (one is misspelled there); <eos> also stands between two texts."""


def read_ids(metadata: Mapping[str, Any], texts: Sequence[str]) -> list[list[int]]:
    """Return the ids that llama.cpp gives for texts by a vocabulary, without the special tokens around them."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens, types = values["tokens"], values["token_type"]
    merges = _from_scores(tokens, values["scores"]) if "scores" in values else _from_lines(values["merges"])
    vocab = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab, merges, unk_token=tokens[values["unknown_token_id"]], byte_fallback=True)
    rust = tokenizers.Tokenizer(model)
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    whole = {index for index, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED, UNKNOWN)}
    if values["add_space_prefix"]:
        steps.append(normalizers.Prepend(SPACE))
    else:
        rust.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[^\n]+|\n+"), "isolated")
        whole |= {index for index, token in enumerate(tokens) if not token.strip("\n")}  # a run of them is looked up
    rust.normalizer = normalizers.Sequence(steps)
    rust.add_tokens([AddedToken(tokens[index], normalized=False) for index in sorted(whole)])
    return [encoding.ids for encoding in rust.encode_batch_fast(list(texts), add_special_tokens=False)]


def _from_lines(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return merges from "left right": the separator is the first space behind the first character."""
    return [(line[: (at := line.index(" ", 1))], line[at + 1 :]) for line in lines]


def _from_scores(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return every pair of a vocabulary whose joined text is a token too, those of the best score first."""
    known = {*tokens}
    order = sorted((index for index, token in enumerate(tokens) if len(token) > 1), key=lambda index: -scores[index])
    pairs = ((tokens[index][:at], tokens[index][at:]) for index in order for at in range(1, len(tokens[index])))
    return [pair for pair in pairs if pair[0] in known and pair[1] in known]


def _check_form(tokenizer: Tokenizer) -> None:
    """Raise ConfigError for what llama.cpp has no counterpart of."""
    model, reason = tokenizer.written.model, ""
    if not isinstance(model, models.BPE):
        reason = "is no BPE"
    elif not tokenizer.byte_tokens:
        reason = "has no byte fallback"
    elif model.ignore_merges:
        reason = "has ignore_merges"
    elif tokenizer.normalise(_PROBE) not in (_PROBE, _PROBE.replace(" ", SPACE)):
        reason = "has a normalizer that changes more than spaces"
    if reason:
        raise ConfigError(
            f"{tokenizer.origin} {reason}: no vocabulary of llama.cpp gives its ids; export --format onnx instead"
        )


def _possible(tokenizer: Tokenizer, merges: Merges) -> list[tuple[str, str]]:
    """Return the merges without those that the pre-tokenizer prevents; white space last where it splits words.

    Words that are split apart have one space at most, at their beginning, so a merge of white space alone meets no
    merge of letters. Without the splitting it does: "a   b" must give "a", "  ", " b", so " b" has to come first.
    """
    splitter = tokenizer.written.pre_tokenizer
    if splitter is None:
        return list(merges)

    def pieces(text: str) -> int:
        return len(splitter.pre_tokenize_str(tokenizer.normalise(text)))

    kept = [pair for pair in merges if _plain(pair) or pieces(pair[0] + pair[1]) == 1]
    if pieces("a b") == 1:
        return kept
    return [pair for pair in kept if not _blank(pair)] + [pair for pair in kept if _blank(pair)]


def _plain(pair: tuple[str, str]) -> bool:
    """Return whether a merge is of letters alone, after at most one space: no pre-tokenizer of words prevents it."""
    return (pair[0][1:] + pair[1]).isalpha() and (pair[0][0].isalpha() or pair[0][0] in (" ", SPACE))


def _blank(pair: tuple[str, str]) -> bool:
    return is_space(pair[0] + pair[1])


def _check_scores(origin: str, tokens: set[str], merges: Merges, added: Iterable[str]) -> None:
    """Raise ConfigError unless joining by score is the same as merging by rank."""
    known, skipped = {*merges}, {*added}
    for token in tokens - skipped:
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            parts = all(len(part) == 1 or part in tokens for part in (left, right))
            if parts and (left, right) not in known:
                raise ConfigError(_by_score(origin, f"{left!r} + {right!r} is not one of them"))
    done, current = set(), ""
    for left, right in merges:
        if (token := left + right) != current and token not in skipped:
            if token in done:
                raise ConfigError(_by_score(origin, f"those of {token!r} do not stand side by side"))
            done.add(token)
            current = token


def _by_score(origin: str, reason: str) -> str:
    return (
        f"{origin} puts a space before every text, which llama.cpp only does with SentencePiece's scores, and these "
        f"cannot say its merges ({reason}): export --format onnx instead"
    )


def _listed(tokenizer: Tokenizer, bpe: Bpe, written: Mapping[str, str], size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every row of the embeddings; those without a token and those out of reach get a name."""
    tokens, types = [f"<unreachable {index}>" for index in range(size)], [UNUSED] * size
    for token, index in bpe.ids.items():
        if not written[token]:
            continue
        tokens[index] = written[token]
        if index == tokenizer.unk_id:
            types[index] = UNKNOWN
        elif index in tokenizer.special_ids:
            types[index] = CONTROL
        elif index in tokenizer.byte_tokens:
            types[index] = BYTE
        else:
            types[index] = USER_DEFINED if token in bpe.added else NORMAL
    (twice, count), *_ = Counter(tokens).most_common(1)
    if count > 1:
        raise ConfigError(f"{tokenizer.origin} has two tokens that are {twice!r} to llama.cpp, which needs one of each")
    return tokens, types


def _scores(tokens: Sequence[str], merges: Merges) -> list[float]:
    """Return for each token minus the rank of the first merge that makes it."""
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
    return [-float(first[token]) if token in first else _LOWEST for token in tokens]


def has_mask(text: str) -> bool:
    """Return whether a text has a special string. llama.cpp keeps the space before ``<mask>``, or reads it as text."""
    return re.search(r"<(pad|eos|bos|unk|mask)>", text) is not None
