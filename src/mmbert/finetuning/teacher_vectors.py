"""A teacher's vectors of all texts of a run: computed once, kept in float16, continued where a run was stopped.

    teacher/vectors.npy      (n, d) float16, one row for each text in the run's order
    teacher/manifest.json    the teacher and its digest, the digest of the texts, and the rows that are done

Rows are written first and counted afterwards: whatever the manifest counts is on the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.data.corpus_texts import UNKNOWN
from mmbert.data.permute import key_of
from mmbert.errors import DataError, TrainingError, first_line
from mmbert.files import atomic_file, read_json, write_json
from mmbert.finetuning.distil_texts import ChosenTexts, digest_of, keep_texts
from mmbert.finetuning.recipe_distil import Distil
from mmbert.finetuning.teacher import SentenceTeacher
from mmbert.io.rows import read_rows
from mmbert.log import progress

log = logging.getLogger(__name__)

FOLDER, VECTORS, MANIFEST = "teacher", "vectors.npy", "manifest.json"

_CHUNK = 4096
"""Texts between two entries of the manifest. The teacher sorts them by length, so that its batches pad little."""


def teacher_vectors(texts: ChosenTexts, folder: Path, open_teacher: Callable[[], SentenceTeacher]) -> np.ndarray:
    """Return the vectors of all texts (n, d), float16, mapped from disk, computing those that are missing.

    open_teacher  loads the teacher; not called if nothing is missing
    Raises TrainingError for vectors of another teacher or of other texts, DataError for a vector that is not finite.
    """
    place = folder / FOLDER
    kept = read_json(place / MANIFEST) if (place / MANIFEST).is_file() else None
    if kept is not None and kept["texts"] != texts.digest:
        raise TrainingError(f"{place} holds vectors of other texts: give another --out, or remove {place}")
    if kept is not None and kept["done"] == len(texts.texts):
        return _open(place, kept)
    teacher = open_teacher()
    if kept is not None and kept["digest"] != teacher.digest:
        raise TrainingError(
            f"{place} holds vectors of another teacher, {kept['teacher']} ({kept['digest'][:8]}), not of "
            f"{teacher.name} ({teacher.digest[:8]}) with this prompt: give another --out, or remove {place}"
        )
    place.mkdir(parents=True, exist_ok=True)
    done = kept["done"] if kept is not None else 0
    manifest: dict[str, Any] = {"teacher": teacher.name, "digest": teacher.digest, "texts": texts.digest}
    bar: progress[None]
    with progress(total=len(texts.texts), initial=done, desc="teacher", unit=" texts") as bar:
        while done < len(texts.texts):
            found = _encode(teacher, texts.texts[done : done + _CHUNK], done)
            rows = _mapped(place, len(texts.texts), found.shape[1], new=done == 0)
            rows[done : done + len(found)] = found
            rows.flush()
            done += len(found)
            manifest |= {"width": int(found.shape[1]), "rows": len(texts.texts), "done": done}
            write_json(place / MANIFEST, manifest)
            bar.update(len(found))
    return _open(place, manifest)


def is_complete(folder: Path) -> bool:
    """Return whether a run's folder has the vectors of all its texts."""
    path = folder / FOLDER / MANIFEST
    kept = read_json(path) if path.is_file() else None
    return kept is not None and bool(kept["done"] == kept["rows"])


def import_vectors(options: Distil, seed: int, folder: Path) -> None:
    """Make texts and vectors that were computed elsewhere, ``distil.vectors``, those of a run; once.

    Raises DataError with the row of what is wrong.
    """
    place = folder / FOLDER
    if (place / MANIFEST).is_file():
        return
    rows: dict[str, tuple[str, np.ndarray]] = {}
    width = None
    for where, text, language, values in _given(options):
        try:
            with np.errstate(over="ignore"):
                vector = np.array(values, dtype=np.float16)
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: vector: {error}") from error
        width = len(vector) if width is None and vector.ndim == 1 else width
        if vector.shape != (width,) or not np.isfinite(vector).all():
            raise DataError(
                f"{where}: vector of shape {vector.shape}, or not finite in float16: the first one has {width} numbers"
            )
        rows.setdefault(text, (language, vector))
    if not rows:
        raise DataError(f"{options.vectors} has no rows")
    # A random order, so that the held-out texts at the end are a sample.
    texts = sorted(rows, key=lambda text: key_of(seed, "order", text))
    heldout = min(options.heldout, len(texts) // 10)
    keep_texts(folder, options, seed, [(rows[text][0], text) for text in texts], heldout)
    place.mkdir(parents=True, exist_ok=True)
    found = np.stack([rows[text][1] for text in texts])
    with atomic_file(place / VECTORS) as file:
        np.save(file, found, allow_pickle=False)
    write_json(
        place / MANIFEST,
        {
            "teacher": options.teacher or options.vectors, "digest": "",
            "texts": digest_of(texts), "width": found.shape[1], "rows": len(found), "done": len(found),
        },
    )  # fmt: skip


def _given(options: Distil) -> Iterator[tuple[str, str, str, Any]]:
    """Yield (file and row, text, language, vector) of ``distil.vectors``; the vectors are not checked."""
    assert options.vectors is not None, "the caller has them"
    array = _load(Path(options.vectors)) if options.vectors.endswith(".npy") else None
    path = options.vectors if array is None else options.text[0]
    for read, (number, row) in enumerate(read_rows(path)):
        text, values = row.get("text"), row.get("vector")
        if array is not None:
            index = row.get("id", read)
            if not isinstance(index, int) or not 0 <= index < len(array):
                raise DataError(f"{path}:{number}: id {index!r} is no row of {options.vectors}, which has {len(array)}")
            values = array[index]
        if not isinstance(text, str) or not text.strip() or not isinstance(values, list | np.ndarray):
            raise DataError(f"{path}:{number}: needs a text and a list of numbers, `text` and `vector`")
        yield f"{path}:{number}", text, str(row.get("language") or UNKNOWN), values


def _load(path: Path, cure: str = "make it again") -> np.ndarray:
    """Return an array that is mapped from disk. Raises DataError, which ends with ``cure``."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged ({first_line(error)}): {cure}") from error
    return found


def _encode(teacher: SentenceTeacher, texts: list[str], first: int) -> np.ndarray:
    # The cast may overflow: what is then infinite is found below.
    with np.errstate(over="ignore"):
        found = teacher.encode(texts).astype(np.float16)
    if found.ndim != 2 or len(found) != len(texts):
        raise DataError(f"teacher {teacher.name}: {found.shape} for {len(texts)} texts, expected one vector for each")
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        said = texts[wrong[0]][:60]
        raise DataError(
            f"teacher {teacher.name}: the vector of text {first + int(wrong[0])} ({said!r}) is not finite in float16"
        )
    return found


def _mapped(place: Path, rows: int, width: int, *, new: bool) -> Any:
    path = place / VECTORS
    if new:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, width))
    found = np.lib.format.open_memmap(path, mode="r+")
    if found.shape != (rows, width):
        raise DataError(
            f"{path} holds vectors of {found.shape[1]} dimensions, and the teacher gives {width}: remove {place}"
        )
    return found


def _open(place: Path, manifest: dict[str, Any]) -> np.ndarray:
    path, wanted = place / VECTORS, (manifest["rows"], manifest["width"])
    rows = _load(path, f"remove {place}")
    if rows.shape != wanted or rows.dtype != np.float16:
        raise DataError(f"{path} is {rows.shape} of {rows.dtype}, expected {wanted} of float16: remove {place}")
    return rows
