"""``report.html``: everything about a run in one file that needs nothing else.

The Vega libraries are put into the page once, with all plots as data; the page's own policy forbids it to fetch
anything. It reads in light and dark, on a phone and on paper.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mmbert.evaluation.results import FilledMask, summarise_retrieval
from mmbert.evaluation.tiers import NEW
from mmbert.files import write_text
from mmbert.formatting import count
from mmbert.languages import name as language_name
from mmbert.reporting import plots, tables
from mmbert.reporting.adaptation import MOST_LOST, adaptation_groups, adaptation_table
from mmbert.reporting.charts import Spec, load_library
from mmbert.reporting.findings import findings, headline, size_line
from mmbert.reporting.record import Record, read_record
from mmbert.version import __version__

_RIGHT_TO_LEFT = frozenset({"Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg", "Samr", "Mand"})


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page."""

    value: str
    label: str
    good: bool


def write_report(run_folder: Path, out: Path) -> Path:
    """Write the report of a run, read from its files alone (see ``mmbert.reporting.record``); returns ``out``.

    Raises MissingExtra without altair, jinja2 and vl-convert, MMBertError if the folder is not a run's.
    """
    record = read_record(run_folder)
    write_text(out, render(record))
    return out


def render(record: Record) -> str:
    """Return the page as text."""
    jinja2, vl_convert = load_library("jinja2"), load_library("vl_convert")
    specs = plots.all_plots(record)
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.BaseLoader(),
    )
    template = environment.from_string(resources.files("mmbert.reporting").joinpath("page.html.j2").read_text("utf-8"))
    page: str = template.render(
        record=record,
        version=__version__,
        headline=headline(record),
        findings=findings(record),
        size_line=size_line(record),
        tiles=_tiles(record),
        specs={name: _script(spec) for name, spec in specs.items()},
        curve_names=[name for name, *_ in plots.CURVES if name in specs],
        colours=plots.colours(record),
        phase_table=tables.phase_table(record),
        adaptation_table=adaptation_table(record),
        tier_table=tables.tier_table(record),
        language_table=tables.language_table(record),
        retrieval_table=tables.retrieval_table(record),
        retrieval=summarise_retrieval(record.final.retrieval) if record.final else None,
        merge_table=tables.merge_table(record),
        run_table=tables.facts_table(_run_facts(record)),
        machine_table=tables.facts_table({k: v for k, v in record.environment.items() if k != "commands"}),
        commands=record.environment.get("commands", []),
        filled=[_shown(sample) for sample in record.final.filled] if record.final else [],
        over_cap=_over_cap(record),
        recipe_text=(record.folder / "recipe.yaml").read_text(encoding="utf-8"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace("</script", "<\\/script"),
        percent=tables.percent,
    )
    return page


def _script(spec: Spec) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _tiles(record: Record) -> list[Tile]:
    if record.final is None:
        return []
    final = record.final.model
    changes = [
        (group.change(final), f"the start, {group.tier} ({len(group.languages)} languages)", group.tier != NEW)
        for group in adaptation_groups(record)
    ] or [
        (s.below, f"unigram, tier {s.tier} ({s.languages} languages)", False) for s in record.summaries.get(final, [])
    ]
    tiles = [
        Tile(tables.signed(below), f"bits per byte against {what}", below > (-MOST_LOST if known else 0))
        for below, what, known in changes
    ]
    retrieval = summarise_retrieval(record.final.retrieval)
    if retrieval is not None:
        among = f"translations found at rank 1 in {retrieval.languages} languages"
        found, chance = tables.percent(retrieval.accuracy), tables.percent(retrieval.chance)
        tiles.append(Tile(found, f"{among}; chance {chance}", retrieval.z > 5))
    return tiles


def _run_facts(record: Record) -> dict[str, Any]:
    model, recipe, size = record.recipe.shape, record.recipe, record.parameters
    tokenizer = recipe.vocabulary
    trained = None if isinstance(tokenizer, str) else f"trained here: BPE of {tokenizer.vocab_size:,}"
    streams = {(s.source, s.language): s.tokens or 0 for mixed in record.mixture.values() for s in mixed.streams}
    text = sum(streams.values())
    return {
        "recipe": recipe.name,
        "model": f"{model.num_layers} layers of {model.hidden_size}, {model.num_heads} heads, GeGLU "
        f"{model.intermediate_size}, global attention every {model.global_every} layers, else within {model.window}",
        "parameters": f"{size.masked_lm:,} with the prediction head, {size.encoder:,} in the encoder, "
        f"{size.without_embeddings:,} of them not token embeddings"
        if size
        else None,
        "tokenizer": trained or tokenizer,
        "started_from": recipe.start,
        "sources": {name: source.kind for name, source in recipe.sources.items()},
        "languages": len({language for _, language in streams}) or None,
        "training_text": f"{count(text)} tokens" if text else None,
        "tokens_trained_on": count(record.tokens_seen()) if record.tokens_seen() else None,
        "held-out_text": _heldout_line(record),
        "seed": recipe.seed,
    }


def _heldout_line(record: Record) -> str | None:
    if record.baseline is None:
        return None
    masked = sum(loss.tokens for loss in record.baseline.losses.values())
    return f"{count(masked)} masked tokens in {len(record.baseline.losses)} languages, the same for every model"


def _over_cap(record: Record) -> dict[str, int]:
    """Per phase, how many languages the cap of epochs held back."""
    capped = {phase: sum(share.capped for share in drawn) for phase, drawn in record.languages_per_phase.items()}
    return {phase: number for phase, number in capped.items() if number}


def _shown(sample: FilledMask) -> dict[str, Any]:
    return {
        "language": language_name(sample.language),
        "code": sample.language,
        "direction": "rtl" if sample.language.partition("_")[2] in _RIGHT_TO_LEFT else "ltr",
        "before": sample.before,
        "after": sample.after,
        "truth": sample.truth.replace("▁", " ").strip(),
        "guesses": [
            {
                "token": _visible(guess.token),
                "inside": not guess.token.startswith("▁"),
                "part": guess.probability,
                "right": guess.token == sample.truth,
            }
            for guess in sample.guesses
        ],
    }


def _visible(token: str) -> str:
    """A token without the sign of the space before it; what would not show gets a sign."""
    bare = token.removeprefix("▁") or "␣"
    return bare.replace("▁", "␣").replace("\n", "↵").replace("\t", "⇥")
