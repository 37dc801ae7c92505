"""A teacher's vectors of all texts of a run: computed once, kept in float16, continued where a run was stopped.

    teacher/vectors.npy      (n, d) float16, one row for each text in the run's order
    teacher/tokens.npy       with ``distil.tokens``, until the run is complete: (tokens, d) float16, those of all texts
                             end to end, NaN where the teacher reads other tokens than the student
    teacher/manifest.json    the teacher and its digest, the digest of the texts, and the rows that are done

Rows are written first and counted afterwards: whatever the manifest counts is on the disk.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmbert.data.corpus_texts import UNKNOWN
from mmbert.data.permute import key_of
from mmbert.errors import ConfigError, DataError, TrainingError, first_line
from mmbert.files import atomic_file, read_json, write_json
from mmbert.finetuning.distil_texts import ChosenTexts, digest_of, keep_texts
from mmbert.finetuning.recipe_distil import Distil
from mmbert.finetuning.teacher import SentenceTeacher, TokenTeacher
from mmbert.io.rows import read_rows
from mmbert.log import progress

log = logging.getLogger(__name__)

FOLDER, VECTORS, TOKENS, MANIFEST = "teacher", "vectors.npy", "tokens.npy", "manifest.json"

_CHUNK = 4096
"""Texts between two entries of the manifest. The teacher sorts them by length, so that its batches pad little."""


class TeacherVectors(NamedTuple):
    """What a teacher gave, mapped from disk."""

    texts: np.ndarray
    """(n, d) float16."""
    tokens: np.ndarray | None
    """(tokens, d) float16, of all texts end to end."""


_PROBE = 32
"""Texts by which a teacher's tokens are compared with the student's."""


def teacher_vectors(
    texts: ChosenTexts,
    folder: Path,
    open_teacher: Callable[[], SentenceTeacher],
    ids: Sequence[np.ndarray] | None = None,
    *,
    required: bool = False,
) -> TeacherVectors:
    """Return the vectors of all texts, computing those that are missing.

    open_teacher  loads the teacher; not called if nothing is missing
    ids           the student's tokens of each text, if the vectors of tokens are wanted too
    required      they must be there; otherwise they are left out where the teacher has none, or what is kept has none
    Raises TrainingError for vectors of another teacher or of other texts, or without those of tokens; DataError for a
    vector that is not finite; ConfigError where the disk is too small, or a teacher has no such vectors of tokens.
    """
    place = folder / FOLDER
    kept = read_json(place / MANIFEST) if (place / MANIFEST).is_file() else None
    if kept is not None and kept["texts"] != texts.digest:
        raise TrainingError(f"{place} holds vectors of other texts: give another --out, or remove {place}")
    if kept is not None and ids is not None and kept.get("tokens") and not (place / TOKENS).is_file():
        kept = None  # a run that was complete; it is made again
    if kept is not None and not kept.get("tokens"):  # folders of earlier versions do not say
        if required:
            raise TrainingError(f"{place} holds no vectors of tokens: remove {place}, or set distil.tokens=0")
        ids = None
    if kept is not None and kept["done"] == len(texts.texts):
        return _open(place, kept)
    teacher = open_teacher()
    if kept is not None and kept["digest"] != teacher.digest:
        raise TrainingError(
            f"{place} holds vectors of another teacher, {kept['teacher']} ({kept['digest'][:8]}), not of "
            f"{teacher.name} ({teacher.digest[:8]}) with this prompt: give another --out, or remove {place}"
        )
    if ids is not None and kept is None and (why := _why_no_tokens(teacher, texts.texts, ids)):
        if required:
            raise ConfigError(f"teacher {teacher.name} {why}: set distil.tokens=0")
        log.info("teacher %s %s: the student learns from whole texts alone", teacher.name, why)
        ids = None
    total = sum(map(len, ids)) if ids is not None else 0
    place.mkdir(parents=True, exist_ok=True)
    done = kept["done"] if kept is not None else 0
    manifest: dict[str, Any] = {"teacher": teacher.name, "digest": teacher.digest, "texts": texts.digest}
    bar: progress[None]
    with progress(total=len(texts.texts), initial=done, desc="teacher", unit=" texts") as bar:
        while done < len(texts.texts):
            some = slice(done, done + _CHUNK)
            found, tokens = _encode(teacher, texts.texts[some], None if ids is None else ids[some], done)
            width = found.shape[1]
            rows = _mapped(place / VECTORS, (len(texts.texts), width), new=done == 0)
            rows[done : done + len(found)] = found
            rows.flush()
            if ids is not None:
                if not done:
                    _check_room(place, total * width * found.itemsize)
                rows, first = _mapped(place / TOKENS, (total, width), new=done == 0), sum(map(len, ids[:done]))
                rows[first : first + len(tokens)] = tokens
                rows.flush()
            done += len(found)
            manifest |= {"width": int(width), "rows": len(texts.texts), "tokens": total, "done": done}
            write_json(place / MANIFEST, manifest)
            bar.update(len(found))
    return _open(place, manifest)


def remove_tokens(folder: Path) -> None:
    """Remove the vectors of tokens, the largest file by far, when a run needs them no more."""
    (folder / FOLDER / TOKENS).unlink(missing_ok=True)


def is_complete(folder: Path) -> bool:
    """Return whether a run's folder has the vectors of all its texts."""
    path = folder / FOLDER / MANIFEST
    kept = read_json(path) if path.is_file() else None
    if kept is None or kept["done"] != kept["rows"]:
        return False
    return not kept.get("tokens") or (folder / FOLDER / TOKENS).is_file()


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


