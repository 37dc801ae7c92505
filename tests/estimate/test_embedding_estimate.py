"""``mmbert estimate``: time, money and disk of embedding many texts, by hand for simple cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli.main import app
from mmbert.errors import ConfigError, WeightsError
from mmbert.estimate.embedding import BATCH, ROW, TOKENIZED, EmbeddingEstimate, shape_of
from mmbert.estimate.hardware import GB, TERA, Device, Machine, Utilisation
from mmbert.estimate.speed import LAUNCH
from mmbert.model.config import ModelConfig

ALL = Utilisation(matrices=1.0, attention=1.0, memory=1.0, links=1.0)
ROUND = Machine(Device("round numbers", "cuda", 100 * TERA, 10 * TERA, 80 * GB, 1000 * GB, None, None, None, ALL), 1)
BASE = ModelConfig.preset("base")
CORE = Machine.named("cpu", 1)


def test_the_time_of_a_token_by_hand() -> None:
    times = EmbeddingEstimate(BASE, ROUND, 1, 1e6, 256).times
    assert times.matrices == pytest.approx(22 * 2 * (4 * 768**2 + 3 * 768 * 1152) / 100e12)
    assert times.attention == pytest.approx(22 * 4 * 768 * 256 / 100e12)  # 256 keys in every layer: a tile and a window
    # a token and layer, forward: two norms and casts 28 h, GeGLU 10 I, RoPE 64 h and angles, residual 20 h; ends 24 h
    layer = 28 * 768 + 10 * 1152 + 2 * (12 * 768 + 20 * 768 + 8 * 64) + 4 * 768 + 20 * 768
    assert times.elementwise == pytest.approx((22 * layer + 24 * 768) / 1e12)
    assert times.launches == pytest.approx(22 * 30 * LAUNCH / 32_768)
    assert times.seconds == max(times.matrices + times.attention + times.elementwise, times.launches)


def test_hours_and_dollars_by_hand() -> None:
    work = EmbeddingEstimate(BASE, ROUND, devices=8, texts=1e9, length=200, rate=250_000.0, price=3.0)
    assert work.tokens == 200e9
    assert work.seconds == pytest.approx(100_000)  # 200e9 tokens at 2 million a second
    assert work.dollars == pytest.approx(100_000 / 3600 * 8 * 3)
    assert work.tokenizing_cores == pytest.approx(2e6 / TOKENIZED)
    twice = EmbeddingEstimate(BASE, ROUND, devices=16, texts=1e9, length=200, rate=250_000.0, price=3.0)
    assert (twice.seconds, twice.dollars) == (pytest.approx(50_000), pytest.approx(work.dollars))
    with pytest.raises(ConfigError, match="--price"):
        _ = EmbeddingEstimate(BASE, ROUND, 8, 1e9, 200).dollars


def test_bytes_of_vectors_are_those_of_the_files() -> None:
    from mmbert.search.residuals import row_type

    sizes = EmbeddingEstimate(BASE, ROUND, 1, 1, 200).sizes
    assert sizes["float32"] == 3072
    assert sizes["float16"] == 1536
    assert sizes["float16 rows"] == row_type("float16", 768).itemsize
    assert sizes["int8 rows"] == row_type("int8", 768).itemsize == 768 + ROW
    assert sizes["binary"] == 96
    assert sizes["binary, and int8 rows for re-ranking"] == 96 + 778
    assert EmbeddingEstimate(BASE, ROUND, 1, 1, 200, dimensions=100).sizes["binary"] == 13


def test_batches_are_the_librarys() -> None:
    import torch

    from mmbert.inference.batching import token_budget

    assert {kind: token_budget(torch.device(kind)) for kind in BATCH} == BATCH


@pytest.mark.parametrize(("shape", "measured"), [("small", 2179), ("base", 875)])
def test_a_core_is_as_fast_as_one_was_measured(shape: str, measured: float) -> None:
    """One core of an EPYC, bf16, texts of 131 to 393 tokens (benchmarks/RECORDS.md, Inference): within a third."""
    computed = EmbeddingEstimate(ModelConfig.preset(shape), CORE, 1, 1e6, 275).tokens_per_second
    assert 1 / 1.33 < computed / measured < 1.33


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "--devices is 0"),
        ({"texts": 0.0}, "--texts is 0"),
        ({"texts": float("inf")}, "--texts is inf"),
        ({"length": -1.0}, "--length is -1"),
        ({"length": 9000.0}, "--length is 9000: the model reads 8,192"),
        ({"rate": 0.0}, "--rate is 0"),
        ({"price": float("nan")}, "--price is nan"),
        ({"dimensions": 1000}, "--dimensions is 1000: the model's vectors have 768"),
    ],
)
def test_what_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingEstimate(**{"config": BASE, "machine": ROUND, "devices": 1, "texts": 1e6, "length": 200, **options})  # type: ignore[arg-type]


def test_shapes(tmp_path: Path) -> None:
    from mmbert.files import write_json
    from mmbert.model.config import config_to_hf

    assert shape_of("small").hidden_size == 384
    write_json(tmp_path / "config.json", config_to_hf(ModelConfig.preset("nano"), "ModernBertModel", "float32"))
    assert shape_of(str(tmp_path)).hidden_size == ModelConfig.preset("nano").hidden_size
    with pytest.raises(WeightsError, match="no model tiny: give a folder"):
        shape_of("tiny")


def test_the_command_prints_what_it_was_given_and_what_follows() -> None:
    line = "estimate base --texts 1e9 --length 200 --device h200 --devices 8 --rate 250000 --price 3"
    found = CliRunner().invoke(app, line.split())
    assert found.exit_code == 0
    words = " ".join(found.output.split())
    assert "1,000,000,000 texts of 200 tokens on 8 x H200 SXM" in words
    assert "hours 27.8" in words
    assert "dollars, at 3 a device and hour, which you gave 667" in words
    assert "int8 rows 778 778" in words
    computed = CliRunner().invoke(app, ["estimate", "base", "--texts", "1e9", "--length", "200"]).output
    assert "dollars" not in computed
    assert "matrices 0.8" in computed
    wrong = CliRunner().invoke(app, ["estimate", "base", "--texts", "1e9", "--length", "200", "--device", "h300"])
    assert isinstance(wrong.exception, ConfigError)
