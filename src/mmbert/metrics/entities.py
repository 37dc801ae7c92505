"""F1 of entities: as seqeval counts them, on labels of words, and on characters of the raw text.

seqeval 1.2.2 (default mode, the rules of the CoNLL-2000 script ``conlleval``) is what XTREME, WikiANN and MasakhaNER
report. An entity counts if its type and both of its ends are right; true positives, predictions and gold entities are
summed over all sentences (micro). It is small enough to be written down here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mmbert.errors import DataError, UndefinedMetric

Chunk = tuple[str, int, int]
"""Type, first word, last word."""

Span = tuple[int, int, str]
"""Start and end in characters, and type."""


@dataclass(frozen=True)
class Counts:
    """Entities that are right, that were predicted, and that there are."""

    right: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """0 where nothing is right."""
        # 2 P R / (P + R) with P = right / predicted and R = right / gold
        both = self.predicted + self.gold
        return 2 * self.right / both if both else 0.0


def read_chunks(labels: Sequence[str]) -> list[Chunk]:
    """Return the entities of one sentence as seqeval's ``get_entities`` finds them.

    An ``I-`` that follows no entity of its type begins one. Labels without a prefix, as of parts of speech, are read
    with their first letter as the prefix, as seqeval does: so ``NOUN NOUN`` is one chunk, and the F1 of UDPOS in XTREME
    is that of runs of equal tags (``SCONJ SCONJ``, where S means single, is two).
    """
    chunks: list[Chunk] = []
    before, kind_before, begin = "O", "", 0
    # The "O" at the end closes an entity that reaches the end of the sentence.
    for place, label in enumerate([*labels, "O"]):
        # Exactly seqeval's parsing: "B-PER" is (B, PER), "NOUN" is (N, OUN), and a bare "B" has the type "_".
        prefix, kind = label[:1] or "O", label[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(before, prefix, kind_before, kind):
            chunks.append((kind_before, begin, place - 1))
        if _begins(before, prefix, kind_before, kind):
            begin = place
        before, kind_before = prefix, kind
    return chunks


def _ends(before: str, prefix: str, kind_before: str, kind: str) -> bool:
    # Both functions follow seqeval line by line, so that its odd cases (E- and S- prefixes) come out the same.
    if before in ("E", "S"):
        return True
    if before in ("B", "I") and prefix in ("B", "S", "O"):
        return True
    return before not in ("O", ".") and kind_before != kind


def _begins(before: str, prefix: str, kind_before: str, kind: str) -> bool:
    if prefix in ("B", "S"):
        return True
    if before in ("E", "S", "O") and prefix in ("E", "I"):
        return True
    return prefix not in ("O", ".") and kind_before != kind


def count_entities(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Counts:
    """Return the sums over sentences, each a list of labels, one a word.

    Raises DataError for a sentence with another number of labels than gold ones.
    """
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} predictions for {len(gold)} sentences: give one for each")
    for number, (given, wanted) in enumerate(zip(predicted, gold, strict=True)):
        if len(given) != len(wanted):
            raise DataError(f"sentence {number}: {len(given)} labels for {len(wanted)} words: give one for each")
    return _count(map(read_chunks, predicted), map(read_chunks, gold))


def entity_f1(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> float:
    """Return seqeval's ``f1_score``; 0 where nothing is right. Raises UndefinedMetric if there is no gold entity."""
    return _f1(count_entities(predicted, gold), len(gold))


def token_accuracy(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> float:
    """Return the part of all words whose label is right (MasakhaPOS, Dione et al. 2305.13989)."""
    count_entities(predicted, gold)  # the same checks
    pairs = [pair for both in zip(predicted, gold, strict=True) for pair in zip(*both, strict=True)]
    if not pairs:
        raise UndefinedMetric("there is nothing to score: no sentence has a word")
    return sum(given == wanted for given, wanted in pairs) / len(pairs)


def count_spans(predicted: Iterable[Collection[Span]], gold: Iterable[Collection[Span]]) -> Counts:
    """Return the same on characters: each text has spans (start, end, type), and both ends must be right."""
    return _count(predicted, gold)


def span_f1(predicted: Sequence[Collection[Span]], gold: Sequence[Collection[Span]]) -> float:
    """Return the F1 of entities on characters of the raw text. Raises UndefinedMetric if there is no gold entity."""
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} predictions for {len(gold)} texts: give one for each")
    return _f1(count_spans(predicted, gold), len(gold))


def _f1(counts: Counts, texts: int) -> float:
    if not counts.gold:
        raise UndefinedMetric(f"F1 of entities has no value: none of the {texts} texts has one")
    return counts.f1


def _count(predicted: Iterable[Collection[object]], gold: Iterable[Collection[object]]) -> Counts:
    sums = [0, 0, 0]
    for given, wanted in zip(predicted, gold, strict=True):
        # Sets: an entity that is predicted twice counts once.
        one, other = set(given), set(wanted)
        sums = [sums[0] + len(one & other), sums[1] + len(one), sums[2] + len(other)]
    return Counts(*sums)
