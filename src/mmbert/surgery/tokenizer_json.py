"""The tokens of a ``tokenizer.json``, and the same file with fewer of them, whatever its model is.

What depends on the model (BPE, Unigram, WordPiece) is in the modules of these names: which tokens a token needs beside
it, and how the model is written with fewer.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mmbert.errors import TokenizerError
from mmbert.io.stream import read_text
from mmbert.tokenizer.folder import read_config
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import Tokenizer

Json = dict[str, Any]

_RARE = 1000
"""A script with less than one in so many letters of a text is not one of its scripts."""

_OF_ALL_SCRIPTS = frozenset({"COMBINING", "MODIFIER", "VARIATION"})
"""How the names of letters and marks begin that go with any script."""


class TokenizerJson:
    """The tokens and ids of a ``tokenizer.json``; what is no token is kept unchanged.

    ``ids`` holds all tokens, ``added`` those that are found in a text before it is cut. Raises TokenizerError if the
    model is of another kind than the class, or has options that it cannot follow.
    """

    kind: ClassVar[str]
    """``type`` of the model in the file."""
    refused: ClassVar[tuple[str, ...]]
    """Keys of the model that must be absent, null or empty."""

    def __init__(self, content: str, origin: str, *, config: Json | None = None) -> None:
        """Read the text of a file. ``config``: as for :class:`Tokenizer`."""
        self.tokenizer = Tokenizer(content, origin, config=config)
        self._content: Json = json.loads(content)
        self._config = config
        model = self._content["model"]
        if model_kind(self._content) != self.kind:
            raise TokenizerError(
                f"{origin} is no {self.kind} but {model_kind(self._content)}: this is not supported for it"
            )
        for key in self.refused:
            if model.get(key):
                raise TokenizerError(f"{origin}: {key} is {model[key]!r}, which is not supported")
        self.added: dict[str, int] = {
            token["content"]: token["id"] for token in self._content.get("added_tokens") or []
        }
        self.ids: dict[str, int] = {**self._vocabulary(), **self.added}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load ``folder/tokenizer.json``. Raises TokenizerError if there is none."""
        path = find_tokenizer(folder)
        return cls(read_text(path), str(path), config=read_config(path))

    def _vocabulary(self) -> dict[str, int]:
        """Return token -> id of the model."""
        return dict(self._content["model"]["vocab"])

    def needs(self, token: str) -> set[int]:
        """Return the ids of a token and of those without which the model would not make it."""
        return {self.ids[token]}

    def look_at(self, text: str, ids: np.ndarray) -> None:
        """See a text that must be cut as before, and the ids that it is cut into. Most models need no more than ids."""

    def always(self) -> list[str]:
        """Return the tokens that are kept whatever the text: special, added and bytes, white space, ASCII."""
        bytes_, specials = set(self.tokenizer.byte_ids), self.tokenizer.specials.values()
        kept = [*self.added, *specials]
        for token, index in self.ids.items():
            if index in bytes_ or is_space(token) or self.character(token).isascii():
                kept.append(token)
        return kept

    def character(self, token: str) -> str:
        """Return the character that a token is; U+FFFF for any other token, and for none."""
        return token if len(token) == 1 else "\uffff"

    def beside(self, counts: np.ndarray, min_count: int) -> tuple[list[str], list[str]]:
        """Return tokens to keep beside those that the text is cut into: required ones, and others if there is room.

        Without byte fallback these are single characters, those of the text and others of its scripts: without them,
        new words would become <unk>.

        counts     (V,) how often each token occurs in the text
        min_count  how often a character must
        """
        if self.tokenizer.byte_ids:  # any character can be spelled
            return [], []
        letters: Counter[str] = Counter()
        for token, index in self.ids.items():
            if counts[index] and token not in self.added:
                for character in token:
                    letters[character] += int(counts[index])
        scripts: Counter[str] = Counter()
        for character, count in letters.items():
            scripts[_script(character)] += count
        del scripts[""]
        kept = {script for script, count in scripts.items() if count * _RARE >= scripts.total()}
        singles = {token: self.character(token) for token in self.ids if token not in self.added}
        seen = {token for token, character in singles.items() if letters[character] >= max(min_count, 1)}
        own = {token for token, character in singles.items() if _of_all(character) or _script(character) in kept}
        return sorted(seen, key=self.ids.__getitem__), sorted(own - seen, key=self.ids.__getitem__)

    def restricted(self, ids: Sequence[int]) -> str:
        """Return the ``tokenizer.json`` with the tokens of these ids only, which become 0, 1, 2, ... in this order.

        Ids elsewhere in the file (added tokens, template, padding) follow.
        """
        new = {old: index for index, old in enumerate(ids)}
        content = self._without_model()
        content["model"] = self._restricted_model(new)
        content["added_tokens"] = [
            {**token, "id": new[token["id"]]} for token in content.get("added_tokens") or [] if token["id"] in new
        ]
        content["post_processor"] = _with_ids(content.get("post_processor"), new)
        if content.get("padding"):
            content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
        written = json.dumps(content, ensure_ascii=False) + "\n"
        # Row i of the new embedding is the token with id i, so a gap would shift all rows behind it.
        made = Tokenizer(written, "the trimmed tokenizer", config=self._config)
        assert made.vocab_size == len(ids), "ids must be without gaps"
        return written

    def _restricted_model(self, new: Mapping[int, int]) -> Json:
        """Return the model of the tokens with an id in ``new``: old id -> new one."""
        raise NotImplementedError

    def _without_model(self) -> Json:
        return copy.deepcopy({key: value for key, value in self._content.items() if key != "model"})

    def _model_without(self, *keys: str) -> Json:
        return {key: value for key, value in self._content["model"].items() if key not in keys}


def model_kind(content: Any) -> str:
    """Return the ``type`` of the model of a ``tokenizer.json``; the oldest files do not say it, and have a BPE."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        return "none"
    return str(model.get("type") or ("BPE" if "merges" in model else "none"))


def find_tokenizer(folder: Path) -> Path:
    """Return ``folder/tokenizer.json``. Raises TokenizerError if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"no tokenizer.json in {folder}: put the model's tokenizer beside its weights")
    return path


def is_space(token: str) -> bool:
    """Return whether a token is only white space, as characters or as SentencePiece writes it."""
    return bool(token) and all(character == SPACE or character.isspace() for character in token)


def _script(character: str) -> str:
    """Return how the name of a letter, mark or digit begins: LATIN, CYRILLIC, CJK; empty for other characters."""
    if unicodedata.category(character)[0] not in "LMN":
        return ""
    return unicodedata.name(character, "").partition(" ")[0].partition("-")[0]


def _of_all(character: str) -> bool:
    """Return whether a character belongs to no script: punctuation, a symbol, a combining accent."""
    return unicodedata.category(character)[0] in "PS" or _script(character) in _OF_ALL_SCRIPTS


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
