"""Rewrite a model folder for another vocabulary: rows of the embedding are selected, reordered or added.

The matrices with one row for each token are the token embedding and, in a masked language model, the decoder with its
bias; the models are ModernBERT, BERT, RoBERTa and XLM-RoBERTa. These matrices are read and written in chunks, so that
memory does not grow with the model. All other tensors are copied. Folders of sentence-transformers keep their modules
(pooling, dense layers). Files that are made from the old weights or contain old ids are not copied: ONNX files, a
SentencePiece model, other copies of the weights.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbert.errors import MMBertError, TokenizerError, WeightsError
from mmbert.files import atomic_folder, read_json, write_json, write_text
from mmbert.model.folder import read_config, read_modules, read_object
from mmbert.model.mapped import TensorInfo
from mmbert.model.weights import TIED, WEIGHTS, model_folder, tensor_writer
from mmbert.surgery.bpe import Bpe
from mmbert.surgery.tensor_files import TensorFile
from mmbert.surgery.tokenizer_json import TokenizerJson, find_tokenizer, model_kind
from mmbert.surgery.unigram import Unigram
from mmbert.surgery.wordpiece import WordPiece

Row = int | tuple[int, ...]
"""A new row: an old one, or the mean of several."""

CHUNK = 1 << 18
"""Entries of a tensor in memory at once."""

_KINDS = ("modernbert", "bert", "roberta", "xlm-roberta")
"""``model_type`` of the models that can be changed."""

_COUNT_FROM_PAD = ("roberta", "xlm-roberta")
"""Those whose first position is the id of <pad> and one."""

_EMBEDDINGS = ("embeddings.tok_embeddings.weight", "embeddings.word_embeddings.weight")
_PER_TOKEN = (*_EMBEDDINGS, TIED, "decoder.bias", "predictions.bias", "lm_head.bias")
"""Ends of the names of tensors with a row a token."""

_STALE = {
    "tokenizer.json", "vocab.json", "model.safetensors.index.json", "pytorch_model.bin.index.json", "modules.json",
}  # fmt: skip
"""JSON files that would be wrong in the new folder, or are written by other means."""

_HOLDS_IDS = re.compile(r"(^|_)token_(ids?|index)$|^(begin_)?suppress_tokens$|^(bad|force)_words_ids$")
"""Keys whose values are token ids: one, a list, or a list of sequences."""

_HOLDS_BOTH = {"forced_decoder_ids", "sequence_bias"}
"""Keys of text generation that mix token ids with other numbers; no encoder has a use for them."""


@dataclass(frozen=True)
class Size:
    """The size of a model."""

    tokens: int
    """Rows of the token embedding."""
    parameters: int
    """Weights, a tied decoder counted once."""
    embedding: int
    """Those of the token embedding."""
    file_bytes: int
    """Of the weights on disk."""

    @property
    def memory_bytes(self) -> int:
        """Return the size of the weights in float32."""
        return 4 * self.parameters

    @property
    def logits_bytes(self) -> int:
        """Return the size of one token's logits in float32."""
        return 4 * self.tokens


class ModelFolder:
    """A saved model: a plain folder, or a sentence-transformers folder with modules around the encoder."""

    def __init__(self, root: Path) -> None:
        """Look into a folder. Raises WeightsError if there is no model."""
        self.root = root
        self.modules: list[str] = []
        inner = ""
        for name, place in read_modules(root):
            # sentence-transformers names modules by class: only this one has token ids, all others work on vectors.
            if name.endswith(".Transformer"):
                inner = place
            elif place and (root / place).is_dir():  # modules without settings have no folder
                self.modules.append(place)
        self.inner = inner
        """The encoder's folder within the root; empty if it is the root."""
        self.encoder = root / inner
        self._config = read_config(self.encoder)

    def config(self) -> dict[str, Any]:
        """Return the encoder's ``config.json``, a copy that may be changed."""
        return dict(self._config)

    def token_names(self) -> set[str]:
        """Return the tokens that the files beside ``tokenizer.json`` name.

        A reader adds one that ``tokenizer.json`` lacks, with an id for which the embedding has no row.
        """
        names: set[str] = set()
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            path = self.encoder / name
            values = read_json(path) if path.is_file() else {}
            if name == "added_tokens.json":
                names.update(values)
                continue
            for key, value in values.items():
                if key.endswith("_token") or key in ("additional_special_tokens", "extra_special_tokens"):
                    names.update(_strings(value))
        return names

    def prompts(self) -> list[str]:
        """Return the prompts of sentence-transformers, which stand before texts."""
        path = self.root / "config_sentence_transformers.json"
        stated = read_object(path).get("prompts")
        return [text for text in stated.values() if isinstance(text, str) and text] if isinstance(stated, dict) else []

    def fixed_ids(self) -> range:
        """Return the first ids, whose tokens must keep them; empty for most models."""
        # With another id of <pad>, all positions would be shifted.
        pad = self._config.get("pad_token_id", 1) if self._config.get("model_type") in _COUNT_FROM_PAD else None
        return range(0 if pad is None else pad + 1)

    def rows(self) -> int:
        """Return the rows of the token embedding; there may be more rows than tokens."""
        with TensorFile(self.encoder) as file:
            return _embedding(file).shape[0]


