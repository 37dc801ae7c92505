from __future__ import annotations

from pathlib import Path

from made_up_run import LANGUAGES, RECIPE
from ruamel.yaml import YAML

from mmbert.hub_names import iso_codes
from mmbert.reporting.card import model_card
from mmbert.reporting.findings import headline
from mmbert.reporting.markdown import write_markdown
from mmbert.reporting.record import Record, read_record
from mmbert.reporting.tables import tier_table


def test_front_matter_is_what_the_hub_reads(record: Record) -> None:
    _, matter, body = model_card(record).split("---\n", 2)
    values = YAML(typ="safe", pure=True).load(matter)
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "fill-mask"
    assert {"modernbert", "multilingual", "merge"} <= set(values["tags"])
    assert {"en", "zh", "he", "fo", "ti"} <= set(values["language"])
    assert len(values["language"]) == len(LANGUAGES)
    assert body.startswith("\n# made-up")


def test_the_card_has_the_figures_and_the_use(record: Record) -> None:
    card = model_card(record)
    assert headline(record) in card
    assert tier_table(record).markdown() in card
    assert 'pipeline("fill-mask"' in card
    assert "SentenceTransformer(" in card
    assert "up to 1,024 tokens" in card
    assert "Merged by ties from decay_all (1), decay_cont (1), decay_eng (1) on extend." in card
    assert "Faroese (`fao_Latn`)" in card


def test_a_model_without_figures_has_a_card(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    card = model_card(read_record(tmp_path))
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "## Figures" not in card


def test_codes_for_the_hub() -> None:
    codes = ["heb_Hebr", "cmn_Hani", "cmn_Hans", "arb_Arab", "nob_Latn", "tgl_Latn", "ami_Latn", "kal", "code"]
    assert iso_codes(codes) == ["ami", "ar", "code", "he", "kl", "nb", "tl", "zh"]


def test_markdown_with_plots_beside_it(run_folder: Path, tmp_path: Path, record: Record) -> None:
    text = write_markdown(run_folder, tmp_path / "docs").read_text(encoding="utf-8")
    assert headline(record) in text
    assert tier_table(record).markdown().strip() in text
    linked = {line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert linked == {path.name for path in (tmp_path / "docs").glob("*.svg")}
    assert "tiers.svg" in linked
    drawing = (tmp_path / "docs" / "tiers.svg").read_text(encoding="utf-8")
    assert drawing.startswith("<svg")
    assert "decay_cont" in drawing
