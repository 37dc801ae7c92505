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
import torch

from mmbert.errors import DataError, WeightsError
from mmbert.evaluation.heldout_loss import autocast
from mmbert.evaluation.results import LanguageRetrieval
from mmbert.io.find import bare_name, packed, walk
from mmbert.io.row_errors import FIX_LINE, no_text
from mmbert.io.rows import read_rows
from mmbert.log import progress
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Precision
from mmbert.tokenizer.tokenizer import Tokenizer

MIN_PAIRS = 10
"""Languages with fewer pairs are left out: among so few, hits are luck."""

_TRIGRAM_BUCKETS = 1 << 12


@dataclass(frozen=True)
class Pair:
    """A message and its English."""

    text: str
    english: str


def read_pairs(folder: Path, limit: int, *, exclude: str = "eng_Latn") -> dict[str, list[Pair]]:
    """Pairs per language from ``<language>.jsonl`` or ``<language>/test.jsonl``, also compressed.

    Each line holds ``text`` and ``english``. Dropped: pairs whose sides are the same but for case, space and
    punctuation, and further pairs with a text or an English that was there before (either would be right).
    At most ``limit`` pairs are kept, chosen by a hash of the English: the same messages in every language.
    Raises DataError naming the file and line.
    """
    found = {}
    for language, path in sorted(_files(folder)):
        if language != exclude:
            pairs = sorted(_distinct(_read(path)), key=lambda pair: hashlib.sha256(pair.english.encode()).digest())
            if len(pairs[:limit]) >= MIN_PAIRS:
                found[language] = pairs[:limit]
    return found


def evaluate_retrieval(
    model: MaskedLM,
    tokenizer: Tokenizer,
    pairs: Mapping[str, Sequence[Pair]],
    spelling: Mapping[str, tuple[float, float]],
    *,
    batch: int = 16_384,
    context: int = 512,
    precision: Precision = "fp32",
) -> list[LanguageRetrieval]:
    """Accuracy at rank 1 per language, in both directions, beside that of spelling alone (:func:`evaluate_spelling`)."""
    if not pairs:
        return []
    english = sorted({pair.english for listed in pairs.values() for pair in listed})
    texts = [*english, *(pair.text for listed in pairs.values() for pair in listed)]
    vectors = embed(model, tokenizer, texts, batch=batch, context=context, precision=precision)
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
                language=language,
                pairs=len(listed),
                to_english=plain[0],
                from_english=plain[1],
                centred_to_english=centred[0],
                centred_from_english=centred[1],
                surface_to_english=spelling[language][0],
                surface_from_english=spelling[language][1],
            )
        )
    return results


def evaluate_spelling(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, tuple[float, float]]:
    """The same accuracies by character trigrams: language -> (to English, from English)."""
    return {
        language: accuracy_both_ways(trigrams([p.text for p in listed]), trigrams([p.english for p in listed]))
        for language, listed in pairs.items()
    }


def embed(
    model: MaskedLM, tokenizer: Tokenizer, texts: Sequence[str], *, batch: int, context: int, precision: Precision
) -> np.ndarray:
    """Mean of the last hidden states over a text's tokens (<bos> and <eos> included, as in sentence-transformers).

    Returns (texts, hidden) float32 of unit length, in the order given. Longer texts are cut to ``context`` tokens.
    Raises WeightsError naming a text whose vector is not finite.
    """
    device = next(model.parameters()).device
    ids = [_with_ends(tokens, tokenizer, context) for tokens in tokenizer.encode_batch(list(texts))]
    vectors = np.zeros((len(ids), model.decoder.weight.shape[1]), dtype=np.float32)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), progress[None](total=len(ids), desc="retrieval", unit="text") as bar:
            for rows in _by_length([len(sequence) for sequence in ids], batch):
                packed = Packed.from_lists([ids[row] for row in rows]).to(device)
                with autocast(device, precision):
                    hidden = model.encode(packed)
                vectors[rows] = _mean(hidden.float(), packed).cpu().numpy()
                bar.update(len(rows))
    finally:
        model.train(training)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = texts[int(finite.argmin())]
        raise WeightsError(f"the model's vector of {text[:60]!r} holds NaN or infinite values: take another checkpoint")
    return unit(vectors)


def accuracy_both_ways(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """How often row i of one side is nearest to row i of the other: (source -> target, target -> source).

    (N, d) unit vectors each. Ties are shared: of k equally near candidates the right one counts 1/k.
    """
    similarity = source @ target.T
    return _accuracy(similarity), _accuracy(similarity.T)


def trigrams(texts: Sequence[str]) -> np.ndarray:
    """Hashed counts of character trigrams, casefolded, with a space at both ends: (N, 4096) unit vectors."""
    rows = np.zeros((len(texts), _TRIGRAM_BUCKETS), dtype=np.float32)
    for row, text in enumerate(texts):
        codes = np.frombuffer(f" {text.casefold()} ".encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        hashed = codes[:-2] * np.uint32(2654435761) + codes[1:-1] * np.uint32(40503) + codes[2:] * np.uint32(2246822519)
        rows[row] = np.bincount((hashed >> np.uint32(8)) % np.uint32(_TRIGRAM_BUCKETS), minlength=_TRIGRAM_BUCKETS)
    return unit(rows)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _accuracy(similarity: np.ndarray) -> float:
    true = similarity.diagonal()[:, None]
    # equal vectors may differ in the last bit of their products; 1e-6 is far below any meaning of a similarity
    ties = (np.abs(similarity - true) <= 1e-6).sum(axis=1)
    closer = (similarity > true + 1e-6).any(axis=1)
    return float(np.where(closer, 0.0, 1.0 / ties).mean())


def _centred(vectors: np.ndarray) -> np.ndarray:
    return unit(vectors - vectors.mean(axis=0, keepdims=True))


def _mean(hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
    """(T, h) rows -> (S, h) means over each sequence."""
    lengths = torch.tensor(packed.lengths, device=hidden.device)
    owner = torch.repeat_interleave(torch.arange(packed.sequences, device=hidden.device), lengths)
    sums = hidden.new_zeros(packed.sequences, hidden.shape[1]).index_add_(0, owner, hidden)
    return sums / lengths[:, None]


def _with_ends(tokens: np.ndarray, tokenizer: Tokenizer, context: int) -> list[int]:
    return [tokenizer.bos_id, *tokens[: context - 2].tolist(), tokenizer.eos_id]


def _by_length(lengths: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Indices in groups of similar length, each of at most ``batch`` tokens (or one sequence)."""
    group: list[int] = []
    size = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and size + lengths[index] > batch:
            yield group
            group, size = [], 0
        group.append(index)
        size += lengths[index]
    if group:
        yield group


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise DataError(f"no such folder of parallel text: {folder}")
    for path in walk(folder, packed(".jsonl")):
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