def open_vocabulary(model: str | Path) -> tuple[ModelFolder, TokenizerJson]:
    """Return the folder of a model (or hub name) and its tokenizer.

    Raises WeightsError and TokenizerError for one whose vocabulary cannot be changed.
    """
    source = ModelFolder(model_folder(model))
    kind = source.config().get("model_type")
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise WeightsError(f"{source.encoder}: model_type is {kind}: only the tokens of {known} can be changed")
    words = _read_tokenizer(source.encoder)
    tokens, rows = words.tokenizer.vocab_size, source.rows()
    if tokens > rows:
        raise WeightsError(f"{source.encoder}: the tokenizer has {tokens} tokens, the embedding {rows} rows")
    return source, words


def _read_tokenizer(folder: Path) -> TokenizerJson:
    """Return the tokens of a folder's ``tokenizer.json`` by the kind of its model. Raises TokenizerError."""
    kinds: dict[str, type[TokenizerJson]] = {kind.kind: kind for kind in (Bpe, Unigram, WordPiece)}
    path = find_tokenizer(folder)
    try:
        kind = model_kind(read_json(path))
    except MMBertError as error:
        raise TokenizerError(str(error)) from error
    if kind not in kinds:
        raise TokenizerError(f"{path} has a model of the kind {kind}: only {', '.join(kinds)} can be changed")
    return kinds[kind].load(folder)


def rewrite(source: ModelFolder, out: Path, tokenizer: str, rows: Sequence[Row]) -> tuple[Size, Size]:
    """Write ``source`` to the folder ``out`` with this ``tokenizer.json`` and one row for each of ``rows``.

    Ids in the JSON files follow: an old id becomes the place in ``rows`` where it stands, and is left out if it stands
    nowhere. Returns the sizes before and after. Raises WeightsError if ``out`` is the source or the weights have no
    token embedding.
    """
    if out.resolve() == source.root.resolve():
        raise WeightsError(f"{out} is the model itself: give another folder for the result")
    # Only old tokens have an old id; new ones (tuples of rows) are not mentioned in any JSON file.
    new_ids = {row: index for index, row in enumerate(rows) if isinstance(row, int)}
    with atomic_folder(out) as folder, TensorFile(source.encoder) as file:
        for module in source.modules:
            shutil.copytree(source.root / module, folder / module)
            # Ids in a module's settings follow too; a file that holds none stays as it is, byte by byte.
            for path in (folder / module).rglob("*.json"):
                _copy_json(path, path, new_ids)
        (folder / source.inner).mkdir(parents=True, exist_ok=True)
        if (source.root / "modules.json").is_file():
            shutil.copyfile(source.root / "modules.json", folder / "modules.json")
        # Settings of sentence-transformers stand at the root, those of the encoder in its own folder.
        for part in {"", source.inner}:  # a set: in a plain folder both are the root
            _copy_side_files(source.root / part, folder / part, new_ids, len(rows))
        # A stored decoder that is a copy of the token embedding need not be stored.
        tied = bool(source.config().get("tie_word_embeddings", True))
        _write_weights(file, folder / source.inner / WEIGHTS, rows, tied=tied)
        write_text(folder / source.inner / "tokenizer.json", tokenizer)
        before = _size(file, tied=tied)
        with TensorFile(folder / source.inner) as written:
            return before, _size(written, tied=tied)


def _write_weights(file: TensorFile, path: Path, rows: Sequence[Row], *, tied: bool) -> None:
    old = _embedding(file).shape[0]
    tensors = []
    for info in file.tensors.values():
        if tied and info.name.endswith(TIED):
            continue
        if info.name.endswith(_PER_TOKEN):
            # Embedding, decoder and its bias must all have one row for each token, or rows would be mixed up.
            if info.shape[0] != old:
                raise WeightsError(f"{file.folder}: {info.name} has {info.shape[0]} rows, the token embedding {old}")
            info = replace(info, shape=(len(rows), *info.shape[1:]))
        tensors.append(info)
    tensors.sort(key=lambda info: (-info.dtype.itemsize, info.name))  # wide types first: every tensor is aligned
    with tensor_writer(path, tensors) as write:
        for info in tensors:
            if info.name.endswith(_PER_TOKEN):
                for chunk in _gather(file, info, rows):
                    write(chunk)
            else:
                for start in range(0, info.numel, CHUNK):
                    write(file.read(info.name, start, min(start + CHUNK, info.numel)))


