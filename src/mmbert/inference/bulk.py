"""Many texts to one file of vectors, in parts that survive whatever stops the work.

While the work goes on, a folder ``NAME.parts.partial`` stands beside the file: ``job.json`` says what is being made,
and every part of texts gives two files, its vectors and its keys with a hash of its texts, each whole or absent. The
same call again takes up what is there, after checking that the texts are the same; a part whose files are damaged is
computed again. When all parts are there they become the file, atomically, and the folder goes. A part is always
computed alone, so that the file has the same bytes however often the work was stopped.

Forms: ``.npy`` (n, d); ``.jsonl``, a line ``{"id": ..., "embedding": [...]}`` a text; ``.parquet``, columns id and
embedding, and metadata that say which model made them (see ``mmbert.io.vector_files``).
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
from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.files import PARTIAL, atomic_file, disk_errors, read_json, write_json
from mmbert.inference.checks import whole
from mmbert.io.rows import import_pyarrow
from mmbert.io.vector_files import METADATA
from mmbert.locks import lock_folder
from mmbert.log import progress as progress_bar

if TYPE_CHECKING:
    from mmbert.inference.embedder import Embedder
    from mmbert.inference.vectors import Output

log = logging.getLogger(__name__)

FORMS = (".npy", ".jsonl", ".parquet")

PART_SIZE = 4096
"""Texts of a part: what is lost when the work is stopped."""

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
    part_size: int = PART_SIZE,
) -> int:
    """Write the vectors of ``records``, in their order, to ``out``; returns how many. See above.

    int8 and uint8 count from the embedder's ``ranges``, or from those of the first part; they are saved beside the
    file as ``NAME.ranges.npy``.
    Raises ConfigError for a form that is unknown or a job that differs, DataError for no text or text that changed.
    """
    out = Path(out)
    check_form(out)
    part_size = whole("part_size", part_size)
    folder = out.with_name(out.name + ".parts" + PARTIAL)
    width = embedder.width(dimensions)
    options: dict[str, Any] = {"prompt": prompt, "dimensions": width, "normalize": normalize, "output": output}
    with disk_errors(out), lock_folder(folder):
        _claim(folder, embedder, {**options, "part_size": part_size})
        total, stream = 0, iter(records)
        with progress_bar[Any](desc="embedding", unit="text") as bar:
            number = 0
            while chunk := list(islice(stream, part_size)):
                _make(folder, number, total, chunk, embedder, options)
                total, number = total + len(chunk), number + 1
                bar.update(len(chunk))
        if not total:
            raise DataError(f"no text to embed into {out}")
        if output in ("int8", "uint8"):
            with atomic_file(out.with_name(out.name + ".ranges.npy")) as file:
                np.save(file, cast(np.ndarray, embedder.ranges))
        _assemble(folder, number, total, out, _made(embedder, options))
        shutil.rmtree(folder)
    return total


def check_form(out: Path) -> None:
    """Raises before anything is computed: for a form that is unknown, not installed, or a file that is there."""
    if out.suffix not in FORMS:
        raise ConfigError(f"{out}: the name must end in {', '.join(FORMS)}")
    if out.suffix == ".parquet":
        import_pyarrow()
    with disk_errors(out):
        if out.exists():
            raise ConfigError(f"{out} exists already: delete it or choose another name")


def json_line(key: Any, vector: np.ndarray) -> bytes:
    """``{"id": ..., "embedding": [...]}``, numbers as short as they are exact."""
    row = {"id": key, "embedding": np.ascontiguousarray(vector)}
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _claim(folder: Path, embedder: Embedder, options: dict[str, Any]) -> None:
    """Say in ``job.json`` what is made here, or check that it is what was begun; take up the ranges measured then."""
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
        "num_layers": loaded.config.num_layers,
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
    """The two files of a part, unless they are there. ``first``: number of its first text."""
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
    write_json(place, {"sha256": digest.hexdigest(), "keys": keys})  # last: it says that the part is done


def _is_whole(folder: Path, number: int, digest: str, keys: list[Any]) -> bool:
    """Return whether the files of a part are undamaged; else they are made again. Raises DataError for other texts."""
    try:
        stated = read_json(folder / f"{number:06d}.json")
        load_arrays(_vectors(folder, number), "it is made again")
    except MMBertError as error:
        log.warning("%s", error)
        return False
    if not isinstance(stated, dict) or "sha256" not in stated:
        return False
    if stated["sha256"] != digest:
        raise DataError(f"the texts of part {number} changed since {folder} was begun: delete that folder")
    return bool(stated.get("keys") == json.loads(json.dumps(keys)))  # they are in the digest: else they are damaged


def _vectors(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"


def _parts(folder: Path, count: int) -> Iterator[tuple[list[Any], np.ndarray]]:
    for number in range(count):
        keys = read_json(folder / f"{number:06d}.json")["keys"]
        yield keys, load_arrays(_vectors(folder, number), "run the same again, it is made anew")["vectors"]


def _made(embedder: Embedder, options: dict[str, Any]) -> dict[str, Any]:
    """Return what a Parquet file says of its vectors, for those who store or index them."""
    loaded, pooling = embedder.loaded, embedder.pooling
    return {
        "model": str(Path(loaded.folder).absolute()), "model_hash": loaded.model_hash,
        "num_layers": loaded.config.num_layers, "pooling": list(pooling.modes),
        "layers": pooling.layers and list(pooling.layers), "max_tokens": embedder.max_tokens,
        "similarity": loaded.similarity, **options,
    }  # fmt: skip


def _assemble(folder: Path, count: int, total: int, out: Path, made: dict[str, Any]) -> None:
    """All parts as one file."""
    parts = _parts(folder, count)
    with atomic_file(out) as file:
        if out.suffix == ".npy":
            for number, (_, vectors) in enumerate(parts):
                if number == 0:
                    header = {"descr": vectors.dtype.str, "fortran_order": False, "shape": (total, vectors.shape[1])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(vectors).data)
        elif out.suffix == ".jsonl":
            for keys, vectors in parts:
                file.writelines(json_line(key, vector) for key, vector in zip(keys, vectors, strict=True))
        else:
            _write_parquet(parts, file, made)


def _write_parquet(parts: Iterator[tuple[list[Any], np.ndarray]], file: BinaryIO, made: dict[str, Any]) -> None:
    arrow = import_pyarrow()
    writer = None
    for keys, vectors in parts:
        numbers = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
        table = arrow.table(
            {
                "id": arrow.array(keys if all(isinstance(key, int) for key in keys) else list(map(str, keys))),
                "embedding": arrow.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]),
            }
        ).replace_schema_metadata({METADATA: json.dumps(made, ensure_ascii=False)})
        if writer is None:
            writer = arrow.parquet.ParquetWriter(file, table.schema, write_page_checksum=True)
        writer.write_table(table if table.schema == writer.schema else table.cast(writer.schema))
    if writer is not None:
        writer.close()
