"""Files on an object store or on the hub, by fsspec: ``s3://bucket/folder``, ``hf://datasets/USER/NAME``.

A place is a path of this machine, or such a URL. Keys and endpoints are those that the store's own client reads, such
as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mmbert.errors import ConfigError, DataError, MissingExtra, MMBertError, first_line, import_extra
from mmbert.io.find import is_hidden
from mmbert.io.stream import open_file

_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "httpx", "huggingface_hub", "azure")
"""Packages with classes of errors that are no OSError, and say that a store was not reached."""


def is_remote(place: str) -> bool:
    """Return whether a place is a URL of fsspec. ``file://`` is one of this machine."""
    return "://" in place


def as_typed(place: str | Path) -> str:
    """Return a URL as a user typed it, without a slash at its end: as a Path it has one slash of its two."""
    scheme, colon, rest = str(place).partition(":")
    if not colon or not scheme.isalnum() or len(scheme) < 2 or (rest and not rest.startswith("/")):
        return str(place)
    root = "/" if scheme == "file" else ""
    return f"{scheme}://{root}{rest.strip('/')}"


def open_place(place: str) -> BinaryIO:
    """Open a file to read; of a remote one, what is read is fetched. Raises DataError."""
    if not is_remote(place):
        return open_file(place)
    with store_errors(place):
        fs, path = file_system(place)
        return cast(BinaryIO, fs.open(path, "rb"))


def file_system(place: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    fsspec = import_extra("fsspec", "s3")
    fs, path = fsspec.core.url_to_fs(place)
    if not path:
        raise ConfigError(f"{place} names no bucket: expected {place.partition(':')[0]}://BUCKET/FOLDER")
    return fs, path


def names_below(place: str) -> list[str]:
    """Return the relative names of all files below a URL, sorted; [""] if it is a file itself. Raises DataError."""
    with store_errors(place):
        fs, path = file_system(place)
        fs.invalidate_cache()  # others write there too
        found = [name.removeprefix(path).lstrip("/") for name in fs.find(path)]
    return sorted(name for name in found if not is_hidden(name))


@contextmanager
def store_errors(place: str) -> Iterator[None]:
    """Raise DataError in one line for whatever a store raises: each has classes of its own."""
    try:
        yield
    except MMBertError:
        raise
    except ImportError as error:
        if place.startswith("s3"):
            raise MissingExtra("s3fs", "s3") from error
        raise ConfigError(f"{place}: {first_line(error)} (pip install it here and on all machines)") from error
    except Exception as error:
        raise not_reached(place, error) from error


def not_reached(place: str, error: Exception) -> DataError:
    """Return the error of a store in one line."""
    return DataError(f"cannot reach {place}: {type(error).__name__}: {first_line(error)}")


def is_store_error(error: Exception) -> bool:
    """Return whether a store's client raised an error, not code of this package."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS
