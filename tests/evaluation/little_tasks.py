"""Local data of every kind of task, made on the spot: rows that a small model can learn, in three languages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LANGUAGES = ("eng_Latn", "swh_Latn", "fao_Latn")

TOPICS = {"sports": ("ball", "team", "goal"), "health": ("doctor", "fever", "bed")}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def topics(count: int) -> list[dict[str, Any]]:
    """Texts of two topics with words of their own."""
    rows = []
    for number in range(count):
        label = ("sports", "health")[number % 2]
        words = TOPICS[label]
        text = f"the {words[number % 3]} and the {words[(number + 1) % 3]} number {number}"
        rows.append({"id": str(number), "text": text, "label": label})
    return rows


def names(count: int) -> list[dict[str, Any]]:
    """Sentences with one name, which has a capital letter."""
    rows = []
    for number in range(count):
        name = ("Ana", "Kofi", "Lena")[number % 3]
        tokens = ["then", name, "Hall", "saw", "a", "bird", "."] if number % 2 else ["a", "bird", "saw", name, "."]
        tags = ["O", "B-PER", "I-PER", *["O"] * 4] if number % 2 else ["O", "O", "O", "B-PER", "O"]
        rows.append({"id": str(number), "tokens": tokens, "tags": tags})
    return rows


def questions(count: int) -> list[dict[str, Any]]:
    """The answer stands behind the word that the question asks about."""
    rows = []
    for number in range(count):
        place = ("Accra", "Nairobi", "Oslo")[number % 3]
        context = f"She was born in {place} . He has {number} birds ."
        answers = {"text": [place], "answer_start": [context.index(place)]}
        question = "Where was she born ?"
        rows.append({"id": str(number), "context": context, "question": question, "answers": answers})
    return rows


def causes(count: int) -> list[dict[str, Any]]:
    """Two choices, of which one has the premise's word."""
    rows = []
    for number in range(count):
        good, bad = f"the rain fell {number}", f"a bird sang {number}"
        label = number % 2
        choices = [bad, good] if label else [good, bad]
        rows.append(
            {"id": str(number), "premise": f"the rain came {number}", "choice1": choices[0], "choice2": choices[1],
             "question": "cause", "label": label}
        )  # fmt: skip
    return rows


def pairs(count: int, language: str) -> list[dict[str, Any]]:
    """Sentences whose translation shares its number and spelling."""
    return [{"id": str(n), "text": f"{language[:3]} goal {n} {n}", "english": f"goal {n} {n}"} for n in range(count)]


def likenesses(count: int) -> list[dict[str, Any]]:
    """Pairs of texts, alike or not at all."""
    rows = []
    for number in range(count):
        other = f"a bird {number}" if number % 2 else "the rain"
        rows.append({"sentence1": f"a bird {number}", "sentence2": other, "score": 5.0 * (number % 2)})
    return rows


def write_all(folder: Path, count: int = 12) -> Path:
    """The folders of seven tasks, as the package's declarations expect them."""
    for language in LANGUAGES:
        splits = ("train", "test") if language != "fao_Latn" else ("test",)
        for split in splits:
            write_rows(folder / "sib200" / language / f"{split}.jsonl", topics(count))
        write_rows(folder / "tatoeba" / language / "test.jsonl", pairs(count, language))
        for topic in TOPICS:
            (folder / "heldout_text").mkdir(exist_ok=True)
            path = folder / "heldout_text" / f"{language}.jsonl"
            write_rows(path, [{"text": " ".join(TOPICS[topic]) * 5, "id": str(n)} for n in range(3)])
    for language in ("swh_Latn", "hau_Latn"):
        for split in ("train", "test"):
            write_rows(folder / "masakhaner" / language / f"{split}.jsonl", names(count))
    for split in ("dev", "test"):
        write_rows(folder / "jsquad" / "jpn_Jpan" / f"{split}.jsonl", questions(count))
        write_rows(folder / "xcopa" / "tha_Thai" / f"{split}.jsonl", causes(count))
    for split in ("train", "test"):
        write_rows(folder / "jsts" / "jpn_Jpan" / f"{split}.jsonl", likenesses(count))
    write_rows(folder / "xquad" / "deu_Latn" / "test.jsonl", questions(count))
    return folder
