"""A run's tables as Markdown and its plots as SVG, to keep them in a repository."""

from __future__ import annotations

from pathlib import Path

from mmbert.files import write_text
from mmbert.reporting import tables
from mmbert.reporting.adaptation import adaptation_table
from mmbert.reporting.charts import Spec, load_library
from mmbert.reporting.findings import findings, headline, size_line
from mmbert.reporting.plots import all_plots
from mmbert.reporting.record import Record, read_record

_WIDTH = 760

_CAPTIONS = {
    "tiers": "Change in bits per byte against the unigram model of each language, by model and tier",
    "languages": "Each language: change against its unigram model, over the size of its training text",
    "merge": "The merge against each model it was made of: a tick a language, the diamond their mean",
    "retrieval": "Translations found at rank 1 by the model's vectors, over what spelling alone finds",
    "shares": "Share of each language by rank, one line a phase",
    "top": "The languages most drawn at first, in every phase",
    "loss": "Training loss",
}


def write_markdown(run_folder: Path, out: Path) -> Path:
    """Write ``out/README.md`` and the plots beside it as SVG, from a run's files; returns the README's path.

    Raises MissingExtra without altair and vl-convert, MMBertError if the folder is not a run's.
    """
    record = read_record(run_folder)
    plots = {name: spec for name, spec in all_plots(record).items() if name in _CAPTIONS}
    for name, spec in plots.items():
        write_text(out / f"{name}.svg", svg(spec))
    write_text(out / "README.md", markdown(record, list(plots)))
    return out / "README.md"


def markdown(record: Record, plots: list[str]) -> str:
    """Return the page's tables, with the plots of these names linked as files beside it."""
    blocks = [
        f"# {record.recipe.name}",
        f"{size_line(record)}.",
        f"**{headline(record)}**",
        "\n".join(f"- {'yes' if finding.holds else '**no**'}: {finding.text}" for finding in findings(record)),
        *(f"```bash\n{command}\n```" for command in record.environment.get("commands", [])),
        *_section("Before and after", [], plots, adaptation_table(record)),
        *_section("Loss by tier", ["tiers"], plots, tables.tier_table(record)),
        *_section("Merge", ["merge"], plots, tables.merge_table(record)),
        *_section("Retrieval", ["retrieval"], plots, tables.retrieval_by_model(record)),
        *_section("Phases", ["shares", "top", "loss"], plots, tables.phase_table(record)),
        *_section("Every language", ["languages"], plots, tables.language_table(record)),
    ]
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


def svg(spec: Spec) -> str:
    """Return a plot as SVG on white paper."""
    config = {**spec["config"], "background": "white"}
    text: str = load_library("vl_convert").vegalite_to_svg({**spec, "width": _WIDTH, "config": config})
    return text


def _section(title: str, names: list[str], plots: list[str], table: tables.Table | None) -> list[str]:
    images = [f"![{_CAPTIONS[name]}]({name}.svg)" for name in names if name in plots]
    body = [*images, *([table.markdown()] if table is not None and table.rows else [])]
    return [f"## {title}", *body] if body else []
