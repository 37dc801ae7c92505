"""Translations in gettext catalogs (.mo) inside installed packages: Django's messages, pycountry's ISO names.

The English side of a message is its msgid. Form of a .mo file: the manual of GNU gettext, "The Format of GNU MO Files".
"""

from __future__ import annotations

import html
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mmbert.errors import DataError

_PLACEHOLDER = re.compile(
    r"%%|%\(\w+\)[-+ 0#]*\d*(?:\.\d+)?[a-zA-Z]"  # %(name)s
    r"|%[-+ 0#]*\d*(?:\.\d+)?[sdifr]"  # %d
    r"|\{[A-Za-z_0-9.]*\}"  # {name}
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


def catalog_files(folder: Path) -> list[tuple[str, str, Path]]:
    """Return (locale, name, file) of every catalog under ``folder``, sorted.

    The name says where the messages are from: ``contrib/admin`` for Django, ``iso3166-1`` for pycountry.
    """
    found = []
    for path in folder.rglob("*.mo"):
        parts = path.relative_to(folder).parts  # contrib/admin/locale/sw/LC_MESSAGES/django.mo
        if len(parts) >= 3 and parts[-2] == "LC_MESSAGES":
            name = "/".join((*parts[:-4], path.stem))
            found.append((parts[-3], name, path))
    return sorted(found)


def read_messages(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (English, translation) of a catalog as plain text on one line; plural messages give their last form.

    Values to be filled in become an ellipsis, markup is removed. Raises DataError if the file is not a catalog.
    """
    for source, target in _entries(path):
        if not source or not target:  # the header, and what is not translated
            continue
        english = _cached(source.split("\x04")[-1].split("\0")[-1])  # drop the context, take the plural
        text = plain(target.split("\0")[-1])
        if english and text:
            yield english, text


@lru_cache(maxsize=20_000)
def _cached(message: str) -> str:
    """Return ``plain(message)``, cached: every language has the same sources."""
    return plain(message)


def plain(message: str) -> str:
    """Return a message as a reader sees it."""
    text = message
    if "<" in text or "&" in text:
        text = html.unescape(_TAG.sub("", text))
    if "%" in text or "{" in text:
        text = _PLACEHOLDER.sub(lambda match: "%" if match[0] == "%%" else "…", text)
    return " ".join(text.split())


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    data = path.read_bytes()
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    try:
        if order is None:
            raise ValueError("wrong magic number")
        _, count, sources, targets = struct.unpack_from(order + "4I", data, 4)
        source_table = struct.unpack_from(f"{order}{2 * count}I", data, sources)
        target_table = struct.unpack_from(f"{order}{2 * count}I", data, targets)
        for i in range(0, 2 * count, 2):
            (length, start), (target_length, target_start) = source_table[i : i + 2], target_table[i : i + 2]
            if max(start + length, target_start + target_length) > len(data):
                raise ValueError("cut short")
            yield data[start : start + length].decode(), data[target_start : target_start + target_length].decode()
    except (ValueError, struct.error) as error:
        raise DataError(f"{path} is not a gettext catalog ({error}): install the package again") from error
