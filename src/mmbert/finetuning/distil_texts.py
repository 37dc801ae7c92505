"""The texts that a student learns from: sentences of a corpus, by temperature over languages, without evaluation data.

A document is divided into sentences, and neighbours are joined until a length is reached that is drawn for each text,
evenly on a logarithmic scale: most texts are single sentences, which give the most targets per token, and some are
paragraphs, so that longer texts are learned as well. Every choice is a function of the seed and the text.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.corpus_texts import UNKNOWN, chosen_texts
from mmbert.data.dedup import Seen, text_hash
from mmbert.data.mixture import annealed, fill
from mmbert.data.permute import key_of
from mmbert.errors import ConfigError, DataError
from mmbert.files import atomic_file, read_json, write_json
from mmbert.finetuning.distil_words import word_texts
from mmbert.finetuning.recipe_distil import Distil
from mmbert.inference.chunking import split_text
from mmbert.io.find import find_files
from mmbert.io.rows import TABLES, read_rows
from mmbert.log import progress

log = logging.getLogger(__name__)

TEXTS, CHOSEN = "texts.jsonl", "texts.json"


@dataclass(frozen=True)
class ChosenTexts:
    """Texts and their languages: of training, then ``heldout`` more that the student is compared on.

    digest  of all texts in their order, which the teacher's vectors belong to
    """

    texts: list[str]
    languages: list[str]
    heldout: int
    digest: str

    @property
    def training(self) -> int:
        """Return the number of texts to learn from, which come first."""
        return len(self.texts) - self.heldout


def prepare_texts(options: Distil, seed: int, folder: Path, tokens: Callable[[], Sequence[str]]) -> ChosenTexts:
    """Return the texts of a run, chosen once and kept in ``folder``.

    tokens  gives the texts of the tokens of the student's vocabulary (``distil.vocabulary``)
    Raises ConfigError or DataError: nothing to read, a language without text, or a folder with other choices.
    """
    stated = _stated(options, seed)
    if (folder / CHOSEN).is_file():
        kept = read_json(folder / CHOSEN)
        changed = [name for name in stated if kept["options"].get(name) != stated[name]]
        if changed:
            raise ConfigError(
                f"{folder} holds texts that were chosen with another distil.{changed[0]}: give another --out, or "
                f"remove {folder / TEXTS} and {folder / CHOSEN}"
            )
    else:
        if not options.text:
            raise ConfigError("distil.text names no text to learn from: give distil.text=[FOLDER]")
        _choose(options, seed, folder, tokens)
        kept = read_json(folder / CHOSEN)
    rows = [row for _, row in read_rows(folder / TEXTS)]
    found = ChosenTexts(
        [row["text"] for row in rows], [row["language"] for row in rows], kept["heldout"], kept["digest"]
    )
    if digest_of(found.texts) != found.digest:
        raise DataError(f"{folder / TEXTS} was changed since it was written: remove it and {folder / CHOSEN}")
    return found


_CHOICES = {
    "vectors", "text", "language_field", "languages", "texts", "vocabulary", "temperature", "shortest", "longest",
    "exclude", "heldout",
}  # fmt: skip


def _choose(options: Distil, seed: int, folder: Path, tokens: Callable[[], Sequence[str]]) -> None:
    excluded = sentences_of(options.exclude)
    dropped = {"evaluation data": 0, "exact copies": 0}
    found: dict[str, list[tuple[int, str]]] = {}
    seen = Seen()
    most = options.texts + options.heldout
    bar: progress[None]
    with progress(desc="reading text", unit=" documents") as bar:
        for language, document in chosen_texts(
            list(options.text), options.languages, language_field=options.language_field
        ):
            heap = found.setdefault(language, [])
            for text in passages(document, options, seed, excluded, dropped):
                if not seen.add(text):
                    dropped["exact copies"] += 1
                    continue
                # The texts with the smallest keys are a random sample, whatever the order of the files.
                entry = (-key_of(seed, text), text)
                if len(heap) < most:
                    heapq.heappush(heap, entry)
                elif entry > heap[0]:
                    heapq.heapreplace(heap, entry)
            bar.update()
    if not any(found.values()):
        raise DataError(f"no text of at least {options.shortest} characters in {', '.join(options.text)}")
    ordered = {language: [text for _, text in sorted(heap, reverse=True)] for language, heap in found.items() if heap}
    chosen = _apportion({language: len(texts) for language, texts in ordered.items()}, options)
    training = [(language, text) for language, count in chosen.items() for text in ordered[language][: count[0]]]
    heldout = [
        (language, text)
        for language, (count, rest) in chosen.items()
        for text in ordered[language][count : count + rest]
    ]
    lists = round(options.vocabulary * len(training))
    words = word_texts(tokens(), lists, seed) if lists else []
    training += [(UNKNOWN, text) for text in words]
    # In the order of their keys every beginning of the file is a sample of all languages.
    training.sort(key=lambda pair: key_of(seed, "order", pair[1]))
    keep_texts(folder, options, seed, [*training, *heldout], len(heldout), dropped)
    log.info(
        "%s texts in %d languages and %s lists of words, %s texts held out; left out: %s exact copies, %s sentences of "
        "evaluation data", f"{len(training) - len(words):,}", len(chosen), f"{len(words):,}", f"{len(heldout):,}",
        f"{dropped['exact copies']:,}", f"{dropped['evaluation data']:,}",
    )  # fmt: skip


def keep_texts(
    folder: Path,
    options: Distil,
    seed: int,
    rows: Sequence[tuple[str, str]],
    heldout: int,
    dropped: Mapping[str, int] | None = None,
) -> None:
    """Write the texts of a run, (language, text), the last ``heldout`` of which are held out."""
    with atomic_file(folder / TEXTS) as file:
        for language, text in rows:
            file.write(json.dumps({"language": language, "text": text}, ensure_ascii=False).encode() + b"\n")
    counts = Counter(language for language, _ in rows[: len(rows) - heldout])
    write_json(
        folder / CHOSEN,
        {
            "options": _stated(options, seed), "heldout": heldout, "digest": digest_of(text for _, text in rows),
            "dropped": dropped or {}, "languages": dict(counts.most_common()),
        },
    )  # fmt: skip


def _stated(options: Distil, seed: int) -> dict[str, object]:
    """Return the options that decide which texts a run has."""
    values = options.model_dump(mode="json", include=_CHOICES)
    return {**values, "seed": seed}


def passages(document: str, options: Distil, seed: int, excluded: set[bytes], dropped: dict[str, int]) -> Iterator[str]:
    """Yield the texts of a document: runs of whole sentences of ``shortest`` to ``longest`` characters.

    A sentence that is excluded is counted in ``dropped`` and ends a run; one that is longer than ``longest`` is cut at
    its last space before.
    """
    draw = np.random.default_rng(key_of(seed, "lengths", document[:1000], len(document)))
    span = math.log(options.longest / options.shortest)
    wanted, run = 0.0, ""
    for start, end in split_text(document, "sentence"):
        sentence = document[start:end]
        if excluded and text_hash(sentence) in excluded:
            dropped["evaluation data"] += 1
            if len(run) >= options.shortest:
                yield run
            run = ""
            continue
        if len(sentence) > options.longest:
            sentence = sentence[: options.longest].rpartition(" ")[0] or sentence[: options.longest]
        if not run:
            wanted = options.shortest * math.exp(span * draw.random())
        joined = f"{run} {sentence}" if run else sentence
        if len(joined) > options.longest:
            yield run
            joined, wanted = sentence, options.shortest * math.exp(span * draw.random())
        run = joined
        if len(run) >= wanted:
            yield run
            run = ""
    if len(run) >= options.shortest:
        yield run


def sentences_of(patterns: Sequence[str]) -> set[bytes]:
    """Return the hashes of all texts in files of evaluation data: whole fields, their lines and their sentences.

    Raises DataError for a name that matches nothing.
    """
    hashes: set[bytes] = set()
    for pattern in patterns:
        _, paths = find_files(pattern, TABLES, "distil.exclude")
        for path in paths:
            for _, row in read_rows(path):
                for value in _texts_in(row):
                    parts = [value, *value.split("\n"), *(value[a:b] for a, b in split_text(value, "sentence"))]
                    hashes.update(text_hash(part) for part in parts if part.strip())
    return hashes


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)


def _apportion(sizes: Mapping[str, int], options: Distil) -> dict[str, tuple[int, int]]:
    """Return (texts to learn from, texts held out) of each language, at most what there is."""
    names = sorted(sizes)
    there = np.array([sizes[name] for name in names], dtype=np.float64)
    total = int(there.sum())
    heldout = min(options.heldout, total // 10)
    # A language keeps at least nine of ten texts to learn from.
    spare = np.floor(there / 10)
    aside = _shares(there, options.temperature, spare, min(heldout, int(spare.sum())))
    rest = there - aside
    learned = _shares(there, options.temperature, rest, min(options.texts, int(rest.sum())))
    return {name: (int(n), int(m)) for name, n, m in zip(names, learned, aside, strict=True)}


def _shares(sizes: np.ndarray, temperature: float, limits: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers that sum to ``total``, by temperature, none above its limit (largest remainders)."""
    exact = fill(annealed(sizes, temperature), limits, total)
    counts = np.floor(exact + 1e-9)
    for index in np.argsort(counts - exact, kind="stable"):
        if counts.sum() >= total:
            break
        counts[index] += counts[index] < limits[index]
    return counts


def digest_of(texts: Iterable[str]) -> str:
    """Return 32 hexadecimal digits of texts in their order."""
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        found.update(text_hash(text))
    return found.hexdigest()
