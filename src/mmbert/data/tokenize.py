"""The second stage of preparation: prepared text to shards of token ids, stream by stream."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbert.data import manifest as manifests
from mmbert.data.document import Document
from mmbert.data.ids import IdReader, shard_inputs
from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.shard import MAX_TOKENS, Shard, ShardWriter
from mmbert.data.sources.hub_datasets import restore
from mmbert.data.sources.inputs import Input
from mmbert.data.store import DocumentCounts, Report, read_complete, read_texts
from mmbert.errors import TokenizerError
from mmbert.log import progress
from mmbert.recipe import Recipe, Source
from mmbert.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 4 << 20


def check_shards_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises TokenizerError if ``folder/shards`` were made by another tokenizer; without any, all is well."""
    shards = folder / "shards"
    if (shards / manifests.FILE).is_file():
        Manifest.read(shards).check_tokenizer(tokenizer.fingerprint, f"the shards in {shards}")


def prepare_shards(recipe: Recipe, folder: Path, tokenizer: Tokenizer, *, max_tokens: int = MAX_TOKENS) -> Manifest:
    """Tokenise ``folder/text`` into ``folder/shards``; returns the manifest, which is written last.

    Raises TokenizerError if shards of another tokenizer are there, DataError if one of them is cut short.
    """
    shards = folder / "shards"
    check_shards_tokenizer(folder, tokenizer)
    sources = {name: source for name, source in Report.load(folder).sources.items() if name in recipe.sources}
    infos = {
        name: {"source": name, "tokenizer": tokenizer.fingerprint, "text": source.fingerprint}
        for name, source in sources.items()
    }
    streams: dict[str, list[StreamInfo]] = {name: [] for name in sources}
    size = sum(counts.characters for source in sources.values() for counts in source.languages.values())
    bar: progress[None] = progress(total=size, desc="tokenising", unit="char")
    with bar:
        for name, source in sources.items():
            for language, counts in source.languages.items():
                if counts.documents:
                    info = {**infos[name], "language": language}
                    streams[name].append(finish_stream(folder, tokenizer, info, counts, max_tokens, bar.update))
    for name, info in infos.items():
        streams[name] += _id_streams(recipe.sources[name], folder, tokenizer, info)
    manifest = Manifest(
        tokenizer=tokenizer.fingerprint, streams=tuple(stream for found in streams.values() for stream in found)
    )
    path = shards / manifests.FILE
    if not path.is_file() or Manifest.read(shards) != manifest:
        manifest.save(shards)
    return manifest


def source_ids(source: Source, folder: Path, name: str) -> list[Input]:
    """Return the files of a prepared source of token ids; none for a source of text."""
    return [restore(source, record) for record in read_complete(folder, name).get("ids", ())]


def _id_streams(source: Source, folder: Path, tokenizer: Tokenizer, info: dict[str, Any]) -> Iterator[StreamInfo]:
    """Finish the streams of a source of token ids."""
    found = shard_inputs(source_ids(source, folder, info["source"]))
    reader = IdReader(source, tokenizer)
    if not found:
        return
    bar: progress[None] = progress(total=len(found), desc=f"copying {info['source']}", unit="shard")
    with bar:
        for language, group in groupby(found, key=lambda part: part.language):
            stream = {**info, "language": language}
            place = folder / "shards" / info["source"] / language
            finished = len(_finished(place, stream))
            for part in group:
                if part.number >= finished:
                    (folder / "shards" / manifests.FILE).unlink(missing_ok=True)
                    reader.write(part, place, stream)
                bar.update()
            yield _describe(place, stream, _finished(place, stream))


def finish_stream(
    folder: Path,
    tokenizer: Tokenizer,
    info: dict[str, Any],
    counts: DocumentCounts,
    max_tokens: int,
    advance: Callable[[float], None],
) -> StreamInfo:
    """Finish one stream: go on after its last whole shard."""
    place = folder / "shards" / info["source"] / info["language"]
    finished = _finished(place, info)
    if not finished or not finished[-1]["last"]:
        documents = sum(shard["documents"] for shard in finished)
        advance(sum(shard["characters"] for shard in finished))
        (folder / "shards" / manifests.FILE).unlink(missing_ok=True)
        writer = ShardWriter(place, info, max_tokens=max_tokens, first=len(finished))
        texts = islice(read_texts(folder, info["source"], info["language"]), documents, None)
        for text, ids in encode(texts, tokenizer):
            writer.add(ids, len(text), len(text.encode()))
            advance(len(text))
        writer.close()
        finished = _finished(place, info)
    else:
        advance(counts.characters)
    return _describe(place, info, finished)


def _describe(place: Path, info: dict[str, Any], finished: list[dict[str, Any]]) -> StreamInfo:
    """Return a stream's entry in the manifest."""
    return StreamInfo(
        source=info["source"],
        language=info["language"],
        shards=tuple(
            ShardInfo(
                file=f"{info['source']}/{info['language']}/{number:05d}.tokens",
                tokens=shard["tokens"],
                documents=shard["documents"],
                sha256=shard["sha256"],
            )
            for number, shard in enumerate(finished)
        ),
        **{key: sum(shard[key] for shard in finished) for key in ("tokens", "documents", "characters", "bytes")},
    )


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[str, NDArray[np.uint32]]]:
    """Yield the text and the ids of every document."""
    for batch in _batches(documents):
        yield from zip(batch, tokenizer.encode_batch(batch), strict=True)


def _finished(place: Path, info: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the indexes of the whole shards of a stream, in order. Shards of other text are removed."""
    infos: list[dict[str, Any]] = []
    while not (infos and infos[-1]["last"]):
        path = place / f"{len(infos):05d}.tokens"
        if not path.is_file() or not path.with_suffix(".index").is_file():
            break
        shard = Shard.open(path)
        if shard.info["tokenizer"] != info["tokenizer"]:
            raise TokenizerError(
                f"{shard.path} was made with tokenizer {shard.info['tokenizer']}, this run's is {info['tokenizer']}: "
                "use that tokenizer, or prepare into another folder"
            )
        if shard.info["text"] != info["text"]:
            logger.info("%s is of text that has changed: tokenising it again", place)
            shutil.rmtree(place)
            return []
        infos.append(shard.info)
    return infos


def _batches(documents: Iterable[Document]) -> Iterator[list[str]]:
    """Yield texts to encode at once: enough to keep all threads busy, few enough to fit in memory."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document.text)
        characters += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
