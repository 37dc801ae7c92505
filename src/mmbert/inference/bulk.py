"""Embeds many texts into one file; a run that was stopped can be resumed by the same call.

During the work a folder ``NAME.pieces.partial`` is beside the file: ``job.json`` describes the job, and each piece of
texts has two files, its vectors, and its keys with a hash of its texts, both written atomically. A resumed run checks
that the texts are the same and computes damaged pieces again. When all pieces are complete they become the file,
atomically, and the folder is removed. A piece is always embedded by itself, so that the bytes of the file do not depend
on interruptions.

Forms: ``.npy`` (n, d); ``.jsonl``, a line ``{"id": ..., "embedding": [...]}`` for each text; ``.parquet``, columns id
and embedding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import orjson

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import ConfigError, DataError, MissingExtra, MMBertError
from mmbert.files import PARTIAL, atomic_file, disk_errors, read_json, write_json
from mmbert.inference.checks import whole
from mmbert.locks import lock_folder
from mmbert.log import progress as progress_bar

if TYPE_CHECKING:
    from mmbert.inference.embedder import Embedder
    from mmbert.inference.vectors import Output

log = logging.getLogger(__name__)

FORMS = (".npy", ".jsonl", ".parquet")

PIECE = 4096
"""Texts of a piece: the most work that an interruption loses."""

RANGES = "ranges.npz"

Record = tuple[Any, str]
"""A key (a number or a string) and a text."""


def embed_to_file(
    embedder: Embedder,
    records: Iterable[Record],
    out: str | Path,
    *,
    prompt: str | None = None,
    dimensions: int | None = None,
    normalize: bool = True,
    output: Output = "float32",
    piece: int = PIECE,
) -> int:
    """Write the vectors of ``records``, in their order, to ``out``; return how many.

    int8 and uint8 use the embedder's ``ranges``, or those of the first piece; they are saved beside the file as
    ``NAME.ranges.npy``.
    Raises ConfigError for an unknown form or other options than the run began with, DataError for no text or texts
    that changed.
    """
    out = Path(out)
    check_form(out)
    piece = whole("piece", piece)
    folder = out.with_name(out.name + ".pieces" + PARTIAL)
    options: dict[str, Any] = {"prompt": prompt, "dimensions": dimensions, "normalize": normalize, "output": output}
    with disk_errors(out), lock_folder(folder):
        _claim(folder, embedder, {**options, "piece": piece})
        total, stream = 0, iter(records)
        with progress_bar[Any](desc="embedding", unit="text") as bar:
            number = 0
            while chunk := list(islice(stream, piece)):
                _make(folder, number, total, chunk, embedder, options)
                total, number = total + len(chunk), number + 1
                bar.update(len(chunk))
        if not total:
            raise DataError(f"no text to embed into {out}")
        if output in ("int8", "uint8"):
            with atomic_file(out.with_name(out.name + ".ranges.npy")) as file:
                np.save(file, cast(np.ndarray, embedder.ranges))
        _assemble(folder, number, total, out)
        shutil.rmtree(folder)
    return total


def check_form(out: Path) -> None:
    """Raise an error for an unknown form, a missing library or an existing file, before anything is computed."""
    if out.suffix not in FORMS:
        raise ConfigError(f"{out}: the name must end in {', '.join(FORMS)}")
    if out.suffix == ".parquet":
        _parquet()
    with disk_errors(out):
        if out.exists():
            raise ConfigError(f"{out} is there already: delete it or choose another name")


def json_line(key: Any, vector: np.ndarray) -> bytes:
    """Return ``{"id": ..., "embedding": [...]}`` with the shortest exact decimals."""
    row = {"id": key, "embedding": np.ascontiguousarray(vector)}
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _claim(folder: Path, embedder: Embedder, options: dict[str, Any]) -> None:
    """Write ``job.json``, or check that it describes this job; take up the ranges that were measured then."""
    loaded, path, ranges = embedder.loaded, folder / "job.json", folder / RANGES
    begun = read_json(path) if path.is_file() else None
    given = embedder.ranges
    if begun is not None and begun.get("ranges") is None and ranges.is_file():
        measured = load_arrays(ranges, f"delete {folder} and run the same again")["ranges"]
        if given is None or np.array_equal(given, measured):
            embedder.ranges, given = measured, None
    job = {
        "version": 1,
        "model": loaded.model_hash,
        "precision": loaded.precision,
        "pooling": list(embedder.pooling.modes),
        "layers": embedder.pooling.layers and list(embedder.pooling.layers),
        "max_tokens": embedder.max_tokens,
        "ranges": None if given is None else hashlib.sha256(given.tobytes()).hexdigest()[:16],
        **options,
    }
    if begun is None:
        write_json(path, job)
        return
    differing = [key for key in job if begun.get(key) != job[key]]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{folder} was begun with {key} {begun.get(key)!r}, now it is {job[key]!r}: finish it as it was begun, or "
            "delete that folder"
        )


def _make(
    folder: Path, number: int, first: int, chunk: list[Record], embedder: Embedder, options: dict[str, Any]
) -> None:
    """Write the two files of a piece, unless they exist. ``first``: number of its first text."""
    keys, texts = [key for key, _ in chunk], [text for _, text in chunk]
    digest = hashlib.sha256()
    for key, text in chunk:
        digest.update(json.dumps([key, text if isinstance(text, str) else repr(text)]).encode() + b"\n")
    place = folder / f"{number:06d}.json"
    if place.is_file() and _is_whole(folder, number, digest.hexdigest(), keys):
        return
    if options["output"] in ("int8", "uint8") and not (folder / RANGES).is_file():
        if embedder.ranges is None:
            embedder.calibrate(texts, **{key: options[key] for key in ("prompt", "dimensions", "normalize")})
        save_arrays(folder / RANGES, ranges=cast(np.ndarray, embedder.ranges))
    vectors = np.stack(list(embedder.stream(texts, **options, progress=False, window=len(texts), first=first)))
    save_arrays(_vectors(folder, number), vectors=vectors)
    write_json(place, {"sha256": digest.hexdigest(), "keys": keys})  # last: it marks the piece as complete


def _is_whole(folder: Path, number: int, digest: str, keys: list[Any]) -> bool:
    """Return whether the files of a piece are undamaged. Raises DataError if they are of other texts."""
    try:
        stated = read_json(folder / f"{number:06d}.json")
        load_arrays(_vectors(folder, number), "it is made again")
    except MMBertError as error:
        log.warning("%s", error)
        return False
    if not isinstance(stated, dict) or "sha256" not in stated:
        return False
    if stated["sha256"] != digest:
        raise DataError(f"the texts of piece {number} changed since {folder} was begun: delete that folder")
    return bool(stated.get("keys") == json.loads(json.dumps(keys)))  # the digest covers them


def _vectors(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"


def _pieces(folder: Path, count: int) -> Iterator[tuple[list[Any], np.ndarray]]:
    for number in range(count):
        keys = read_json(folder / f"{number:06d}.json")["keys"]
        yield keys, load_arrays(_vectors(folder, number), "run the same again, it is made anew")["vectors"]


def _assemble(folder: Path, count: int, total: int, out: Path) -> None:
    """Write all pieces as one file."""
    pieces = _pieces(folder, count)
    with atomic_file(out) as file:
        if out.suffix == ".npy":
            for number, (_, vectors) in enumerate(pieces):
                if number == 0:
                    header = {"descr": vectors.dtype.str, "fortran_order": False, "shape": (total, vectors.shape[1])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(vectors).data)
        elif out.suffix == ".jsonl":
            for keys, vectors in pieces:
                file.writelines(json_line(key, vector) for key, vector in zip(keys, vectors, strict=True))
        else:
            _write_parquet(pieces, file)


def _write_parquet(pieces: Iterator[tuple[list[Any], np.ndarray]], file: BinaryIO) -> None:
    arrow, parquet = _parquet()
    writer = None
    for keys, vectors in pieces:
        numbers = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
        table = arrow.table(
            {
                "id": arrow.array(keys if all(isinstance(key, int) for key in keys) else list(map(str, keys))),
                "embedding": arrow.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]),
            }
        )
        if writer is None:
            writer = parquet.ParquetWriter(file, table.schema, write_page_checksum=True)
        writer.write_table(table if table.schema == writer.schema else table.cast(writer.schema))
    if writer is not None:
        writer.close()


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    return pyarrow, pyarrow.parquet
