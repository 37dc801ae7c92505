from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_run import RECIPE

from mmbert.errors import MissingExtra
from mmbert.reporting.page import write_report
from mmbert.reporting.plots import CURVES, all_plots, colours, tier_bars
from mmbert.reporting.record import Record

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Outline(HTMLParser):
    """Checks that every element is closed, and keeps what can load something, ids, links, text and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.specs: dict[str, dict[str, object]] = {}
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [f"{tag} {name}" for name in ("src", "srcset", "data", "poster", "action") if name in values]
        self.loads += [tag] if tag in ("link", "iframe", "object", "embed", "base") else []
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self._script = values.get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            if self._script:
                self.specs[self._script.removeprefix("spec-")] = json.loads(data)
        elif self.open[-1:] != ["style"]:
            self.words += data


@pytest.fixture(scope="session")
def page(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(run_folder, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def outline(page: str) -> Outline:
    return Outline(page)


def test_the_page_needs_nothing_else(page: str, outline: Outline) -> None:
    assert outline.open == []
    assert outline.loads == []
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(", page.partition("</style>")[0])
    assert all(link.startswith("#") for link in outline.links)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert len(set(outline.ids)) == len(outline.ids)


def test_every_plot_is_in_the_page_with_its_place(page: str, outline: Outline) -> None:
    curves = {name for name, *_ in CURVES}
    assert set(outline.specs) == {"tiers", "languages", "merge", "retrieval", "shares", "top", *curves}
    assert set(re.findall(r'data-chart="(\w+)"', page)) == set(outline.specs)
    for spec in outline.specs.values():
        assert spec["width"] == "container"
        assert "vega-lite/v6" in str(spec["$schema"])


def test_everything_asked_of_the_report_is_told(outline: Outline) -> None:
    for text in (
        "Merged model, bits per byte", "3.09M parameters", "36 languages", "decay_cont", "Faroese", "tir_Ethi",
        "Tigrinya", "Training curves", "cosine with decay_eng", "mmbert run recipes/made-up.yaml",
        "torch 2.13.0", "peak_lr", "Spelling alone",
        "signs differ in 31.0%", "人人生而自由", "1 language in decay_all",
    ):  # fmt: skip
        assert text in outline.words, text


def test_text_of_the_corpus_cannot_become_markup(page: str, outline: Outline) -> None:
    assert "και ίσοι <script>" in outline.words
    assert "ίσοι <script>" not in page
    assert "ίσοι &lt;script&gt;" in page


def test_right_to_left_scripts_are_set_from_the_right(page: str) -> None:
    assert re.search(r'<p dir="rtl" lang="heb-Hebr">', page)
    assert re.search(r'<p dir="ltr" lang="hin-Deva">', page)


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    outline = Outline(write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert outline.specs == {}
    assert "Not evaluated yet." in outline.words
    assert {link[1:] for link in outline.links} <= set(outline.ids)


def test_without_altair_the_cure_is_named(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtra, match=r"mmbert\[report\]"):
        tier_bars(record)


def test_plots_show_the_figures(record: Record) -> None:
    plots = all_plots(record)
    bars = plots["tiers"]["datasets"]["rows"]
    assert len(bars) == 6 * 3
    merged = [row for row in bars if row["model"] == "merged"]
    assert [row["change"] for row in merged] == [-summary.below for summary in record.summaries["merged"]]
    assert len(plots["languages"]["datasets"]["rows"]) == 36
    assert len(plots["merge"]["datasets"]["rows"]) == 3 * 36
    assert len(plots["shares"]["datasets"]["rows"]) == 12 + 24 + 36 + 24 + 1


def test_curves_are_thinned_to_means_and_the_decays_start_together(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbert.reporting.plots.CURVE_POINTS", 10)
    rows = all_plots(record)["loss"]["datasets"]["rows"]
    for phase in record.phases:
        own = [row for row in rows if row["phase"] == phase]
        lines = record.metrics[phase]
        assert len(own) <= 10
        size = -(-len(lines) // 10)
        assert own[0]["value"] == pytest.approx(sum(line["loss"] for line in lines[:size]) / size)
        assert own[-1]["tokens"] == record.start_of(phase) + lines[-1]["tokens"]


def test_every_phase_has_a_colour_of_its_own(record: Record) -> None:
    palette = colours(record)
    assert len(set(palette.values())) == len(palette) == 7
