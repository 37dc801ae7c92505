"""A folder of shards out of lists of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.shard import write_shard


def write_shards(folder: Path, streams: Mapping[tuple[str, str], Sequence[Sequence[int]]]) -> Path:
    """Shards, one document each, of every (source, language), and their manifest; returns the folder."""
    infos = []
    for (source, language), parts in streams.items():
        (folder / source / language).mkdir(parents=True)
        shards = []
        for number, tokens in enumerate(parts):
            file = f"{source}/{language}/{number:05d}.tokens"
            info = write_shard(folder / file, [np.array(tokens, dtype=np.uint32)], {})
            shards.append(ShardInfo(file=file, tokens=len(tokens), documents=1, sha256=info["sha256"]))
        size = sum(map(len, parts))
        values = {"tokens": size, "documents": len(parts), "characters": size, "bytes": size, "shards": tuple(shards)}
        infos.append(StreamInfo.model_validate({"source": source, "language": language, **values}))
    Manifest(tokenizer="0" * 16, streams=tuple(infos)).save(folder)
    return folder
