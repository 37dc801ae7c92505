"""The Gemma 2 tokenizer itself, and the form in which the released mmBERT has it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings

from all_scripts import ODD, texts
from mmbert import Tokenizer
from mmbert.doctor.model import spaces
from mmbert.tokenizer.measure import measure

thorough = settings(max_examples=300, deadline=None, database=None)
TAGGED = "<h1>a</h1>\n\n\n\tb    c"
ADLAM = "\U0001e900"


@pytest.fixture(scope="module", params=["gemma2", "released"])
def real(request: pytest.FixtureRequest, real_tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return real_tokenizers[request.param]


def random_texts(count: int) -> Iterator[str]:
    """The same texts every time: characters of all planes, and odd strings."""
    draw = random.Random(0)
    for _ in range(count):
        parts = (
            draw.choice(ODD) if draw.random() < 0.4 else chr(draw.randrange(draw.choice([0x80, 0x3000, 0xD800])))
            if draw.random() < 0.7 else chr(draw.randrange(0xE000, 0x110000))
            for _ in range(draw.randint(0, 20))
        )  # fmt: skip
        yield "".join(parts)


def named(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    return [tokenizer.id_to_token(index) or "" for index in ids.tolist()]


def test_each_byte_has_a_token_and_the_tab_is_one(real: Tokenizer) -> None:
    assert len(set(real.byte_ids)) == 256
    assert real.byte_ids[9] == 226
    assert real.id_to_token(226) == "\t"
    others = [byte for byte in range(256) if byte != 9]
    assert [real.id_to_token(real.byte_ids[byte]) for byte in others] == [f"<0x{byte:02X}>" for byte in others]
    assert {index: real.byte_ids[byte] for index, byte in real.byte_tokens.items()} == {i: i for i in real.byte_tokens}
    assert 226 not in real.byte_tokens, "a tab that is written as a tab is no fallback"
    assert real.decode([real.byte_ids[byte] for byte in ADLAM.encode()]) == ADLAM


@pytest.fixture(scope="module")
def counted(real_tokenizers: dict[str, Tokenizer]) -> list[tuple[Tokenizer, np.ndarray]]:
    return [(tokenizer, tokenizer.token_bytes()) for tokenizer in real_tokenizers.values()]


@thorough
@given(text=texts)
def test_any_text_is_spelled_and_its_bytes_add_up(counted: list[tuple[Tokenizer, np.ndarray]], text: str) -> None:
    for tokenizer, counts in counted:
        (ids,) = tokenizer.encode_batch([text])
        assert not set(ids.tolist()) & set(tokenizer.special_ids)
        assert counts[ids].sum() == len(tokenizer.written.decode(ids.tolist()).encode())


def test_bytes_of_thousands_of_texts_add_up(real: Tokenizer) -> None:
    drawn = list(random_texts(4000))
    counts, spelled = real.token_bytes(), real.token_texts()
    for text, ids in zip(drawn, real.encode_batch(drawn), strict=True):
        decoded = real.written.decode(ids.tolist())
        assert counts[ids].sum() == len(decoded.encode()), text
        assert real.decode(ids) == (decoded.removeprefix(" ") if real.puts_space else text.replace("\u2581", " "))
        if not set(ids.tolist()) & real.byte_tokens.keys():
            assert "".join(spelled[index] for index in ids) == decoded
    assert (counts[226], spelled[226], counts[real.byte_ids[0xF0]], spelled[real.byte_ids[0xF0]]) == (
        1,
        "\t",
        1,
        "\ufffd",
    )


def test_ids_are_those_of_the_library(real: Tokenizer, gemma2: Path, released: Path) -> None:
    drawn = [TAGGED, "", " ", "a <mask> b", *random_texts(2000)]
    folder = released if real.puts_space else gemma2
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = real.encode_batch(drawn, specials=True)
    for text, ids, theirs in zip(drawn, ours, plain.encode_batch(drawn, add_special_tokens=False), strict=True):
        assert ids.tolist() == theirs.ids, text
    assert real.written.encode(TAGGED).ids == plain.encode(TAGGED).ids
    assert real.written.encode(TAGGED, "b").ids == plain.encode(TAGGED, "b").ids


def test_added_tokens_in_text(real_tokenizers: dict[str, Tokenizer]) -> None:
    gemma, released = real_tokenizers["gemma2"], real_tokenizers["released"]
    ((ids, spans),) = gemma.encode_spans([TAGGED])
    assert named(gemma, ids) == ["<h1>", "a", "</h1>", "\n\n\n", "\t", "b", "▁▁▁▁", "c"]
    assert [TAGGED[start:end] for start, end in spans] == ["<h1>", "a", "</h1>", "\n\n\n", "\t", "b", "    ", "c"]
    ((ids, spans),) = released.encode_spans([TAGGED])
    assert named(released, ids) == ["<h1>", "▁a", "</h1>", "\n\n\n", "▁", "\t", "b", "▁", "▁", "▁", "▁c"]
    assert [TAGGED[start:end] for start, end in spans] == [
        "<h1>", "a", "</h1>", "\n\n\n", "", "\t", "b", " ", " ", " ", " c"
    ]  # fmt: skip
    assert gemma.decode(gemma.encode(TAGGED)) == TAGGED
    assert released.decode(released.encode(TAGGED)) == "<h1> a</h1>\n\n\n \tb    c", "its file says no more"
    assert [named(gemma, ids) for ids in gemma.encode_batch(["<mask>", "<bos>"])] == [
        ["<", "mask", ">"],
        ["<", "bos", ">"],
    ]


def test_the_space_that_is_put_before_a_text(real_tokenizers: dict[str, Tokenizer]) -> None:
    gemma, released = real_tokenizers["gemma2"], real_tokenizers["released"]
    assert (gemma.puts_space, released.puts_space) == (False, True)
    for text in ["born free", ADLAM, "\t", "a  b", "人人", "a \n b"]:
        assert gemma.decode(gemma.encode(text)) == released.decode(released.encode(text)) == text
        assert released.decode(released.encode(text), specials=True) == f"<bos> {text}<eos>"
    ((ids, spans),) = released.encode_spans([f"{ADLAM} {ADLAM}"])
    assert named(released, ids)[::5] == ["▁", "▁"]
    assert spans.tolist() == [[0, 0], *[[0, 1]] * 4, [1, 2], *[[2, 3]] * 4]
    assert spaces(gemma) == "written ▁; none is put before a text; decoding gives the text back"
    assert "one is put before every text" in spaces(released)


def test_measured_byte_fallback(real: Tokenizer) -> None:
    found = {each.language: each for each in measure(real, [("ful_Adlm", ADLAM * 2), ("eng_Latn", "a\tb")])}
    fula, english = found["ful_Adlm"], found["eng_Latn"]
    assert fula.byte_fallback_rate == 8 / (8 + real.puts_space)
    assert english.byte_fallback_rate == 0.0
    assert fula.bytes_per_token == 8 / (8 + real.puts_space)


def test_nothing_reads_the_file_twice(gemma2: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes((gemma2 / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.load(tmp_path)
    path.unlink()
    assert tokenizer.written.encode("a").tokens == ["<bos>", "a"]
    assert tokenizer.written.encode("a", "b").tokens == ["<bos>", "a", "<bos>", "b"], "as the file joins them"
    assert tokenizer.encode("a") == [2, 235250, 1]
