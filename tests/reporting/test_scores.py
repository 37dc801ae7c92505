"""Tables of an evaluation: what they say, in Markdown, LaTeX and JSON, and the plot by tier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbert.errors import ConfigError
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.summary import Figure, SuiteResult, SystemResult, TaskSummary, by_tier, read_tiers
from mmbert.reporting.latex import escape
from mmbert.reporting.score_plots import system_colours, tier_points
from mmbert.reporting.scores import markdown, overview, write_scores

TIERS = {"eng_Latn": "pretrain", "swh_Latn": "mid", "fao_Latn": "decay", "tir_Ethi": "decay"}


def summary(metric: str, **figures: float) -> TaskSummary:
    languages = {code: Figure(value, 0.01) for code, value in figures.items()}
    mean = Figure(sum(figures.values()) / len(figures), 0.02)
    return TaskSummary(metric, languages, mean, dict.fromkeys(figures, 100), (1, 2), {}, (len(figures), 198))


@pytest.fixture
def result() -> SuiteResult:
    suite = Suite.model_validate({"name": "mine", "tasks": {"sib200": {}, "udpos": {}}, "average": True})
    figures = {"eng_Latn": 0.9, "swh_Latn": 0.7, "fao_Latn": 0.6, "tir_Ethi": 0.4}
    model = {"sib200": summary("accuracy", **figures), "udpos": summary("entity_f1", eng_Latn=0.95, fao_Latn=0.55)}
    return SuiteResult(
        suite, [SystemResult("runs/corpus/final", "0" * 16, model), SystemResult("characters", "characters", {})]
    )


def test_overview(result: SuiteResult) -> None:
    rows = [[cell.text for cell in row] for row in overview(result).cells()]
    assert rows[0] == ["SIB-200", "accuracy", "4 of 198", "65.0 ± 2.0", ""]
    assert rows[2] == ["mean", "", "", "70.0", ""]


def test_published_figures_stand_beside() -> None:
    suite = Suite.model_validate({"name": "mine", "tasks": {"rte": {}, "mnli": {}}, "published": "glue"})
    mine = {name: summary("accuracy", eng_Latn=0.5) for name in ("rte", "mnli")}
    table = overview(SuiteResult(suite, [SystemResult("mine", "0", mine)]))
    base = [column.title for column in table.columns].index("mmBERT-base")
    assert [row[base].text for row in table.cells()] == ["85.6", "87.7", "86.7"], "RTE, MNLI and the mean of the two"


def test_whole_suites_have_the_published_mean() -> None:
    suite = Suite.load("xtreme")
    mine = {name: summary("accuracy", eng_Latn=0.5) for name in suite.tasks}
    table = overview(SuiteResult(suite, [SystemResult("mine", "0", mine)]))
    base = [column.title for column in table.columns].index("mmBERT-base")
    assert table.cells()[-1][base].text == "72.8"


def test_glue_shows_the_printed_headline_too() -> None:
    suite = Suite.load("glue")
    mine = {name: summary("accuracy", eng_Latn=0.5) for name in suite.tasks}
    table = overview(SuiteResult(suite, [SystemResult("mine", "0", mine)]))
    titles = [column.title for column in table.columns]
    mean, printed = ([cell.text for cell in row] for row in table.cells()[-2:])
    assert (mean[0], mean[3], mean[titles.index("mmBERT-base")]) == ("mean", "50.0", "86.8")
    names = ("mine", "XLM-R base", "mmBERT-base", "ModernBERT base")
    assert [printed[titles.index(name)] for name in names] == ["", "83.3", "86.3", "87.4"]


def test_tiers(result: SuiteResult) -> None:
    parts = by_tier(result.columns[0].tasks["sib200"], TIERS)
    assert list(parts) == ["pretrain", "mid", "decay"]
    assert parts["decay"][0].mean == pytest.approx(0.5)
    assert parts["decay"][1] == 2
    text = markdown(result, TIERS)
    assert "| SIB-200 | decay | 2 | 50.0 |" in text
    assert "| Faroese (fao_Latn) | decay | 100 | 60.0 ± 1.0 |" in text
    assert "fine-tuned on SIB-200 (eng_Latn); seeds 1, 2" in text
    spec = tier_points(result, TIERS)
    assert {row["tier"] for row in spec["datasets"]["rows"]} == set(TIERS.values())


def test_files(result: SuiteResult, tmp_path: Path) -> None:
    table = tmp_path / "tiers.tsv"
    table.write_text("code\ttier\n" + "".join(f"{code}\t{tier}\n" for code, tier in TIERS.items()))
    suite = result.suite.model_copy(update={"tiers": str(table)})
    path = write_scores(SuiteResult(suite, result.columns), tmp_path / "out")
    assert "![by-tier](by-tier.svg)" in path.read_text()
    assert (tmp_path / "out" / "by-tier.svg").read_text().startswith("<svg")
    values = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert values["columns"][0]["tasks"]["sib200"]["languages"]["fao_Latn"]["mean"] == 0.6
    tex = (tmp_path / "out" / "scores.tex").read_text()
    assert r"SIB-200 & accuracy & 4 of 198 & 65.0 $\pm$ 2.0 &  \\" in tex
    assert tex.count(r"\begin{tabular}") == 4


def test_latex_escapes() -> None:
    assert escape("a_b & 5% {x} \\") == r"a\_b \& 5\% \{x\} \textbackslash{}"


def test_tables_of_tiers_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "tiers.tsv"
    path.write_text("language\ttier\nfao_Latn\tdecay\n")
    with pytest.raises(ConfigError, match=r"code and tier \(there are: language, tier\)"):
        read_tiers(path)
    with pytest.raises(ConfigError, match="set tiers=FILE"):
        read_tiers(tmp_path / "none.tsv")


def test_no_two_columns_of_a_plot_have_one_colour() -> None:
    names = ["one", "two", "three", "four", "untrained", "characters", "character-unigrams"]
    assert len(set(system_colours(names))) == len(names)
