"""Shards from token ids of other tools, such as the released training data, without tokenising again.

A released sample is ``<bos> ids <eos>`` of a whole document, or of a part of one, which then lacks the ``<eos>``. Ids
that stand for no text (``<bos> <eos> <pad>``) are removed, and separate the documents of a sample that holds several.
The language is that of the source or of the folder, since samples name none. A released set that mixes languages was
sampled by its published shares; with ``language: mul`` it stays one stream, drawn in its own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbert.data.shard import write_shard
from mmbert.data.sources.inputs import Input
from mmbert.data.sources.mds import MdsShard
from mmbert.data.sources.read import open_mds
from mmbert.errors import ConfigError, DataError
from mmbert.recipe import Source
from mmbert.tokenizer.tokenizer import Tokenizer

_SHARD = 2**30
"""Bytes of MDS, unpacked, that become one shard: about 1 GiB of ids."""
_ENOUGH = 16
"""If so many samples or more all begin with one id, it is taken for the <bos> of the tokenizer that made them."""


class ShardInputs(NamedTuple):
    """The consecutive files of one language that become one shard."""

    language: str
    number: int
    inputs: tuple[Input, ...]
    last: bool
    """No other follows in its stream."""


def holds_ids(source_name: str, source: Source, inputs: list[Input]) -> bool:
    """Return whether the files hold token ids. Raises DataError for neither ids nor text, ConfigError for options."""
    kinds = {_kind(source_name, source, file) for file in inputs}
    # Mixed folders are refused: text is held out and tokenised, ids are neither, so one source cannot do both.
    if kinds != {"ids"}:
        if "ids" in kinds:
            raise DataError(
                f"sources.{source_name} has both text and token ids ({inputs[0].path}, ...): make two sources of it"
            )
        return False
    if source.heldout is not None:
        raise ConfigError(f"sources.{source_name}.heldout: token ids cannot be held out, only text")
    if source.language_field is not None:
        raise ConfigError(
            f"sources.{source_name}.language_field: token ids are of one language a folder: set language instead "
            "(mul for a mixture)"
        )
    return True


def _kind(source_name: str, source: Source, file: Input) -> str:
    if file.shard is None:
        return "text"
    names = file.shard["column_names"]
    if source.text_field in names:
        return "text"
    if source.ids_field in names:
        return "ids"
    raise DataError(
        f"{file.path} has neither column {source.text_field!r} nor {source.ids_field!r}, there are "
        f"{', '.join(map(repr, names))}: set sources.{source_name}.text_field or .ids_field"
    )


def shard_inputs(inputs: list[Input]) -> list[ShardInputs]:
    """Group files, sorted by language and name, into those of one shard each. A pure function of its arguments."""
    grouped = []
    for language, files in groupby(inputs, key=lambda file: file.language or ""):
        groups: list[list[Input]] = [[]]
        size = 0
        for file in files:
            assert file.shard is not None, "token ids stand in shards with an index"
            size += file.shard["raw_data"]["bytes"]
            # By the sizes in the index, without opening a file: how shards are divided depends on nothing but the list.
            groups[-1].append(file)
            if size >= _SHARD:
                groups.append([])
                size = 0
        groups = [group for group in groups if group]
        grouped += [
            ShardInputs(language, number, tuple(group), number == len(groups) - 1)
            for number, group in enumerate(groups)
        ]
    return grouped


class IdReader:
    """Reads documents as ids of ``tokenizer`` from samples. Raises DataError naming file and sample for foreign ids."""

    def __init__(self, source: Source, tokenizer: Tokenizer) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._ends = np.array([tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id], dtype=np.uint32)

    def write(self, part: ShardInputs, place: Path, info: dict[str, Any]) -> None:
        """Write the shard of a part, ``place/00000.tokens`` by its number."""
        documents: list[NDArray[np.uint32]] = []
        size = characters = 0
        for file in part.inputs:
            for ids in self.documents(open_mds(file)):
                documents.append(ids)
                size += int(self._bytes[ids].sum())
                characters += int(self._characters[ids].sum())
        if not documents:
            raise DataError(f"{part.inputs[0].path} and what follows it hold no token: leave them out of the source")
        info = {**info, "characters": characters, "bytes": size, "last": part.last}
        write_shard(place / f"{part.number:05d}.tokens", documents, info)

    def documents(self, shard: MdsShard) -> Iterator[NDArray[np.uint32]]:
        """Yield the documents of one MDS shard in order, without <bos> and <eos>."""
        first: set[int] = set()
        field = self._source.ids_field
        for number, row in enumerate(shard.rows([field])):
            ids = self._checked(row[field], f"{shard.path}, sample {number}")
            if len(ids):
                # The only trace that another tokenizer leaves: its <bos> is an ordinary token here, the same in every
                # sample.
                first.add(int(ids[0]))
            yield from self._documents_of(ids)
        # A few samples may begin alike by chance; many do not.
        if len(shard) >= _ENOUGH and len(first) == 1 and first.isdisjoint(self._ends.tolist()):
            raise DataError(
                f"{shard.path}: every sample begins with {(index := first.pop())}, which is no <bos> but "
                f"{self._tokenizer.id_to_token(index)!r} in {self._tokenizer.origin}: another tokenizer made them"
            )

    def _checked(self, ids: Any, where: str) -> NDArray[np.uint32]:
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(f"{where}: {self._source.ids_field!r} is no row of whole numbers, so no token ids")
        limit = self._tokenizer.vocab_size
        if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < limit):
            wrong = ids[(ids < 0) | (ids >= limit)][0]
            raise DataError(
                f"{where}: id {wrong} is not in the vocabulary of {self._tokenizer.origin} (0 to {limit - 1}): "
                "another tokenizer made it"
            )
        # Checked before the cast: a negative id would wrap around to a large, possibly valid one.
        return ids.astype(np.uint32)

    def _documents_of(self, ids: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
        """Yield the runs between special ids, each of which is (a part of) one document."""
        # Two special ids side by side (<eos> <bos>) enclose nothing, and nothing is yielded for them.
        bounds = np.flatnonzero(np.isin(ids, self._ends))
        start = 0
        for end in (*bounds.tolist(), len(ids)):
            if end > start:
                yield ids[start:end]
            start = end + 1

    @cached_property
    def _bytes(self) -> NDArray[np.int64]:
        return self._tokenizer.token_bytes()

    @cached_property
    def _characters(self) -> NDArray[np.int64]:
        """Return the characters that begin in each token (V,). A character in bytes counts at its first byte."""
        counts = self._bytes.copy()
        for index in np.flatnonzero(counts > 1).tolist():
            counts[index] = min(counts[index], len(self._tokenizer.id_to_token(index) or ""))
        # UTF-8: 0x80 to 0xBF continue a character, so only the other bytes begin one.
        for index, byte in self._tokenizer.byte_tokens.items():
            counts[index] = not 0x80 <= byte < 0xC0
        return counts
