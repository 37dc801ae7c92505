"""Words of tokens: letters that meet are of one word, and a word has one fate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert import Tokenizer
from mmbert.data.mask import Vocabulary, generator, mask
from mmbert.data.whole_words import LONGEST, WholeWords

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def groups(*tokens: str) -> list[list[str]]:
    """The tokens by word."""
    starts = WholeWords(tokens).starts(np.arange(len(tokens)))
    cuts = np.flatnonzero(np.diff(starts)) + 1
    assert starts.tolist() == np.repeat([0, *cuts], np.diff([0, *cuts, len(tokens)])).tolist()
    return [[tokens[place] for place in part] for part in np.split(np.arange(len(tokens)), cuts)]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([" un", "trans", "lat", "able", " word"], 2),
        (["do", "n", "'", "t", ","], 4),
        ([" road", ".", "\n", "New", " line"], 5),
        (["ሰ", "ላም", " ", "ለ", "ዓለም"], 3),
        ([" न", "मस", "्ते", " दुनिया"], 2),
        (["我们", "今天", "ภา", "ษา"], 4),
        (["e", "\u0301", "t", "2", "3"], 1),
        (["ᚠ", "\ufffd", "\ufffd", "\ufffd", " a"], 2),
        (["a", "", "b"], 3),
    ],
)
def test_letters_that_meet_are_of_one_word(tokens: list[str], words: int) -> None:
    assert len(groups(*tokens)) == words


def test_long_runs_are_cut() -> None:
    found = groups(" a", *["a"] * (2 * LONGEST), " b")
    assert [len(word) for word in found] == [LONGEST, LONGEST, 1, 1]


@given(
    st.lists(
        st.lists(st.sampled_from([" a", "b", "c", "3", ".", "人"]), min_size=1, max_size=30), min_size=1, max_size=8
    ),
    st.floats(0.05, 0.9),
    st.integers(0, 10**6),
)
def test_a_word_has_one_fate(texts: list[list[str]], rate: float, key: int) -> None:
    tokens = [*SPECIALS, " a", "b", "c", "3", ".", "人"]
    vocabulary = Vocabulary(size=len(tokens), pad=0, eos=1, bos=2, unk=3, mask=4)
    words = WholeWords(["" if token in SPECIALS else token for token in tokens])
    sequences = [[2, *map(tokens.index, text), 1] for text in texts]
    ids = np.array([token for sequence in sequences for token in sequence])
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    shown, targets, labels = mask(ids, offsets, rate, generator(key), vocabulary, words)
    assert np.array_equal(labels, ids[targets])
    assert not vocabulary.is_special[labels].any()
    starts = words.starts(ids)
    for start in np.unique(starts):
        word = np.flatnonzero(starts == start)
        assert np.isin(word, targets).sum() in (0, len(word))
        assert (shown[word] == 4).sum() in (0, len(word))


def test_the_rate_is_that_of_tokens() -> None:
    tokens = [*SPECIALS, *(f" {letter}" for letter in "abcd"), *"efgh"]
    vocabulary = Vocabulary(size=len(tokens), pad=0, eos=1, bos=2, unk=3, mask=4)
    words = WholeWords(["" if token in SPECIALS else token for token in tokens])
    ids = np.random.default_rng(0).integers(5, len(tokens), 200_000)
    ids[0], ids[-1] = 2, 1
    offsets = np.array([0, len(ids)], dtype=np.int32)
    _, targets, _ = mask(ids, offsets, 0.3, generator(0), vocabulary, words)
    lengths = np.unique(words.starts(ids), return_counts=True)[1]
    spread = np.sqrt(0.3 * 0.7 * float((lengths.astype(float) ** 2).sum())) / len(ids)
    assert len(targets) / len(ids) == pytest.approx(0.3, abs=4 * spread)


@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_words_and_masks_with_the_real_tokenizer(form: str, real_models: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(real_models[form])
    (text,) = tokenizer.encode_batch(["<h1>born</h1>\n\n\tfree \U0001e900x <mask> 12 naissent"])
    ids = np.concatenate([[tokenizer.bos_id], text, [tokenizer.eos_id]]).astype(np.int64)
    names = [tokenizer.id_to_token(index) or "" for index in ids.tolist()]
    words = WholeWords(tokenizer.token_texts())
    starts = words.starts(ids)
    assert {names[place] for place in starts} >= {"<h1>", "</h1>", "\n\n", "\t", "<0xF0>", "<bos>", "<eos>"}
    first = names.index("<0xF0>")
    assert starts[first : first + 5].tolist() == [first] * 5, "a character in bytes and the letter after it"
    offsets = np.array([0, len(ids)], np.int32)
    shown, targets, labels = mask(ids, offsets, 0.5, generator(0), Vocabulary.of(tokenizer), words)
    assert (ids[targets] == labels).all()
    assert set(np.flatnonzero(shown != ids)) <= set(targets.tolist())
