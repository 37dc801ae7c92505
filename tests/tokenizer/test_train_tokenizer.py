from __future__ import annotations

import json
import logging
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.errors import TokenizerError
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.specials import GEMMA
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import _Sample, sample_by_language, train_tokenizer

sizes_of = st.dictionaries(st.sampled_from([f"l{i}" for i in range(40)]), st.integers(0, 10**9), max_size=40)


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.id_to_token(i) or "" for i in range(tokenizer.vocab_size)]


def test_vocabulary_has_the_size_and_the_order(texts: list[tuple[str, str]]) -> None:
    tokenizer = train_tokenizer(texts, TokenizerTraining(vocab_size=700))
    tokens = vocabulary(tokenizer)
    assert len(tokens) == len(set(tokens)) == 700
    assert tokens[:5] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    assert tokens[5:261] == [f"<0x{byte:02X}>" for byte in range(256)]
    learned = tokens[261:]
    alphabet = [token for token in learned if len(token) == 1]
    assert 0 < len(alphabet) <= (700 - 261) // 3, "characters leave room for merges"
    assert (
        " human" in learned or " free" in learned or any(token.startswith(" ") and len(token) > 3 for token in learned)
    )


def test_too_little_text_gives_fewer_tokens_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mmbert"):
        tokenizer = train_tokenizer([("eng_Latn", "to be or not to be")], TokenizerTraining(vocab_size=4096))
    assert 261 < tokenizer.vocab_size < 300
    assert f"only {tokenizer.vocab_size} of the 4096 tokens" in caplog.text
    assert tokenizer.decode(tokenizer.encode("to be, or not?")) == "to be, or not?"


def test_text_without_any_repetition_gives_bytes() -> None:
    tokenizer = train_tokenizer([("eng_Latn", "abc")], TokenizerTraining(vocab_size=512))
    assert tokenizer.vocab_size == 261
    assert tokenizer.decode(tokenizer.encode("a ж")) == "a ж"


@pytest.mark.parametrize("texts", [[], [("eng_Latn", "")]])
def test_no_text_is_an_error(texts: list[tuple[str, str]]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer(texts, TokenizerTraining())


def test_merges_stay_inside_words_and_digits_alone() -> None:
    text = "the cat sat on the mat 1234 1234, the cat 人人 the cat\n\n\n" * 200
    tokens = vocabulary(train_tokenizer([("eng_Latn", text)], TokenizerTraining(vocab_size=700)))[261:]
    assert " the" in tokens
    assert " cat" in tokens
    assert "\n\n" in tokens
    assert not [token for token in tokens if " " in token[1:] and token.strip()]
    assert not [token for token in tokens if len(token) > 1 and any(c.isdigit() for c in token)]
    assert not [token for token in tokens if "," in token and len(token) > 1]


def test_longest_token(texts: list[tuple[str, str]]) -> None:
    tokens = vocabulary(train_tokenizer(texts, TokenizerTraining(vocab_size=1024, max_token_length=4)))
    assert max(map(len, tokens[261:])) == 4


def test_text_cannot_teach_special_tokens() -> None:
    text = "<mask><bos> <mask> <0xAB> <pad>x" * 300 + f"a{SPACE}b" * 300
    tokenizer = train_tokenizer([("eng_Latn", text)], TokenizerTraining(vocab_size=512))
    for sample in ["<mask>", " <mask><bos>", "<0xAB>", "<pad>x", f"a{SPACE}b"]:
        ids = tokenizer.encode_batch([sample])[0]
        assert not set(ids.tolist()) & set(tokenizer.special_ids)
        assert tokenizer.decode(ids) == sample
    assert not [token for token in vocabulary(tokenizer) if SPACE in token]


def test_same_text_same_bytes(texts: list[tuple[str, str]], trained: Tokenizer, tmp_path: Path) -> None:
    """In another process, with another seed of Python's hashes and another number of threads."""
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    program = (
        "import json, sys; from pathlib import Path; from mmbert.recipe import TokenizerTraining;"
        "from mmbert.tokenizer.train import train_tokenizer; folder = Path(sys.argv[1]);"
        "texts = [tuple(x) for x in json.loads((folder / 'texts.json').read_text())];"
        "train_tokenizer(texts, TokenizerTraining(vocab_size=1024)).save(folder / 'other')"
    )
    environment = {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1", "PATH": ""}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment, timeout=60)
    trained.save(tmp_path / "here")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(sizes_of, st.floats(0, 1), st.integers(0, 10**9))
def test_sample_takes_the_budget_and_no_more_than_there_is(
    sizes: dict[str, int], temperature: float, budget: int
) -> None:
    taken = sample_by_language(sizes, temperature, budget)
    assert taken.keys() == sizes.keys()
    assert all(0 <= taken[language] <= size for language, size in sizes.items())
    assert abs(sum(taken.values()) - min(budget, sum(sizes.values()))) <= len(sizes)
    order = sorted(sizes, key=lambda language: sizes[language])
    assert all(taken[a] <= taken[b] + 1 for a, b in pairwise(order)), "more text, no less sample"


def test_sample_follows_the_temperature() -> None:
    sizes = {"big": 10_000_000, "small": 10_000, "tiny": 10}
    natural = sample_by_language(sizes, 1.0, 100_000)
    assert natural["big"] / natural["small"] == pytest.approx(1000, rel=0.02)
    half = sample_by_language(sizes, 0.5, 100_000)
    assert half["tiny"] == 10
    assert half["big"] + half["small"] == 99_990, "what tiny lacks goes to the others"
    assert half["big"] / half["small"] == pytest.approx(1000**0.5, rel=0.01)
    equal = sample_by_language({"a": 500, "b": 5000}, 0.0, 600)
    assert equal == {"a": 300, "b": 300}


def test_one_pass_keeps_little_and_draws_evenly() -> None:
    sample = _Sample(budget=100_000, temperature=0.5)
    for i in range(4000):
        sample.add("big", f"{i:04d}" * 250)
        if i % 100 == 0:
            sample.add("small", "ab" * 500)
        assert sample._kept <= 4 * 100_000 + 3 * 4096
    drawn = list(sample.draw())
    assert sum(map(len, drawn)) == pytest.approx(100_000, rel=0.02)
    small = sum(len(part) for part in drawn if part[0] == "a")
    wanted = sample_by_language({"big": 4_000_000, "small": 40_000}, 0.5, 100_000)
    assert small == pytest.approx(wanted["small"], rel=0.1)
    numbers = [int(part[:4]) for part in drawn if part[0] != "a"]
    assert min(numbers) < 400, "from the beginning"
    assert max(numbers) > 3600, "to the end"


def test_mask_is_saved_as_a_word_with_its_space(trained: Tokenizer, prefixed: Tokenizer, tmp_path: Path) -> None:
    for tokenizer, right in ((trained, False), (prefixed, True)):
        tokenizer.save(tmp_path)
        added = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
        assert [token["content"] for token in added] == list(GEMMA.values())
        assert added[4]["lstrip"]
        assert added[4]["rstrip"] is right
        assert not any(token["lstrip"] or token["rstrip"] for token in added[:4])
