"""A raw text with its id, language and source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A raw text: a page, a chapter, or several short messages."""

    text: str
    id: str
    """Names the document inside its source, the same on every machine: the hold-out is chosen by it."""
    language: str
    """Canonical code, as ``fra_Latn``."""
    source: str
    """Name of the source in the recipe."""
