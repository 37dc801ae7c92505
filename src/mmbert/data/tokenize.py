"""The second stage of preparing: prepared text -> shards of token ids, stream by stream."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmbert.data import manifest as manifests
from mmbert.data.document import Document
from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.shard import MAX_TOKENS, Shard, ShardWriter
from mmbert.data.store import Counts, Report, read_texts
from mmbert.errors import TokenizerError
from mmbert.log import progress
from mmbert.recipe import Recipe
from mmbert.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 4 << 20


def prepare_shards(recipe: Recipe, folder: Path, tokenizer: Tokenizer, *, max_tokens: int = MAX_TOKENS) -> Manifest:
    """Tokenise ``folder/text`` into ``folder/shards``; returns the manifest, which is written last.

    Raises TokenizerError if shards of another tokenizer are there, DataError if one of them is cut short.
    """
    shards = folder / "shards"
    if (shards / manifests.FILE).is_file():
        Manifest.read(shards).check_tokenizer(tokenizer.fingerprint, f"the shards in {shards}")
    report = Report.load(folder)
    wanted = [
        (name, language, counts, source.fingerprint)
        for name, source in report.sources.items()
        if name in recipe.sources
        for language, counts in source.languages.items()
        if counts.documents
    ]
    streams = []
    bar: progress[None] = progress(
        total=sum(counts.characters for _, _, counts, _ in wanted), desc="tokenising", unit="char"
    )
    with bar:
        for name, language, counts, text in wanted:
            info = {"source": name, "language": language, "tokenizer": tokenizer.fingerprint, "text": text}
            streams.append(_stream(folder, tokenizer, info, counts, max_tokens, bar.update))
    manifest = Manifest(tokenizer=tokenizer.fingerprint, streams=tuple(streams))
    path = shards / manifests.FILE
    if not path.is_file() or Manifest.read(shards) != manifest:
        manifest.save(shards)
    return manifest


def _stream(
    folder: Path,
    tokenizer: Tokenizer,
    info: dict[str, Any],
    counts: Counts,
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
        for batch in _batches(texts):
            for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                writer.add(ids, len(text), len(text.encode()))
                advance(len(text))
        writer.close()
        finished = _finished(place, info)
    else:
        advance(counts.characters)
    relative = place.relative_to(folder / "shards").as_posix()
    return StreamInfo(
        source=info["source"],
        language=info["language"],
        shards=tuple(
            ShardInfo(
                file=f"{relative}/{number:05d}.tokens",
                tokens=shard["tokens"],
                documents=shard["documents"],
                sha256=shard["sha256"],
            )
            for number, shard in enumerate(finished)
        ),
        **{key: sum(shard[key] for shard in finished) for key in ("tokens", "documents", "characters", "bytes")},
    )


def _finished(place: Path, info: dict[str, Any]) -> list[dict[str, Any]]:
    """The indexes of the whole shards of a stream, in order. Those of other text are removed."""
    found: list[dict[str, Any]] = []
    while not (found and found[-1]["last"]):
        path = place / f"{len(found):05d}.tokens"
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
        found.append(shard.info)
    return found


def _batches(documents: Iterable[Document]) -> Iterator[list[str]]:
    """Texts to encode at once: enough to keep all threads busy, little enough to hold in memory."""
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
