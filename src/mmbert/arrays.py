"""NumPy arrays: rows of unit length, and files that we read again ourselves with a checksum of each array.

The files are ``.npz``, whose zip form has a checksum of each member.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mmbert.errors import DataError
from mmbert.files import atomic_file


def unit(rows: np.ndarray) -> np.ndarray:
    """Return the rows (n, d) scaled to length 1, fp32; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays by name; the file is whole or absent."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, fix: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name.

    fix  what to do if it is damaged, for the message
    Raises DataError if it is absent, cut or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there: {fix}") from error
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged ({str(error).strip() or type(error).__name__}): {fix}") from error


_DAMAGED = (
    OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, AttributeError, TypeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise for changed bytes: sizes beyond memory, unknown compression or encryption among them. A
file without a zip's first bytes is read as another form, which has no ``files``."""
