"""The byte-pair encoding in a ``tokenizer.json``: token dependencies, and the same file with fewer or more tokens.

How it encodes a word: start from characters (those that are no token: their bytes), and while any neighbours form a
merge of the list, join the earliest listed one, leftmost first. Two facts follow, on which trimming and extending rest:

1. Inside the span of a token of the result nothing outside mattered: no merge crossed its ends. So the token was made
   by the very merges that encode its own text, and these make the same intermediate tokens everywhere: its *path*.
2. A merge that a run never applied can be removed without changing that run: at every step the earliest merge that can
   be applied is still the earliest of fewer. So a text whose tokens and their paths are all kept is cut as before,
   whatever other merges are gone.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmbert.errors import TokenizerError
from mmbert.io.stream import read_text
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import BYTE, Tokenizer

Json = dict[str, Any]


class Bpe:
    """The tokens, ids and merges of a ``tokenizer.json``; the rest of the file is kept unchanged.

    ``ids`` holds all tokens, ``added`` those that are found in a text before it is cut. Raises TokenizerError if the
    model is no plain BPE.
    """

    def __init__(self, content: str, origin: str) -> None:
        self.tokenizer = Tokenizer(content, origin)
        self._content: Json = json.loads(content)
        model = self._content["model"]
        # Both facts above are proved for plain BPE only. Dropout or affixes would make the encoding of a token's own
        # text
        # differ from its encoding inside a word.
        if model.get("type", "BPE") != "BPE" or "merges" not in model:
            raise TokenizerError(f"{origin} is no BPE ({model.get('type')}): its vocabulary cannot be changed")
        for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(key):
                raise TokenizerError(f"{origin}: {key} is {model[key]!r}, which is not supported")
        self.added: dict[str, int] = {
            token["content"]: token["id"] for token in self._content.get("added_tokens") or []
        }
        self.ids: dict[str, int] = {**model["vocab"], **self.added}
        self.merges: list[tuple[str, str]] = [_pair(merge) for merge in model["merges"]]
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}

    @classmethod
    def load(cls, folder: Path) -> Bpe:
        """Load ``folder/tokenizer.json``. Raises TokenizerError if there is none."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"no tokenizer.json in {folder}: put the model's tokenizer beside its weights")
        return cls(read_text(path), str(path))

    def path(self, token: str) -> set[str]:
        """Return the token and all intermediate tokens of its merges; the token alone if no merges make it."""
        # Quadratic in the length of a token, which is short.
        parts, seen = list(token), {token, *token}
        while len(parts) > 1:
            ranks = [self._rank.get(pair, len(self._rank)) for pair in pairwise(parts)]
            rank = min(ranks)  # the earliest merge of the list is applied first, as the library does
            if rank == len(self._rank):
                return {token}
            place = ranks.index(rank)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            seen.add(parts[place])
        return seen

    def restricted(self, ids: Sequence[int]) -> str:
        """Return the ``tokenizer.json`` with the tokens of these ids only, which become 0, 1, 2, ... in this order.

        Every merge stays whose parts and product stay. Ids elsewhere in the file (added tokens, template, padding)
        follow.
        """
        new = {old: index for index, old in enumerate(ids)}
        tokens = {token: new[index] for token, index in self.ids.items() if index in new}
        # Removing a merge that a text never applies does not change how the text is split (fact 2 above).
        merges = [pair for pair in self.merges if all(part in tokens for part in (*pair, "".join(pair)))]
        content = self._rebuilt(tokens, merges)
        content["added_tokens"] = [
            {**token, "id": new[token["id"]]} for token in content.get("added_tokens") or [] if token["id"] in new
        ]
        content["post_processor"] = _with_ids(content.get("post_processor"), new)
        if content.get("padding"):
            content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
        return json.dumps(content, ensure_ascii=False) + "\n"

    def extended(self, tokens: Sequence[str], merges: Iterable[tuple[str, str]]) -> str:
        """Return the ``tokenizer.json`` with more tokens, under the next ids, and more merges, after the others."""
        known = dict(self.ids)
        first = max(known.values()) + 1
        known.update({token: first + number for number, token in enumerate(tokens)})
        # New merges come last: a text is first split as before, and then its tokens are joined further.
        content = self._rebuilt(known, [*self.merges, *merges])
        return json.dumps(content, ensure_ascii=False) + "\n"

    def _rebuilt(self, tokens: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Json:
        """Return the file with another vocabulary, added tokens included: the library would renumber them otherwise."""
        content = copy.deepcopy({key: value for key, value in self._content.items() if key != "model"})
        model = {key: value for key, value in self._content["model"].items() if key not in ("vocab", "merges")}
        model["vocab"] = dict(sorted(tokens.items(), key=lambda item: item[1]))
        model["merges"] = [list(pair) for pair in merges]
        content["model"] = model
        return content


def is_space(token: str) -> bool:
    """Return whether a token is only white space, as characters or as SentencePiece writes it."""
    return bool(token) and all(character == SPACE or character.isspace() for character in token)


def is_wordlike(token: str) -> bool:
    """Return whether a token is letters, marks and joiners after at most one space (or that space alone)."""
    body = token[1:] if token[:1] in (SPACE, " ") else token
    if BYTE.fullmatch(token) or not token:
        return False
    return all(unicodedata.category(character)[0] in "LM" or character in "\u200c\u200d" for character in body)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Return a merge in either of its JSON forms: ``"a b"`` (old) or ``["a", "b"]`` (new)."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _with_ids(value: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor of any kind with the ids of its special tokens replaced."""
    if isinstance(value, list):
        return [_with_ids(item, new) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _with_ids(inner, new) for key, inner in value.items()}
    if isinstance(value.get("ids"), list):  # TemplateProcessing
        changed["ids"] = [new[index] for index in value["ids"]]
    for key in ("sep", "cls"):  # BertProcessing, RobertaProcessing
        if isinstance(value.get(key), list) and len(value[key]) == 2:
            changed[key] = [value[key][0], new[value[key][1]]]
    return changed