def _encode(
    teacher: SentenceTeacher, texts: list[str], ids: Sequence[np.ndarray] | None, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of texts, and of their tokens end to end (none without ``ids``), float16."""
    # The casts may overflow: what is then infinite is found below.
    with np.errstate(over="ignore"):
        if ids is None:
            found, tokens = teacher.encode(texts).astype(np.float16), np.zeros((0, 0), dtype=np.float16)
        else:
            assert isinstance(teacher, TokenTeacher), "the caller looked"
            vectors, parts = teacher.encode_tokens(texts, [each.tolist() for each in ids])
            found = vectors.astype(np.float16)
            tokens = np.concatenate(parts).astype(np.float16)
    if found.ndim != 2 or len(found) != len(texts):
        raise DataError(f"teacher {teacher.name}: {found.shape} for {len(texts)} texts, expected one vector for each")
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        said = texts[wrong[0]][:60]
        raise DataError(
            f"teacher {teacher.name}: the vector of text {first + int(wrong[0])} ({said!r}) is not finite in float16"
        )
    return found, tokens


def _why_no_tokens(teacher: SentenceTeacher, texts: list[str], ids: Sequence[np.ndarray]) -> str:
    """Return why a teacher has no vectors for the tokens of a student, in words; nothing if it has."""
    if not (isinstance(teacher, TokenTeacher) and teacher.pools_tokens):
        return "does not give a text the mean of its tokens' vectors"
    parts = teacher.encode_tokens(texts[:_PROBE], [each.tolist() for each in ids[:_PROBE]])[1]
    read = np.isfinite(np.concatenate(parts)[:, 0]).mean()
    return "" if read > 0.5 else "reads other tokens than the student"


def _check_room(place: Path, size: int) -> None:
    """Raise ConfigError where a file of ``size`` bytes would not fit."""
    free = shutil.disk_usage(place).free
    if size > free:
        raise ConfigError(
            f"the teacher's vectors of tokens take {size / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free: name "
            "a larger disk with --out, fewer distil.texts, or distil.tokens=0"
        )
    log.info("the teacher's vectors of tokens take %.1f GB in %s", size / 1e9, place / TOKENS)


def _mapped(path: Path, shape: tuple[int, int], *, new: bool) -> Any:
    if new:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    found = np.lib.format.open_memmap(path, mode="r+")
    if found.shape != shape:
        raise DataError(
            f"{path} holds vectors of {found.shape[1]} dimensions, and the teacher gives {shape[1]}: remove "
            f"{path.parent}"
        )
    return found


def _open(place: Path, manifest: dict[str, Any]) -> TeacherVectors:
    texts = _checked(place / VECTORS, (manifest["rows"], manifest["width"]))
    tokens = manifest.get("tokens", 0) if (place / TOKENS).is_file() else 0
    return TeacherVectors(texts, _checked(place / TOKENS, (tokens, manifest["width"])) if tokens else None)


def _checked(path: Path, wanted: tuple[int, int]) -> np.ndarray:
    rows = _load(path, f"remove {path.parent}")
    if rows.shape != wanted or rows.dtype != np.float16:
        raise DataError(f"{path} is {rows.shape} of {rows.dtype}, expected {wanted} of float16: remove {path.parent}")
    return rows
