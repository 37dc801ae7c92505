"""The model card: what a model is, what it learned and how to use it, as the hub reads it (README.md)."""

from __future__ import annotations

import textwrap

from mmbert.evaluation.tiers import UNSEEN
from mmbert.formatting import count
from mmbert.hub_names import called, front_matter
from mmbert.languages import name as language_name
from mmbert.reporting.adaptation import adaptation_table
from mmbert.reporting.findings import findings, headline, size_line
from mmbert.reporting.record import Record
from mmbert.reporting.tables import phase_table, tier_table
from mmbert.version import __version__

LICENCE = "apache-2.0"


def model_card(record: Record) -> str:
    """Return README.md of the final model: front matter for the hub, figures, use, training, languages, limits."""
    start = record.recipe.start
    tags = ["modernbert", "mmbert", "multilingual", "encoder", *(["merge"] if record.recipe.merge else [])]
    parts = [
        front_matter(record.languages, start, "fill-mask", tags, f"license: {LICENCE}\n"),
        f"# {record.recipe.name}\n\nA multilingual encoder trained with [mmbert](https://pypi.org/project/mmbert/) "
        f"{__version__} by the mmBERT recipe: {size_line(record)}."
        + (f" It goes on from {called(start)} and learns new languages." if start is not None else ""),
        f"**{headline(record)}**",
        _figures(record),
        _use(record),
        _training(record),
        _languages(record),
        _limits(record),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _figures(record: Record) -> str:
    found = findings(record)
    if not found:
        return ""
    lines = "\n".join(f"- {finding.text}" for finding in found)
    adaptation = adaptation_table(record)
    if adaptation.rows:
        return f"""## Before and after

Bits per byte on held-out text, the same masked tokens for every model; less is better. New: the languages taught here;
kept: known to the start, their text mixed in so that they are not forgotten.

{adaptation.markdown()}
{lines}"""
    return f"""## Figures

Bits per byte on held-out text, the same masked tokens for every model, beside a unigram model fitted to each language's
own training text (which is given the language). Tiers: the languages that a phase is the first to draw. Less is better.

{tier_table(record).markdown()}
{lines}"""


def _use(record: Record) -> str:
    name = record.recipe.name
    return textwrap.dedent(f"""\
        ## Use

        ```python
        from transformers import pipeline

        fill = pipeline("fill-mask", model="{name}")          # this folder
        fill("All human beings are <mask> free and equal.")
        ```

        ```python
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer("{name}").encode(["Good morning", "Habari ya asubuhi"])
        ```""")


def _training(record: Record) -> str:
    model = record.recipe.shape
    merge = record.recipe.merge
    lines = [
        "## Training",
        f"ModernBERT architecture: {model.num_layers} layers of {model.hidden_size}, {model.num_heads} heads, "
        f"GeGLU {model.intermediate_size}. Masked language modelling"
        + (
            "; each phase adds languages, lowers the exponent on their sizes and the mask rate (annealed language "
            "learning)."
            if record.recipe.start is None
            else f", going on from {called(record.recipe.start)}."
        ),
        phase_table(record).markdown(),
    ]
    if merge is not None:
        weights = ", ".join(f"{name} ({weight:g})" for name, weight in merge.phases.items())
        base = f" on {merge.base}" if merge.method == "ties" else ""
        lines.append(f"Merged by {merge.method} from {weights}{base}.")
    return "\n\n".join(line.strip() for line in lines)


def _languages(record: Record) -> str:
    by_tier: dict[str, list[str]] = {}
    if not record.tier_of:
        return ""
    for code, tier in record.tier_of.items():
        by_tier.setdefault(tier, []).append(f"{language_name(code)} (`{code}`)")
    listed = "\n".join(
        f"- **{tier}** ({count(len(names))}): {', '.join(names)}" for tier, names in by_tier.items() if tier != UNSEEN
    )
    folded = f"<details><summary>All</summary>\n\n{listed}\n\n</details>"
    how = "By the phase that first draws them." if record.recipe.start is None else "Of the text trained on here."
    return f"## Languages\n\n{how}\n\n{folded}"


def _limits(record: Record) -> str:
    longest = max(*(phase.context for phase in record.recipe.phases.values()), record.recipe.shape.max_context or 0)
    scarce = "the languages of the last tier" if record.recipe.start is None else "the new languages"
    return f"""## Limits

The model reads up to {longest:,} tokens. It has learned what its training text says, errors and prejudice included, and
from little text in {scarce}. It is made to be fine-tuned; its vectors are not trained for
similarity."""