def _gather(file: TensorFile, info: TensorInfo, rows: Sequence[Row]) -> Iterator[Tensor]:
    """Yield the new rows of a tensor, flattened; neighbouring rows are read at once."""
    width = info.numel // info.shape[0]
    longest = max(1, CHUNK // width)
    start = 0
    while start < len(rows):
        row = rows[start]
        if not isinstance(row, int):  # a new token begins as the mean of the tokens that it replaces
            parts = torch.stack([file.read(info.name, part * width, (part + 1) * width) for part in row])
            # In fp32: a mean in bf16 would lose bits with every part.
            yield parts.float().mean(0).to(info.dtype)
            start += 1
            continue
        stop = start + 1
        # Rows that follow each other in both vocabularies are one read, at most CHUNK entries long.
        while stop < len(rows) and stop - start < longest and rows[stop] == row + stop - start:
            stop += 1
        yield file.read(info.name, row * width, (row + stop - start) * width)
        start = stop


def _copy_side_files(source: Path, target: Path, new_ids: dict[int, int], tokens: int) -> None:
    """Copy the small files of a folder, with the token ids in them renumbered."""
    edits: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "config.json": lambda values: {**values, "vocab_size": tokens} if "vocab_size" in values else values,
        "added_tokens.json": lambda values: {key: new_ids[i] for key, i in values.items() if i in new_ids},
        "tokenizer_config.json": lambda values: _tokenizer_config(values, new_ids),
    }
    for path in sorted(source.iterdir()):
        if not path.is_file():
            continue
        if path.name in _STALE:
            continue
        if path.suffix == ".json":
            _copy_json(path, target / path.name, new_ids, edits.get(path.name))
        elif path.suffix in (".md", ".jinja") or path.stem == "LICENSE":
            shutil.copyfile(path, target / path.name)


def _copy_json(path: Path, target: Path, new_ids: Mapping[int, int], edit: Callable[[Any], Any] | None = None) -> None:
    """Copy a JSON file with the ids in it renumbered; byte by byte if there are none."""
    values = read_json(path)
    changed = renumbered(values if edit is None else edit(values), new_ids)
    if changed != values:
        write_json(target, changed)
    elif target != path:
        shutil.copyfile(path, target)


def renumbered(value: Any, new_ids: Mapping[int, int]) -> Any:
    """Return the JSON of a configuration with the token ids in it renumbered, at any depth.

    An id whose token is gone becomes null, or leaves its list; an empty list becomes null. A sequence of tokens leaves
    its list with any of them.
    """
    if isinstance(value, list):
        return [renumbered(item, new_ids) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {}
    for key, inner in value.items():
        if _HOLDS_IDS.search(key):  # by the name of the key: numbers alone do not tell ids from other settings
            changed[key] = _new_id(inner, new_ids)
        else:
            changed[key] = None if key in _HOLDS_BOTH else renumbered(inner, new_ids)
    return changed


def _new_id(value: Any, new_ids: Mapping[int, int]) -> Any:
    """Return the new ids for one id, a list of ids, or a list of sequences; None if nothing is left."""
    if isinstance(value, list):
        sequences = [item for item in value if not isinstance(item, list) or all(i in new_ids for i in item)]
        return [new for item in sequences if (new := _new_id(item, new_ids)) is not None] or None
    # bool is an int in Python: true must not be read as token 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    # Some writers store ids as 3.0; 3.5 is no id at all.
    return new_ids.get(int(value)) if value == int(value) else None


def _tokenizer_config(values: dict[str, Any], new_ids: dict[int, int]) -> dict[str, Any]:
    decoder = values.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return values
    kept = {str(new_ids[int(index)]): token for index, token in decoder.items() if int(index) in new_ids}
    return {**values, "added_tokens_decoder": kept}


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _embedding(file: TensorFile) -> TensorInfo:
    for name, info in file.tensors.items():
        if name.endswith(_EMBEDDINGS):
            return info
    raise WeightsError(f"no token embedding in the weights of {file.folder}: its config.json is that of another model")


def _size(file: TensorFile, *, tied: bool) -> Size:
    embedding = _embedding(file)
    # A stored copy of a tied matrix is one matrix for the model, but two on disk.
    counted = [info for info in file.tensors.values() if not (tied and info.name.endswith(TIED))]
    return Size(
        tokens=embedding.shape[0],
        parameters=sum(info.numel for info in counted),
        embedding=embedding.numel,
        file_bytes=sum(
            (file.folder / name).stat().st_size for name in {info.path.name for info in file.tensors.values()}
        ),
    )
