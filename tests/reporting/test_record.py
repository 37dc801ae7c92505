from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_run import GAINS, LANGUAGES, RECIPE, write_run

from mmbert.errors import MMBertError
from mmbert.reporting.record import Record, read_record


def test_phases_tiers_and_models_are_in_the_recipes_order(record: Record) -> None:
    assert record.phases == ["pretrain", "extend", "decay_all", "decay_cont", "decay_eng"]
    assert list(record.results) == list(GAINS)
    assert record.final is record.results["merged"]
    assert list(dict.fromkeys(record.tier_of.values())) == ["pretrain", "extend", "decay_all"]
    assert list(record.tier_of) == LANGUAGES  # by tier, then by size
    assert record.tier_of["eng_Latn"] == "pretrain"
    assert record.tier_of["fao_Latn"] == "decay_all"
    assert [s.languages for s in record.summaries["merged"]] == [12, 12, 12]


def test_tokens_are_counted_along_the_tree(record: Record) -> None:
    assert [record.start_of(phase) for phase in record.phases] == [0, 2_000_000, 3_000_000, 3_000_000, 3_000_000]
    assert record.tokens_seen() == sum(n // 16384 * 16384 for n in (2_000_000, 1_000_000, 500_000, 500_000, 500_000))


def test_parameters_are_counted_with_the_vocabulary_that_came_out(record: Record) -> None:
    assert record.parameters is not None
    layer = 4 * 192 * 192 + 3 * 384 * 192
    encoder = 8192 * 192 + 4 * layer + 9 * 192
    assert record.parameters.encoder == encoder
    assert record.parameters.masked_lm == encoder + 192 * 192 + 192 + 8192


def test_shares_of_all_sources_are_added(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    streams = [
        {"source": "web", "language": "fra_Latn", "share": 0.5, "tokens": 100_000, "epochs": 5, "capped": True},
        {"source": "books", "language": "fra_Latn", "share": 0.2, "tokens": 300_000, "epochs": 1, "capped": False},
        {"source": "web", "language": "deu_Latn", "share": 0.3, "tokens": 600_000, "epochs": 1, "capped": False},
        {"source": "web", "language": "ita_Latn", "share": 0.0, "tokens": 10, "epochs": 0, "capped": False},
    ]
    (tmp_path / "mixture.json").write_text(json.dumps({"extend": streams}))
    french, german = read_record(tmp_path).languages_per_phase["extend"]
    assert (french.name, french.share, french.tokens, french.capped) == ("fra_Latn", 0.7, 400_000, True)
    assert french.epochs == pytest.approx(0.7 * 1_000_000 / 400_000)
    assert (german.name, german.capped) == ("deu_Latn", False)


def test_a_run_that_has_only_begun_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    record = read_record(tmp_path)
    assert record.final is None
    assert record.summaries == {}
    assert record.parameters is None
    assert record.tokens_seen() == 0


def test_steps_written_twice_count_once_and_a_cut_last_line_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "pretrain").mkdir()
    lines = ['{"tokens": 100, "loss": 5}', '{"tokens": 200, "loss": 4}', '{"tokens": 200, "loss": 3}', '{"tokens": 30']
    metrics = tmp_path / "pretrain" / "metrics.jsonl"
    metrics.write_text("\n".join(lines))
    assert [line["loss"] for line in read_record(tmp_path).metrics["pretrain"]] == [5, 3]
    metrics.write_text("\n".join([lines[3], *lines[:2]]))
    with pytest.raises(MMBertError, match=r"metrics\.jsonl:1 "):
        read_record(tmp_path)


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MMBertError, match=r"no recipe\.yaml"):
        read_record(tmp_path)


def test_a_damaged_mixture_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "mixture.json").write_text('{"pretrain": [{"language": "x"}]}')
    with pytest.raises(MMBertError, match=r"mixture\.json"):
        read_record(tmp_path)
    assert len(LANGUAGES) == 36
