"""What ``mmbert data plan`` shows: the table, the JSON, the picture, with shards and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from little_shards import write_shards
from mmbert.cli.data import app
from mmbert.data.mixture import mixture
from mmbert.data.mixture_report import count, language_rows, mixtures, table
from mmbert.errors import ConfigError
from mmbert.recipe import Recipe
from mmbert.reporting.mixture_plot import draw_mixture, mixture_specification

RECIPE = """
name: tiny
tokenizer: {vocab_size: 512}
model: {hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1}
sources: {crawl: {kind: jsonl, path: x}, books: {kind: jsonl, path: x, language: eng}}
phases:
  pretrain: &phase
    tokens: 4000
    data: {languages: 2, temperature: 1.0, max_epochs: 5}
    context: 64
    mask_rate: 0.3
    batch: 256
    micro_batch: 256
    peak_lr: 1.0e-3
  decay: {<<: *phase, follows: pretrain, tokens: 5000, data: {temperature: 0.0, max_epochs: 5}}
"""
COUNTS = """
phases:
  pretrain:
    data:
      languages: all
      mixture:
        crawl: {tokens: 3B, counts: {file: counts.tsv, column: drawn, drawn_at: 0.5}, temperature: 0.5}
        books: {tokens: 1B}
  decay: null
"""
SIZES = {
    ("crawl", "fra_Latn"): 2000,
    ("books", "fra_Latn"): 1000,
    ("crawl", "deu_Latn"): 1000,
    ("crawl", "xho_Latn"): 100,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def with_counts(folder: Path) -> Path:
    (folder / "counts.tsv").write_text("# a comment\nlanguage\tdrawn\tother\nfra\t300\t1\ndeu\t100\t1\nxho\t0\t1\n")
    path = folder / "counted.yaml"
    path.write_text("extends: tiny.yaml\n" + COUNTS)
    return path


def with_shards(folder: Path) -> Path:
    write_shards(folder / "shards", {stream: [[7] * tokens] for stream, tokens in SIZES.items()})
    return folder


def test_shards_are_planned_per_language(recipe: Path, tmp_path: Path) -> None:
    loaded = Recipe.load(recipe)
    drawn = mixtures(loaded, tmp_path, with_shards(tmp_path) / "shards")
    rows = language_rows(drawn)
    assert [(row.language, row.name, row.tokens) for row in rows] == [
        ("fra_Latn", "French", 3000), ("deu_Latn", "German", 1000), ("xho_Latn", "Xhosa", 100),
    ]  # fmt: skip
    french, _, xhosa = rows
    assert french.phases["pretrain"].share == pytest.approx(0.75)
    assert french.phases["pretrain"].epochs == pytest.approx(1)
    assert set(xhosa.phases) == {"decay"}
    assert (xhosa.phases["decay"].drawn, xhosa.phases["decay"].mark) == (pytest.approx(500), "max")
    assert french.phases["decay"].drawn == pytest.approx(2250)  # with German, half each of what Xhosa leaves
    lines = table(loaded, drawn, rows).splitlines()
    assert lines[2].split() == ["fra_Latn", "French", "3k", "75.000%", "3k", "1.00", "45.000%", "2.25k", "0.75"]
    assert lines[4].split() == ["xho_Latn", "Xhosa", "100", "10.000%", "500", "5.00", "max"]
    assert lines[-2:] == [
        "pretrain: 4k tokens in 16 steps, 2 languages, temperature 1",
        "decay: 5k tokens in 20 steps, 3 languages, temperature 0; 1 held at 5 epochs: xho_Latn",
    ]
    assert list(mixtures(loaded, tmp_path, tmp_path / "shards", ["decay"])) == ["decay"]
    with pytest.raises(ConfigError, match="no phase decya: it has pretrain, decay"):
        mixtures(loaded, tmp_path, tmp_path / "shards", ["decya"])


def test_more_than_five_epochs_are_marked_without_a_cap(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("temperature: 0.0, max_epochs: 5", "temperature: 0.0, max_epochs: null"))
    loaded = Recipe.load(recipe)
    rows = language_rows({"decay": mixture(loaded.phases["decay"], SIZES)})
    assert [row.phases["decay"].mark for row in rows] == ["", "", ">5"]


def test_counts_stand_in_for_shards(recipe: Path, tmp_path: Path) -> None:
    loaded = Recipe.load(with_counts(recipe.parent))
    drawn = mixtures(loaded, tmp_path, tmp_path / "nowhere")
    rows = language_rows(drawn)
    shares = {row.language: row.phases["pretrain"].share for row in rows}
    assert shares == pytest.approx({"fra": 0.75 * 0.75, "eng": 0.25, "deu": 0.75 * 0.25})
    assert [row.language for row in rows] == ["fra", "eng", "deu"]  # by share: sizes are known up to a factor only
    assert all(row.tokens is None and row.phases["pretrain"].epochs is None for row in rows)
    with pytest.raises(ConfigError, match=r"no shards in .*nowhere.*phases\.pretrain\.data.*mmbert data prepare"):
        mixtures(Recipe.load(recipe), tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("phases.pretrain.data.mixture.crawl.counts.file=other.tsv", "no such table of counts"),
        ("phases.pretrain.data.mixture.crawl.counts.column=x", "has no columns language and x; it has language, drawn"),
        (
            "phases.pretrain.data.mixture.crawl.counts=null",
            "mixture.crawl: sizes are not known: run `mmbert",
        ),
    ],
)
def test_faults_of_counts_are_named(recipe: Path, tmp_path: Path, fault: str, message: str) -> None:
    loaded = Recipe.load(with_counts(recipe.parent), [fault])
    with pytest.raises(ConfigError, match=message):
        mixtures(loaded, tmp_path, tmp_path / "nowhere")


def test_a_bad_count_is_named_by_its_row(recipe: Path, tmp_path: Path) -> None:
    path = with_counts(recipe.parent)
    (tmp_path / "counts.tsv").write_text("language\tdrawn\nfra\t300\ndeu\tmany\n")
    with pytest.raises(ConfigError, match=r"counts\.tsv:3: 'many' is not a count"):
        mixtures(Recipe.load(path), tmp_path, tmp_path / "nowhere")


def test_the_command_prints_a_table_or_json_and_draws(recipe: Path, tmp_path: Path) -> None:
    data, picture = with_shards(tmp_path), tmp_path / "shares.svg"
    result = CliRunner().invoke(app, ["plan", str(recipe), "--data", str(data), "--out", str(picture)])
    assert result.exit_code == 0, result.output
    assert "xho_Latn" in result.stdout
    assert "picture" not in result.stdout
    assert "French" in picture.read_text()
    result = CliRunner().invoke(app, ["plan", str(recipe), "--data", str(data), "--json", "--phase", "decay"])
    values = json.loads(result.stdout)
    assert values["phases"]["decay"]["steps"] == 20
    assert sum(stream["share"] for stream in values["phases"]["decay"]["streams"]) == pytest.approx(1)
    assert values["languages"][2]["phases"]["decay"]["capped"] is True


def test_the_picture_holds_every_share_and_epoch(recipe: Path, tmp_path: Path) -> None:
    loaded = Recipe.load(recipe)
    drawn = {name: mixture(loaded.phases[name], SIZES) for name in loaded.order()}
    specification = mixture_specification(language_rows(drawn), list(drawn), title="tiny")
    rows = specification["datasets"]["rows"]
    assert [(row["code"], row["phase"]) for row in rows] == [
        ("fra_Latn", "pretrain"), ("fra_Latn", "decay"), ("deu_Latn", "pretrain"), ("deu_Latn", "decay"),
        ("xho_Latn", "decay"),
    ]  # fmt: skip
    assert [row["held"] for row in rows] == ["no", "no", "no", "no", "yes"]
    assert len(specification["vconcat"]) == 2
    draw_mixture(language_rows(drawn), list(drawn), tmp_path / "shares.html", title="tiny")
    page = (tmp_path / "shares.html").read_text()
    assert "Xhosa" in page
    assert "cdn.jsdelivr.net" not in page  # in itself
    with pytest.raises(ConfigError, match=r"shares\.pdf: choose a name that ends in \.html, \.svg or \.png"):
        draw_mixture(language_rows(drawn), list(drawn), tmp_path / "shares.pdf", title="tiny")


def test_counts_of_tokens_are_short() -> None:
    values = [None, 0, 999, 999.9, 1000, 12_345, 999_600, 4_718_592, 2.3e12]
    assert [count(value) for value in values] == ["", "0", "999", "1k", "1k", "12.3k", "1M", "4.72M", "2.3T"]
