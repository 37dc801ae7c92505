"""A teacher's logits on disk: computed once, in parts that survive whatever stops the work.

    <folder>/manifest.json   hash of the teacher and of the texts, labels, precision, number of examples
    <folder>/000000.npz      logits of a part's examples end to end (rows, labels), and the rows of each example
    ...

The same call again computes the parts that are missing or damaged. Logits of another teacher or of other texts are
never mixed in: the manifest would differ, which is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import DataError
from mmbert.files import is_main_process, read_json, wait_for_main, write_json
from mmbert.locks import lock_folder

PART = 1024
"""Examples of a part: what is lost when the work is stopped."""

MANIFEST = "manifest.json"

Compute = Callable[[int, int], Iterator[np.ndarray]]
"""Numbers of the first example and of the one behind the last -> (rows, labels) of each."""


class LogitCache:
    """The logits of one split.

    manifest  what they depend on, by name in words: ``{"teacher": hash, ...}``
    count     examples
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], count: int, dtype: str = "float16") -> None:
        self._folder, self._count, self._dtype = folder, count, np.dtype(dtype)
        self._manifest = {"version": 1, **manifest, "examples": count, "dtype": dtype}
        self._fix = f"delete {folder} and run the same again"

    def logits(self, compute: Compute) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of all examples end to end, (rows, labels), and the number of rows of each (examples,).

        The main process computes what is missing, and the others wait for it. Raises DataError where the folder holds
        the logits of another teacher or of other texts.
        """
        if is_main_process():
            with lock_folder(self._folder):
                self._claim()
                for first, last in self._missing():
                    self._compute(first, last, compute)
        wait_for_main(self._is_complete)
        parts = [self._load(number) for number in range(self._parts)]
        return np.concatenate([part["logits"] for part in parts]), np.concatenate([part["counts"] for part in parts])

    @property
    def _parts(self) -> int:
        return -(-self._count // PART)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def _claim(self) -> None:
        """Write the manifest, or compare it with that of the logits which are there."""
        path = self._folder / MANIFEST
        if not path.is_file():
            write_json(path, self._manifest)
            return
        begun = read_json(path)
        differing = [key for key in self._manifest if begun.get(key) != self._manifest[key]]
        if differing:
            key = differing[0]
            raise DataError(
                f"{self._folder} holds logits with another {key} ({_short(begun.get(key))}, now "
                f"{_short(self._manifest[key])}): delete that folder, or give another one as teacher.cache"
            )

    def _missing(self) -> list[tuple[int, int]]:
        """Return runs of parts to compute: (first, behind the last)."""
        runs: list[tuple[int, int]] = []
        for number in range(self._parts):
            try:
                self._load(number)
            except DataError:
                if runs and runs[-1][1] == number:
                    runs[-1] = (runs[-1][0], number + 1)
                else:
                    runs.append((number, number + 1))
        return runs

    def _is_complete(self) -> bool:
        path = self._folder / MANIFEST
        if not path.is_file() or read_json(path) != self._manifest:
            return False
        return all(self._path(number).is_file() for number in range(self._parts))

    def _load(self, number: int) -> dict[str, np.ndarray]:
        return load_arrays(self._path(number), self._fix)

    def _compute(self, first: int, last: int, compute: Compute) -> None:
        """Compute the parts ``first`` to ``last`` and write each as soon as it is whole."""
        stop = min(last * PART, self._count)
        rows: list[np.ndarray] = []
        number = first
        for done, row in enumerate(compute(first * PART, stop), first * PART + 1):
            rows.append(row)
            if len(rows) == PART or done == stop:
                counts = np.array([len(each) for each in rows], np.int32)
                save_arrays(
                    self._path(number), logits=np.concatenate(rows).astype(self._dtype, copy=False), counts=counts
                )
                number, rows = number + 1, []


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
