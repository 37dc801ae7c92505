"""Before and after: what a run that goes on from a model taught it and what it cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_run import write_taught_run

from mmbert.reporting.adaptation import adaptation_groups, adaptation_table
from mmbert.reporting.card import model_card
from mmbert.reporting.findings import findings, headline
from mmbert.reporting.markdown import markdown
from mmbert.reporting.page import render
from mmbert.reporting.plots import all_plots, colours
from mmbert.reporting.record import Record, read_record


@pytest.fixture
def adaptation(tmp_path: Path) -> Record:
    return read_record(write_taught_run(tmp_path / "adapt"))


def test_groups_by_hand(adaptation: Record) -> None:
    """Bits per byte of the made-up run: new 2 -> 1.5 and 4 -> 3; kept 1 -> 1.005, 3 -> 3; not mixed in 2 -> 2.1."""
    new, kept, other = adaptation_groups(adaptation)
    assert list(new.languages) == ["hye_Armn", "tir_Ethi"]
    assert (new.start, new.losses["merged"]) == pytest.approx((3.0, 2.25))
    assert new.change("merged") == pytest.approx(0.25)
    assert new.changes == pytest.approx({"hye_Armn": 0.25, "tir_Ethi": 0.25})
    assert kept.change("merged") == pytest.approx(-0.005 / 4)
    assert kept.change("teach") == pytest.approx(-0.1)
    assert kept.worst == "eng_Latn"
    assert kept.changes == pytest.approx({"eng_Latn": -0.005, "swh_Latn": 0.0})
    assert list(other.languages) == ["fra_Latn"]
    assert other.change("merged") == pytest.approx(-0.05)


def test_table(adaptation: Record) -> None:
    table = adaptation_table(adaptation)
    assert [column.title for column in table.columns] == [
        "Language", "Code", "Group", "Training tokens", "start", "teach", "merged", "Change",
    ]  # fmt: skip
    rows = [[cell.text for cell in row] for row in table.cells()]
    assert rows[0] == ["mean of 2", "", "new", "", "3.000", "2.100", "2.250", "−25.0%"]
    assert [row[0] for row in rows[:3]] == ["mean of 2", "mean of 2", "mean of 1"]
    assert [row[1] for row in rows[3:]] == ["hye_Armn", "tir_Ethi", "eng_Latn", "swh_Latn", "fra_Latn"]
    assert rows[5][2:] == ["kept", "5,000", "1.000", "1.100", "1.005", "+0.5%"]


def test_findings_judge_what_was_promised(adaptation: Record) -> None:
    new, kept, other = findings(adaptation)[:3]
    assert new.holds
    assert "2 new languages go from 3.000 to 2.250 bits per byte (25.0% below; 30.0% below after teach)" in new.text
    assert kept.holds
    assert "English loses most (0.5% above)" in kept.text
    assert not other.holds  # 5 % is more than known languages may lose
    assert headline(adaptation) == (
        "Merged model, bits per byte against the start: 25.0% below in the 2 new languages, 0.1% above in the 2 kept "
        "languages and 5.0% above in the 1 other language."
    )


def test_every_report_shows_it(adaptation: Record) -> None:
    card = model_card(adaptation)
    for text in (card, markdown(adaptation, []), render(adaptation)):
        assert "Before and after" in text
        assert "hye_Armn" in text
    assert 'base_model: "jhu-clsp/mmBERT-base"' in card
    assert "[jhu-clsp/mmBERT-base](https://huggingface.co/jhu-clsp/mmBERT-base)" in card
    assert "reads up to 8,192 tokens" in card
    assert {"new", "kept", "unseen", "start", "merged"} <= set(colours(adaptation))
    assert {"tiers", "languages", "merge"} <= set(all_plots(adaptation))


def test_without_a_start_nothing_is_said(run_folder: Path) -> None:
    record = read_record(run_folder)
    assert adaptation_groups(record) == []
    assert adaptation_table(record).rows == []
    assert "Before and after" not in model_card(record)
