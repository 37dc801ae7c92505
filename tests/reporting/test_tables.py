from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import write_run

from mmbert.data.bad_shards import BadShards, LeftOut
from mmbert.evaluation.tiers import below
from mmbert.reporting import tables
from mmbert.reporting.findings import findings, headline
from mmbert.reporting.record import Record, read_record
from mmbert.reporting.tables import Column, Table


def test_changes_read_easily() -> None:
    assert [tables.signed(0.254), tables.signed(-0.01)] == ["−25.4%", "+1.0%"]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    table = Table([Column("a"), Column("b", str)], [["x|y\nz", 2], [None, None]])
    assert table.markdown() == "| a | b |\n| --- | ---: |\n| x\\|y z | 2 |\n|  |  |\n"


def test_the_tier_table_holds_every_model_beside_the_baseline(record: Record) -> None:
    table = tables.tier_table(record)
    assert [row[0] for row in table.rows] == ["unigram of each language", *record.results]
    merged = table.rows[-1]
    for place, summary in enumerate(record.summaries["merged"]):
        assert merged[1 + 3 * place] == summary.bits_per_byte
        assert merged[2 + 3 * place] == pytest.approx(1 - summary.bits_per_byte / table.rows[0][1 + 3 * place])


def test_the_language_table_holds_every_language(record: Record) -> None:
    assert record.baseline is not None
    table = tables.language_table(record)
    titles = [column.title for column in table.columns]
    assert len(table.rows) == 36
    faroese = dict(zip(titles, next(row for row in table.rows if row[1] == "fao_Latn"), strict=True))
    assert faroese["Language"] == "Faroese"
    assert faroese["Tier"] == "decay_all"
    merged, base = record.results["merged"].losses["fao_Latn"], record.baseline.losses["fao_Latn"]
    assert faroese["Change"] == below(merged, base)
    assert faroese["decay_eng"] == record.results["decay_eng"].losses["fao_Latn"].bits_per_byte


def test_the_phase_and_merge_tables(record: Record) -> None:
    phases = tables.phase_table(record).cells()
    assert [cell.text for cell in phases[1]][:8] == [
        "extend",
        "pretrain",
        "1.00M",
        "24",
        "0.5",
        "15.0%",
        "1,024",
        "16.4k",
    ]
    merge = tables.merge_table(record)
    assert [row[0] for row in merge.rows] == ["decay_all", "decay_cont", "decay_eng"]
    assert merge.rows[0][4:] == [1.0, 0.42, 0.21]


def test_the_headline_names_every_tier(record: Record) -> None:
    for summary in record.summaries["merged"]:
        assert f"{100 * summary.below:.1f}% below in tier {summary.tier}" in headline(record)


def test_findings_hold_when_the_figures_do(record: Record) -> None:
    found = findings(record)
    assert len(found) == 5
    assert all(finding.holds for finding in found)


def test_findings_do_not_hold_when_the_figures_do_not(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path))
    results = dict(record.results)
    # the decays change places: the one on English is now the one that saw every language
    results["decay_eng"], results["decay_all"] = results["decay_all"], results["decay_eng"]
    results["merged"] = results["merged"].model_copy(update={"losses": results["pretrain"].losses})
    found = {" ".join(finding.text.split()[:3]): finding for finding in findings(replace(record, results=results))}
    assert not found["In the last"].holds
    assert "is not better than each of" in found["In the last"].text
    assert not found["On the mean"].holds
    worse = {code: loss.model_copy(update={"nats": loss.nats * 9, "bits_per_byte": loss.bits_per_byte * 9})
             for code, loss in results["pretrain"].losses.items()}  # fmt: skip
    results["merged"] = results["merged"].model_copy(update={"losses": worse})
    first = findings(replace(record, results=results))[0]
    assert not first.holds
    assert "no tier" in first.text
    assert "0 of 36" in first.text


def test_shards_left_out_are_told(record: Record, tmp_path: Path) -> None:
    said = "1 damaged shard was left out of training, with 30 documents and 4,000 tokens: web/fao_Latn/00000.tokens."
    left = LeftOut(file="web/fao_Latn/00000.tokens", documents=30, tokens=4000, fault="cut short")
    BadShards(tmp_path).add([left])
    told = findings(replace(record, folder=tmp_path))[-1]
    assert (told.holds, told.text) == (False, said)
