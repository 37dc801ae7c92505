"""Answers formatted for a terminal. Pipes and files, and commands with ``--json``, get JSON lines instead."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any


def for_people(as_json: bool) -> bool:
    """Return whether answers are formatted for a terminal."""
    return not as_json and sys.stdout.isatty()


def classes(asked: Any, answer: dict[str, Any]) -> Iterator[str]:
    """Yield the score and the labels that apply, then the text."""
    text = asked if isinstance(asked, str) else "  |  ".join(asked)
    labels = ", ".join(answer["labels"]) or "none"
    yield _fit(f"{answer['score']:6.3f}  {labels:<16}  ", text)


def entities(asked: str, answer: dict[str, Any]) -> Iterator[str]:
    """Yield the text, then each entity with its character positions."""
    yield _fit("", asked)
    for found in answer["entities"]:
        place = f"{found['start']}-{found['end']}"
        yield _fit(f"  {found['score']:5.3f}  {place:>11}  {found['label']:<8}  ", found["text"])


def fills(asked: str, answer: dict[str, Any]) -> Iterator[str]:
    """Yield the text, then the candidates of each mask."""
    several = bool(answer["fills"]) and isinstance(answer["fills"][0], list)
    yield _fit("", asked)
    for number, mask in enumerate(answer["fills"] if several else [answer["fills"]], 1):
        if several:
            yield f"  mask {number}"
        for fill in mask:
            yield _fit(f"  {fill['score']:6.1%}  {fill['token']:<14}  ", fill["text"])


def answers(asked: tuple[str, str], answer: dict[str, Any]) -> Iterator[str]:
    """Yield the question, then each answer with its character positions in the context."""
    yield _fit("", asked[0])
    for found in answer["answers"]:
        place = f"{found['start']}-{found['end']}"
        yield _fit(f"  {found['score']:6.1%}  {place:>11}  ", found["text"] or "(no answer in the text)")


def ranked(query: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the query, then its documents, best first, numbered from 1."""
    yield _fit("", query)
    for row in rows:
        yield _fit(f"  {row['score']:6.3f}  {row['index'] + 1:>5}  ", row["text"])


def hits(query: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the query, then its passages, best first: score, id, text."""
    yield _fit("", query)
    id_width = max((len(str(row["id"])) for row in rows), default=0)
    for row in rows:
        yield _fit(f"  {row['score']:6.3f}  {row['id']!s:<{id_width}}  ", row["text"])
    if not rows:
        yield "  nothing found"


def _fit(head: str, text: str) -> str:
    """Return one line of the terminal: ``head`` and as much of the text as fits."""
    width = max(shutil.get_terminal_size().columns - len(head), 20)
    text = " ".join(text.split())
    return head + (text if len(text) <= width else text[: width - 1] + "…")
