"""Little data sets of each task, as JSON lines, that a model of two layers learns in some steps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ["Amina", "Kofi", "Nia", "Juma", "Asha", "Tariq"]
PLACES = ["Accra", "Mombasa", "Dodoma", "Lagos", "Kigali", "Arusha"]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def classes(count: int = 24) -> list[dict[str, Any]]:
    """Of two labels, told by a word."""
    return [
        {"text": f"{NAMES[i % 6]} was {'happy' if i % 2 else 'sad'} in {PLACES[i % 5]}" + " today" * (i % 4),
         "label": "good" if i % 2 else "bad"}
        for i in range(count)
    ]  # fmt: skip


def pairs(count: int = 24) -> list[dict[str, Any]]:
    return [
        {"text": f"{NAMES[i % 6]} lives there", "text_pair": f"{NAMES[i % 6]} does{'' if i % 2 else ' not'}",
         "label": ("entailment", "neutral", "contradiction")[i % 3]}
        for i in range(count)
    ]  # fmt: skip


def numbers(count: int = 24) -> list[dict[str, Any]]:
    return [{"text": "very " * (i % 5) + "good", "label": i % 5 / 2} for i in range(count)]


def several(count: int = 24) -> list[dict[str, Any]]:
    return [
        {"text": f"{'rain' if i % 2 else 'sun'} and {'wind' if i % 3 else 'fog'}",
         "label": [*(["wet"] if i % 2 else []), *(["moving"] if i % 3 else [])]}
        for i in range(count)
    ]  # fmt: skip


def tags(count: int = 24) -> list[dict[str, Any]]:
    return [
        {"tokens": [NAMES[i % 6], "Annan", "left", PLACES[i % 5], ".", *["Then", "we", "slept"] * (i % 3)],
         "tags": ["B-PER", "I-PER", "O", "B-LOC", "O", *["O", "O", "O"] * (i % 3)]}
        for i in range(count)
    ]  # fmt: skip


def answers(count: int = 16) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        context = "We walked on. " * (i % 8) + f"{NAMES[i % 6]} lives in {PLACES[i % 5]}." + " It rains." * (i % 5)
        place = PLACES[i % 5]
        rows.append(
            {"question": f"Where does {NAMES[i % 6]} live?", "context": context,
             "answers": {"text": [place], "answer_start": [context.index(place)]}}
        )  # fmt: skip
    return rows


def choices(count: int = 24) -> list[dict[str, Any]]:
    """Of two and of three choices, mixed."""
    return [
        {"question": f"{NAMES[i % 6]} was hungry.", "label": i % 2,
         "choices": [*(["She ate.", "It rained."] if i % 2 == 0 else ["It rained.", "She ate."]), *["So?"] * (i % 2)]}
        for i in range(count)
    ]  # fmt: skip


SETS = {
    "classify": classes, "pairs": pairs, "regression": numbers, "multi_label": several, "tag": tags, "answer": answers,
    "choose": choices,
}  # fmt: skip
