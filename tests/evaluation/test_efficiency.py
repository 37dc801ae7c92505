"""Speed is measured on the lengths that a model reads."""

from __future__ import annotations

from pathlib import Path

from mmbert.evaluation.efficiency import SETS, draw_lengths, measure
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer


def test_lengths_are_those_of_the_benchmark() -> None:
    for longest, spread in SETS.values():
        lengths = draw_lengths(500, longest, spread)
        assert lengths.min() >= 16
        assert lengths.max() <= longest
        assert (len(set(lengths.tolist())) == 1) == (spread is None)


def test_a_model_that_reads_less_is_measured_at_its_own_longest(
    tmp_path: Path, model: MaskedLM, tokenizer: Tokenizer
) -> None:
    model.save(tmp_path)
    tokenizer.save(tmp_path, max_tokens=128)
    found = measure(tmp_path, texts=3, repeats=1)
    assert list(found) == ["128 fixed"]
    assert found["128 fixed"].rows == 3
    assert found["128 fixed"].scores["tokens_per_second"] > 0
