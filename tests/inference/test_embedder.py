"""The Embedder's own interface: forms of input and output, warnings, bad input."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sentence_folders import TEXTS
from sentence_transformers.util.quantization import quantize_embeddings

import mmbert
from mmbert.errors import ConfigError, DataError, MMBertError, TokenizerError
from mmbert.inference.embedder import Embedder
from mmbert.inference.vectors import measure_ranges, quantize


@pytest.fixture(scope="module")
def embed(bare: Path) -> Embedder:
    return Embedder.load(bare, device="cpu", precision="fp32")


def test_public_name() -> None:
    assert mmbert.Embedder is Embedder


def test_a_text_a_list_and_a_stream(embed: Embedder) -> None:
    many = embed(TEXTS)
    assert many.shape == (len(TEXTS), embed.dimensions) == (len(TEXTS), 32)
    assert many.dtype == np.float32
    assert np.allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)
    one = embed(TEXTS[3])
    assert one.shape == (32,)
    assert abs(one - many[3]).max() < 1e-6
    assert (embed(tuple(TEXTS)) == many).all()
    stream = embed(iter(TEXTS))
    assert isinstance(stream, Iterator)
    assert abs(np.stack(list(stream)) - many).max() < 1e-6
    assert embed([]).shape == (0, 32)
    endless = embed.stream(itertools.cycle(TEXTS), window=16, progress=False)
    rows = list(itertools.islice(endless, 40))
    assert abs(rows[35] - many[35 % len(TEXTS)]).max() < 1e-6


def test_dimensions_and_length(embed: Embedder) -> None:
    whole = embed(TEXTS, normalize=False)
    assert abs(np.linalg.norm(whole, axis=1) - 1).max() > 0.1
    assert abs(embed(TEXTS, dimensions=8, normalize=False) - whole[:, :8]).max() < 1e-6
    short = embed(TEXTS, dimensions=8)
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    wanted = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert abs(short - wanted).max() < 1e-6


@pytest.mark.parametrize(("name", "mode"), [("first", "cls"), ("last", "lasttoken"), ("max", "max")])
def test_poolings_by_name(embed: Embedder, bare: Path, name: str, mode: str) -> None:
    other = Embedder(embed.loaded, pooling=name)
    assert other.pooling.modes == (mode,)
    states = embed.encode(TEXTS, output_value="token_embeddings")
    wanted = [rows[0] if name == "first" else rows[-1] if name == "last" else rows.amax(dim=0) for rows in states]
    found = other(TEXTS, normalize=False)
    assert max(float(abs(row - vector.numpy()).max()) for row, vector in zip(found, wanted, strict=True)) < 1e-6


def test_layer_mix_is_of_hidden_states(embed: Embedder, bare: Path) -> None:
    theirs = transformers.AutoModel.from_pretrained(bare).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(bare)
    found = Embedder(embed.loaded, layers=[3, 1])(TEXTS[:4], normalize=False)
    for text, vector in zip(TEXTS, found, strict=False):
        states = theirs(**tokens(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        wanted = (0.75 * states[-2] + 0.25 * states[-1])[0].mean(dim=0).detach().numpy()
        assert abs(vector - wanted).max() < 1e-5


@pytest.mark.parametrize("output", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_outputs_are_those_of_sentence_transformers(embed: Embedder, output: Any) -> None:
    vectors = embed(TEXTS)
    embed.calibrate(TEXTS)
    found = embed(TEXTS, output=output)
    assert embed.ranges is not None
    if output == "float16":
        assert found.dtype == np.float16
        assert abs(found.astype(np.float32) - vectors).max() < 1e-3
        return
    theirs = quantize_embeddings(vectors, output, ranges=embed.ranges)
    assert found.dtype == theirs.dtype
    assert found.shape == theirs.shape
    assert (found == theirs).mean() > 0.98
    mine = quantize(vectors, output, measure_ranges(vectors))
    assert (mine == quantize_embeddings(vectors, output)).all()
    (one,) = embed(iter(TEXTS[:1]), output=output)
    assert abs(one.astype(int) - found[0].astype(int)).max() <= (1 if "int8" in output else 0)


def test_ranges_are_needed(bare: Path) -> None:
    fresh = Embedder.load(bare, device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="calibrate"):
        fresh(TEXTS, output="int8")
    with pytest.raises(ConfigError, match="at least two vectors"):
        fresh.calibrate(TEXTS[:1])
    fresh.calibrate(TEXTS, dimensions=8)
    assert fresh(TEXTS, output="int8", dimensions=8).shape == (len(TEXTS), 8)
    with pytest.raises(ConfigError, match="calibrate again"):
        fresh(TEXTS, output="int8")


def test_warns_once_that_nothing_was_tuned(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    embed = Embedder.load(bare, device="cpu", precision="fp32")
    with caplog.at_level(logging.WARNING, "mmbert"):
        assert not caplog.records
        embed(TEXTS[0])
        embed(TEXTS[0])
    assert len(caplog.records) == 1
    assert "tune it: mmbert finetune embed model=" in caplog.text


def test_warns_once_of_empty_and_of_long_texts(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    embed = Embedder.load(bare, device="cpu", precision="fp32", max_tokens=30)
    with caplog.at_level(logging.WARNING, "mmbert"):
        vectors = embed(["fine", "", "", TEXTS[-1], TEXTS[-2]])
    told = [record.message for record in caplog.records if "tuned" not in record.message]
    assert len(told) == 2
    assert "text 1 is empty" in told[0]
    assert "text 3 is longer than the 30 tokens" in told[1]
    assert np.isfinite(vectors).all()
    assert (vectors[1] == vectors[2]).all()


def test_ten_megabytes(embed: Embedder) -> None:
    beginning = "All human beings are born free. "
    vectors = embed([beginning * 320_000, beginning * 100, "x" + " " * 200_000 + "y", "x" + " " * 40_000])
    assert abs(vectors[0] - vectors[1]).max() < 1e-6  # both are cut at 512 tokens
    assert embed.loaded.max_tokens == 512


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["fine", 3], "text 1 is int"),
        (["fine", float("nan")], "text 1 is float"),
        (["fine", "\udcff"], "text 1 holds a lone surrogate at character 0"),
        ([["nested"]], "text 0 is list"),
        (b"bytes", "texts are bytes"),
        (None, "texts are NoneType"),
        ({"a": 1}, "texts are dict"),
    ],
)
def test_bad_texts(embed: Embedder, texts: Any, said: str) -> None:
    with pytest.raises((TokenizerError, ConfigError, DataError), match=said) as caught:
        embed(texts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dimensions": 0}, "dimensions is 0"),
        ({"dimensions": 33}, "1 to 32"),
        ({"output": "int4"}, "int4"),
        ({"chunking": "early"}, "early"),
    ],
)
def test_bad_options(embed: Embedder, options: dict[str, Any], said: str) -> None:
    with pytest.raises(MMBertError, match=said):
        embed(TEXTS, **options)


@pytest.mark.parametrize(
    "options", [{"pooling": "median"}, {"pooling": []}, {"layers": [1.0] * 6}, {"layers": [1, -1]}, {"max_tokens": 2}]
)
def test_bad_options_of_loading(embed: Embedder, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Embedder(embed.loaded, **options)


def test_tokens_and_their_characters(embed: Embedder) -> None:
    found = embed.tokens(TEXTS)
    states = embed.encode(TEXTS, output_value="token_embeddings")
    for text, tokens, rows in zip(TEXTS, found, states, strict=True):
        assert tokens.text == text
        assert abs(tokens.vectors - rows[1:-1].numpy()).max() < 1e-6
        assert len(tokens.ids) == len(tokens.spans) == len(tokens.vectors)
        assert tokens.spans[0, 0] == 0
        assert tokens.spans[-1, 1] == len(text)
        assert (np.diff(tokens.spans[:, 0]) >= 0).all()
        pieces = dict.fromkeys(map(tuple, tokens.spans.tolist()))
        assert "".join(text[start:end] for start, end in pieces) == text
    single = embed.tokens(TEXTS[0])
    assert single.text == TEXTS[0]
    assert [tokens.text for tokens in embed.tokens(iter(TEXTS))] == TEXTS


def test_similarity(embed: Embedder) -> None:
    found = embed.similarity(embed(TEXTS[:2]), embed(TEXTS))
    assert found.shape == (2, len(TEXTS))
    assert np.allclose(found[[0, 1], [0, 1]], 1, atol=1e-5)
    with pytest.raises(ConfigError, match="same dimensions"):
        embed.similarity(np.zeros((2, 3)), np.zeros((2, 4)))
