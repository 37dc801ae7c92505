"""MDS shards written by hand, by the documented layout: what mosaicml-streaming writes, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

SIZES = {"int": 8, "uint8": 1, "float32": 4}
"""Bytes of kinds whose values all have one length."""


def encode(encoding: str, value: Any) -> bytes:
    """A value's bytes."""
    if encoding == "str":
        return value.encode()
    if encoding == "json":
        return json.dumps(value).encode()
    if encoding in ("bytes", "pkl"):
        return value
    if encoding in SIZES:
        return np.array([value], "<i8" if encoding == "int" else encoding).tobytes()
    kind, *details = encoding.split(":")
    assert kind == "ndarray"
    array = np.asarray(value)
    head = b""
    if not details:
        codes = {"uint8": 8, "uint16": 16, "float16": 18, "uint32": 32, "int64": 65}
        head += bytes([codes[array.dtype.name]])
    if len(details) < 2:
        assert max(array.shape) < 256, "the writer takes the smallest type that holds the shape"
        head += bytes([array.ndim << 2, *array.shape])
    return head + array.tobytes()


def size_of(encoding: str) -> int | None:
    """Bytes of every value of a column, None if they differ."""
    parts = encoding.split(":")
    if len(parts) == 3:
        return int(np.prod([int(size) for size in parts[2].split(",")])) * np.dtype(parts[1]).itemsize
    return SIZES.get(encoding)


def write_mds(
    folder: Path,
    columns: dict[str, str],
    rows: list[dict[str, Any]],
    *,
    per_shard: int = 100,
    compression: str | None = None,
    hashes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write shards and ``index.json``; returns the index."""
    names = sorted(columns)
    encodings = [columns[name] for name in names]
    sizes = [size_of(encoding) for encoding in encodings]
    shards = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), per_shard)):
        part = rows[start : start + per_shard]
        config = {
            "column_encodings": encodings, "column_names": names, "column_sizes": sizes, "compression": compression,
            "format": "mds", "hashes": list(hashes), "size_limit": 1 << 26, "version": 2,
        }  # fmt: skip
        raw = shard_bytes(part, names, encodings, sizes, config)
        basename = f"shard.{number:05d}.mds"
        zipped = basename + ".zstd" if compression else None
        data = zstandard.ZstdCompressor(level=3).compress(raw) if compression else raw
        (folder / (zipped or basename)).write_bytes(data)

        def describe(name: str, content: bytes) -> dict[str, Any]:
            digests = {algorithm: hashlib.new(algorithm, content).hexdigest() for algorithm in hashes}
            return {"basename": name, "bytes": len(content), "hashes": digests}

        raw_data, zip_data = describe(basename, raw), describe(zipped, data) if zipped else None
        shards.append({**config, "raw_data": raw_data, "samples": len(part), "zip_data": zip_data})
    index = {"shards": shards, "version": 2}
    (folder / "index.json").write_text(json.dumps(index, sort_keys=True))
    return index


def shard_bytes(
    rows: list[dict[str, Any]],
    names: list[str],
    encodings: list[str],
    sizes: list[int | None],
    config: dict[str, Any],
) -> bytes:
    """One raw shard."""
    samples = []
    for row in rows:
        values = [encode(encoding, row[name]) for name, encoding in zip(names, encodings, strict=True)]
        lengths = [len(value) for value, size in zip(values, sizes, strict=True) if size is None]
        samples.append(np.array(lengths, "<u4").tobytes() + b"".join(values))
    head = json.dumps(config, sort_keys=True).encode()
    offsets = np.array([0, *map(len, samples)]).cumsum() + 4 + 4 * (len(rows) + 1) + len(head)
    return np.array([len(rows)], "<u4").tobytes() + offsets.astype("<u4").tobytes() + head + b"".join(samples)
