"""Answers as people read them, where standard output is a terminal; elsewhere, and with ``--json``, JSON lines."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="JSON lines on a terminal too. In a pipe or file they always are.")
]


def for_people(as_json: bool) -> bool:
    """Return whether answers are shown as tables."""
    return not as_json and sys.stdout.isatty()


def classes(asked: Any, answer: dict[str, Any]) -> Iterator[str]:
    """The score and the labels that hold, then the text."""
    text = asked if isinstance(asked, str) else "  |  ".join(asked)
    labels = ", ".join(answer["labels"]) or "none"
    yield _fit(f"{answer['score']:6.3f}  {labels:<16}  ", text)


def entities(asked: str, answer: dict[str, Any]) -> Iterator[str]:
    """The text, and below it each entity with its characters."""
    yield _fit("", asked)
    for found in answer["entities"]:
        place = f"{found['start']}-{found['end']}"
        yield _fit(f"  {found['score']:5.3f}  {place:>11}  {found['label']:<8}  ", found["text"])


def fills(asked: str, answer: dict[str, Any]) -> Iterator[str]:
    """The text, and below it the tokens of each mask."""
    several = bool(answer["fills"]) and isinstance(answer["fills"][0], list)
    yield _fit("", asked)
    for number, mask in enumerate(answer["fills"] if several else [answer["fills"]], 1):
        if several:
            yield f"  mask {number}"
        for fill in mask:
            yield _fit(f"  {fill['score']:6.1%}  {fill['token']:<14}  ", fill["text"])


def answers(asked: tuple[str, str], answer: dict[str, Any]) -> Iterator[str]:
    """The question, and below it each answer with its characters in the text."""
    yield _fit("", asked[0])
    for found in answer["answers"]:
        place = f"{found['start']}-{found['end']}"
        yield _fit(f"  {found['score']:6.1%}  {place:>11}  ", found["text"] or "(no answer in the text)")


def ranked(query: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Documents below their query, best first, with their numbers counted from 1."""
    yield _fit("", query)
    for row in rows:
        yield _fit(f"  {row['score']:6.3f}  {row['index'] + 1:>5}  ", row["text"])


def hits(query: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Passages below their query, best first: score, id, text."""
    yield _fit("", query)
    width = max((len(str(row["id"])) for row in rows), default=0)
    for row in rows:
        yield _fit(f"  {row['score']:6.3f}  {row['id']!s:<{width}}  ", row["text"])
    if not rows:
        yield "  nothing found"


def _fit(head: str, text: str) -> str:
    """One line of the terminal: ``head`` and as much of the text as there is room for."""
    room = max(shutil.get_terminal_size().columns - len(head), 20)
    text = " ".join(text.split())
    return head + (text if len(text) <= room else text[: room - 1] + "…")
