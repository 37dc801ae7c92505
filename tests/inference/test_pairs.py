from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from task_folders import OLDER, PAIR, TEXTS, save_theirs, tokenizer_json

from mmbert.errors import DataError, TokenizerError
from mmbert.inference.load import load
from mmbert.inference.pairs import cut_pair, pair_encoder

WORDS = tokenizers.Tokenizer.from_str(tokenizer_json())


today = pytest.mark.skipif(
    Version(tokenizers.__version__) < Version("0.23.3"), reason="tokenizers before 0.23.3 cut pairs by other rules"
)


@today
@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(4, 60))
def test_pairs_are_cut_as_the_library_cuts_them(first: int, second: int, longest: int) -> None:
    WORDS.enable_truncation(longest, strategy="longest_first")
    found = WORDS.encode("!" * first, "!" * second).sequence_ids
    WORDS.no_truncation()
    assert cut_pair(first, second, longest - 3) == (found.count(0), found.count(1))


@today
@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma", *OLDER])
@pytest.mark.parametrize("pair", [PAIR, "<bos> $A <eos> <bos> $B <eos>", "$A <eos> <eos> $B"])
def test_pairs_are_joined_as_the_folder_says(form: str, pair: str, tmp_path: Path) -> None:
    _, words = save_theirs(tmp_path, "SequenceClassification", form=form, pair=pair, max_tokens=48)
    encode = pair_encoder(load(tmp_path))
    pairs = [(a, b) for a in TEXTS[::3] for b in TEXTS] + [("", "Yes!"), ("Yes!", ""), (TEXTS[0] * 3, TEXTS[1] * 3)]
    expected = words([a for a, _ in pairs], [b for _, b in pairs], truncation=True)["input_ids"]
    assert [row.tolist() for row in encode(pairs, 0)] == expected
    assert max(map(len, expected)) == 48
    assert [row.tolist() for row in encode(TEXTS, 0)] == words(TEXTS, truncation=True)["input_ids"]
    mixed = encode([TEXTS[0], pairs[0], [TEXTS[1], TEXTS[2]]], 0)
    assert [row.tolist() for row in mixed][:2] == [words(TEXTS[0], truncation=True)["input_ids"], expected[0]]


def test_prompts_stand_before_the_first(tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification")
    loaded = load(tmp_path)
    (row,) = pair_encoder(loaded, "query: ")([("free", "equal")], 0)
    (other,) = pair_encoder(loaded)([("query: free", "equal")], 0)
    assert row.tolist() == other.tolist()


def test_what_is_no_pair_is_named(tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification")
    encode = pair_encoder(load(tmp_path))
    with pytest.raises(DataError, match="text 8 is tuple of str, int: expected a str, or a pair of two"):
        encode(["a", ("b", 3)], 7)
    with pytest.raises(DataError, match="text 0 is NoneType"):
        encode([None], 0)
    with pytest.raises(DataError, match="tuple of nothing"):
        encode([()], 0)
    with pytest.raises(TokenizerError, match="text 1 holds a lone surrogate at character 2"):
        encode([("a", "b"), ("c", "d \ud800")], 0)


def test_an_order_the_other_way_round_is_refused(tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification", pair="<bos> $B <eos> $A <eos>")
    with pytest.raises(TokenizerError, match="joins two texts"):
        pair_encoder(load(tmp_path))
