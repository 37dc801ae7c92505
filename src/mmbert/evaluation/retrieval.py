"""Cross-lingual retrieval: which of N messages is the translation of this one?

Held-out parallel messages are embedded (mean of the last hidden states, unit length) and each looks for its
translation among the N of its language, English -> language and back; chance is 1/N. Nothing was trained for it.

What spelling alone gives away is measured beside it (character trigrams, no model), and pairs whose two sides are
the same but for case, space and punctuation are not asked at all: names and numbers would flatter any model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.arrays import unit
from mmbert.device import autocast
from mmbert.errors import DataError
from mmbert.evaluation.results import LanguageRetrieval
from mmbert.inference.batching import Batch, run, text_encoder
from mmbert.inference.load import Loaded
from mmbert.inference.pooling import pool
from mmbert.io.find import bare_name, walk
from mmbert.io.find import packed as spellings
from mmbert.io.row_errors import FIX_LINE, no_text
from mmbert.io.rows import read_rows
from mmbert.metrics.bitext import accuracy_both_ways
from mmbert.packed import Packed
from mmbert.recipe import Precision

MIN_PAIRS = 10
"""Languages with fewer pairs are left out: among so few, hits are luck."""

_TRIGRAM_BUCKETS = 1 << 12


@dataclass(frozen=True)
class Pair:
    """A message and its English."""

    text: str
    english: str


def read_pairs(folder: Path, limit: int) -> dict[str, list[Pair]]:
    """Read the pairs per language from ``<language>.jsonl`` or ``<language>/test.jsonl``, also compressed.

    Each line holds ``text`` and ``english``. Dropped: pairs whose sides are the same but for case, space and
    punctuation, and further pairs with a text or an English that was there before (either would be right).
    At most ``limit`` pairs are kept, chosen by a hash of the English: the same messages in every language.
    Raises DataError naming the file and line.
    """
    found = {}
    for language, path in sorted(_files(folder)):
        if language != "eng_Latn":
            # by a hash of the English, so that every language is asked the same messages
            pairs = sorted(_distinct(_read(path)), key=lambda pair: hashlib.sha256(pair.english.encode()).digest())
            if len(pairs[:limit]) >= MIN_PAIRS:
                found[language] = pairs[:limit]
    return found


def evaluate_retrieval(
    loaded: Loaded,
    pairs: Mapping[str, Sequence[Pair]],
    spelling: Mapping[str, tuple[float, float]],
    *,
    batch: int = 16_384,
    context: int = 512,
    precision: Precision = "fp32",
) -> list[LanguageRetrieval]:
    """Return the accuracy at rank 1 per language, in both directions, beside that of :func:`evaluate_spelling`."""
    if not pairs:
        return []
    english = sorted({pair.english for listed in pairs.values() for pair in listed})
    texts = [*english, *(pair.text for listed in pairs.values() for pair in listed)]
    vectors = embed(loaded, texts, batch=batch, context=context, precision=precision)
    row = {text: i for i, text in enumerate(english)}
    results, start = [], len(english)
    for language, listed in pairs.items():
        source = vectors[start : start + len(listed)]
        start += len(listed)
        target = vectors[[row[pair.english] for pair in listed]]
        plain = accuracy_both_ways(source, target)
        centred = accuracy_both_ways(_centred(source), _centred(target))
        results.append(
            LanguageRetrieval(
                language=language, pairs=len(listed), to_english=plain[0], from_english=plain[1],
                centred_to_english=centred[0], centred_from_english=centred[1],
                spelling_to_english=spelling[language][0], spelling_from_english=spelling[language][1],
            )
        )  # fmt: skip
    return results


def evaluate_spelling(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, tuple[float, float]]:
    """Return the same accuracies by character trigrams: language -> (to English, from English)."""
    return {
        language: accuracy_both_ways(trigrams([p.text for p in listed]), trigrams([p.english for p in listed]))
        for language, listed in pairs.items()
    }


def embed(loaded: Loaded, texts: Sequence[str], *, batch: int, context: int, precision: Precision) -> np.ndarray:
    """Return the mean of the last hidden states over each text's tokens, <bos> and <eos> included: (n, h) unit vectors.

    Longer texts are cut to ``context`` tokens. Raises NotFiniteOutput naming a text whose vector is not finite.
    """

    def vectors(packed: Packed, of: Batch) -> list[np.ndarray]:
        with autocast(loaded.device, precision):
            hidden = loaded.encoder(packed)
        return list(of.finite(pool(hidden, packed, ("mean",)).cpu().numpy()))

    encode = text_encoder(loaded, max_tokens=context)
    rows = run(loaded, texts, vectors, encode=encode, budget=batch, progress=True, what="retrieval")
    return unit(np.stack(list(rows)))


def trigrams(texts: Sequence[str]) -> np.ndarray:
    """Return the hashed counts of character trigrams, casefolded, with a space at both ends: (N, 4096) unit vectors."""
    rows = np.zeros((len(texts), _TRIGRAM_BUCKETS), dtype=np.float32)
    for row, text in enumerate(texts):
        codes = np.frombuffer(f" {text.casefold()} ".encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        hashed = codes[:-2] * np.uint32(2654435761) + codes[1:-1] * np.uint32(40503) + codes[2:] * np.uint32(2246822519)
        rows[row] = np.bincount((hashed >> np.uint32(8)) % np.uint32(_TRIGRAM_BUCKETS), minlength=_TRIGRAM_BUCKETS)
    return unit(rows)


def _centred(vectors: np.ndarray) -> np.ndarray:
    # untuned vectors share a direction per language, which hides what they say about meaning
    return unit(vectors - vectors.mean(axis=0, keepdims=True))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise DataError(f"no such folder of parallel text: {folder}")
    for path in walk(folder, spellings(".jsonl")):
        parts = path.relative_to(folder).parts
        if len(parts) == 1:
            yield path.name.split(".")[0], path
        elif len(parts) == 2 and bare_name(path.name) == "test.jsonl":
            yield parts[0], path


def _read(path: Path) -> Iterator[Pair]:
    for number, row in read_rows(path):
        for name in ("text", "english"):
            if not isinstance(row.get(name), str):
                raise no_text(row, name, f"{path}:{number}", FIX_LINE)
        yield Pair(row["text"], row["english"])


def _distinct(pairs: Iterator[Pair]) -> Iterator[Pair]:
    texts: set[str] = set()
    english: set[str] = set()
    for pair in pairs:
        text_key, english_key = _letters(pair.text), _letters(pair.english)
        if not text_key or text_key == english_key or text_key in texts or english_key in english:
            continue
        texts.add(text_key)
        english.add(english_key)
        yield pair


def _letters(text: str) -> str:
    """The text without case, space and punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum())
