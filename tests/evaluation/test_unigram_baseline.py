from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from little_shards import write_shards
from mmbert.evaluation.unigram_baseline import ALPHAS, choose_alpha, evaluate_unigram, loss
from mmbert.packed import Packed

REGULAR = np.array([False, False, True, True, True, True])
BYTES = np.array([0, 0, 1, 2, 3, 4])


def batch(labels: list[int]) -> Packed:
    packed = Packed.from_lists([[0] * (len(labels) + 1)])
    return Packed(packed.ids, packed.offsets, packed.longest, np.arange(len(labels)), np.array(labels))


def leave_one_out(tokens: list[int], alpha: float, size: int) -> float:
    """The definition: every token predicted by a model fitted to all the others."""
    total = 0.0
    for place, token in enumerate(tokens):
        rest = tokens[:place] + tokens[place + 1 :]
        total += math.log((rest.count(token) + alpha) / (len(rest) + alpha * size))
    return total


@pytest.mark.parametrize(
    "tokens", [[2, 2, 2, 3, 3, 4], [2, 3, 4, 5], [2] * 50 + [3], [2, 2], [5] * 9 + [4] * 9 + [3] * 8], ids=str
)
def test_alpha_is_the_best_when_each_token_is_left_out(tokens: list[int]) -> None:
    by_definition = [leave_one_out(tokens, float(alpha), 4) for alpha in ALPHAS]
    chosen = choose_alpha(np.bincount(tokens, minlength=6), 4)
    assert by_definition[ALPHAS.tolist().index(chosen)] == pytest.approx(max(by_definition))


def test_no_other_alpha_predicts_new_text_of_the_same_kind_much_better() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(500, 0.1))
    regular = np.ones(500, dtype=bool)
    for size in (30, 300, 30_000):
        counts, wanted = rng.multinomial(size, p), rng.multinomial(20_000, p)
        nats = [-(wanted @ np.log((counts + a) / (size + a * 500))) for a in ALPHAS]
        assert loss(counts, wanted, np.ones(500), regular).nats < 1.03 * min(nats)


def test_loss_by_hand() -> None:
    counts = np.array([7, 0, 6, 2, 0, 0])  # the 7 belong to a special token and do not count
    found = loss(counts, np.array([0, 0, 2, 1, 1, 0]), BYTES, REGULAR)
    total = 8 + 4 * found.alpha
    p = {token: (counts[token] + found.alpha) / total for token in (2, 3, 4)}
    assert found.nats == pytest.approx(-2 * math.log(p[2]) - math.log(p[3]) - math.log(p[4]))
    assert (found.tokens, found.bytes, found.train_tokens) == (4, 7, 8)
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / 7)
    assert found.accuracy == 0.5  # it always says token 2
    assert found.alpha == choose_alpha(np.array([0, 0, 6, 2, 0, 0]), 4)


def test_every_source_of_a_language_counts_and_no_other_language(tmp_path: Path) -> None:
    streams = {
        ("books", "aaa_Latn"): [[2, 2, 3, 2]],
        ("web", "aaa_Latn"): [[2, 4, 3]],
        ("web", "bbb_Latn"): [[5] * 100],
    }
    write_shards(tmp_path, streams)
    asked = {"aaa_Latn": batch([2, 3, 4]), "bbb_Latn": batch([5]), "ccc_Latn": batch([3, 3]), "ddd_Latn": batch([0])}
    found = evaluate_unigram(tmp_path, asked, BYTES, REGULAR)
    assert found["aaa_Latn"] == loss(np.array([0, 0, 4, 2, 1, 0]), np.array([0, 0, 1, 1, 1, 0]), BYTES, REGULAR)
    assert found["bbb_Latn"].accuracy == 1.0
    assert found["ccc_Latn"].nats == pytest.approx(2 * math.log(4))  # no training text: all tokens alike
    assert found["ccc_Latn"].train_tokens == 0
    assert "ddd_Latn" not in found  # its label stands for no byte
