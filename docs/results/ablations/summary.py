"""Write README.md and the plots of the ablations from the JSONs there are.

    python docs/results/ablations/summary.py [RUNS] [OUT]

RUNS  folder of JSONs; default: ``runs`` beside this file
OUT   folder of README.md, tiers.svg, tokens.svg and exposure.svg; default: that of this file
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from comparison import (
    LEVEL,
    SEEDS,
    Difference,
    EqualExposure,
    Runs,
    bits,
    differences,
    equal_exposure,
    read_runs,
    seeds_of,
    tier_means,
)
from configurations import CONFIGURATIONS, MEANING, REFERENCE, STAGES
from plots import write_plots

from mmbert.files import write_text

HERE = Path(__file__).parent
PAIRS = (("annealed", "all-0.5"), ("annealed", "all-0.3"), ("stages-0.5", "all-0.5"))
"""(late, early): with nearly the same exposure of the last tier at the end, then twice with the same temperature where
both draw the last tier."""

HEAD = """# Ablations of the phases

What the phases of the recipe `corpus` are worth at this size: languages that are added phase by phase, the
temperature, the mask rate, and merged decays. Every configuration trains the same model (4 layers of 128, 4,096 tokens)
on the same text, with one tokenizer and the same learning rates, contexts and number of training tokens ({tokens}, all
decays included), in bf16. `CORPUS` and `HELDOUT` are the folders described in [results](../README.md).

```bash
python docs/results/ablations/run.py CORPUS HELDOUT --work WORK --out docs/results/ablations/runs
python docs/results/ablations/summary.py
```

The first command makes the runs that are missing in `runs`, one after another on one core, and continues one that was
stopped. The second command writes this page."""

EXPOSURE = """A sample of 24 languages of the last tier, equally far apart by size of text. Exposure is the number of
tokens of a language that a run has trained on. At each checkpoint of the late run the early run is taken where it has
seen as many tokens of the same language (interpolated between checkpoints). The late run has then seen more text of
other languages. The learning rate is at its peak up to 9.5M tokens; rows beyond that compare a late run whose rate is
falling with an early run whose rate has fallen less."""

METHOD = f"""## How to read it

- **Phases.** All configurations have phases of 2.0M, 3.0M and 9.0M tokens with the same names. Where two
  configurations agree in a phase, they see the same data in it. The learning rate falls over the last 4.5M.
  Temperature is the exponent over the languages' sizes.
- **Repetition.** No language is repeated more than five times in a phase. Where all languages are drawn from the start,
  the cap holds for the whole run, so that a language of the last tier is repeated at most five times in every
  configuration.
- **TIES.** `ties` trains 13M tokens to the end of `decay_all` and 0.5M in each of two short decays, and merges the
  three without a trim, weighted by tokens. All of them count in its 14M tokens.
- **Evaluation.** Masked-token loss on held-out text in bits per byte, on the same masks for all runs and seeds. Tiers
  are those of the annealed configuration. Means are over languages, each counting the same.
- **Tests.** The bits per byte of each language are averaged over the seeds that both configurations have, and the
  differences are tested with the Wilcoxon signed-rank test over languages, two-sided, with Holm's correction over all
  rows of a table. The languages share one model, so this test does not see the spread between seeds. The paired t-test
  over seeds, of the mean over languages, does (not corrected, and weak with {len(SEEDS)} seeds). A difference is called
  better or worse only if p < {LEVEL:g} in both and all {len(SEEDS)} seeds are there."""


def main(folder: Path, out: Path) -> None:
    runs = read_runs(folder)
    found = differences(runs)
    rows = [row for late, early in PAIRS for row in equal_exposure(runs, late, early)]
    plots = write_plots(runs, found, out)
    write_text(out / "README.md", page(runs, found, rows, plots))


def page(runs: Runs, found: Sequence[Difference], rows: Sequence[EqualExposure], plots: Sequence[str]) -> str:
    """Return README.md. ``plots``: names of the plots that there are."""
    tokens = f"{next(iter(runs.values()))['tokens']:,}" if runs else "14,000,128"
    blocks = [HEAD.format(tokens=tokens), *state(runs)]
    if runs:
        blocks += summary(found), "## Bits per byte by tier", tier_table(runs)
    if found:
        blocks += "## Differences to the annealed configuration", *_plot(plots, "tiers", "Differences by tier")
        blocks += [difference_table(found)]
    blocks += merge_section(runs)
    if rows:
        blocks += "## Late against early", *exposure_section(rows, plots)
    elif "tokens" in plots:
        blocks += "## The last tier while training", *_plot(plots, "tokens", "Bits per byte of the sample")
    blocks += [METHOD]
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


def state(runs: Runs) -> list[str]:
    """Say which runs there are, and plainly what cannot be said without the others."""
    missing = {name: [seed for seed in SEEDS if (name, seed) not in runs] for name in CONFIGURATIONS}
    number = sum(map(len, missing.values()))
    lines = [f"- `{name}`: {MEANING[name]}." for name in CONFIGURATIONS]
    told = ["\n".join(lines)]
    if number:
        which = "; ".join(f"`{name}` {', '.join(map(str, seeds))}" for name, seeds in missing.items() if seeds)
        total = len(CONFIGURATIONS) * len(SEEDS)
        told.append(
            f"**Incomplete: {total - number} of {total} runs are there.** Missing seeds: {which}. With fewer than "
            f"{len(SEEDS)} seeds nothing on this page is a result: a difference is marked `open`, and its p value says "
            "how consistent it is over languages in these runs, not that another seed would repeat it."
        )
    return told


def summary(found: Sequence[Difference]) -> str:
    """Return a sentence for each configuration, made from its differences."""
    lines = []
    for name in CONFIGURATIONS:
        own = [each for each in found if each.configuration == name]
        if not own:
            continue
        parts = [f"{_signed(each.mean)} in tier {each.tier} ({each.verdict})" for each in own]
        lines.append(f"- `{name}` against `{REFERENCE}`, bits per byte: {', '.join(parts)}.")
    return "\n".join(["**Summary.** Negative: better than the annealed configuration.", "", *lines]) if lines else ""


def tier_table(runs: Runs) -> str:
    """Return the table of means and standard deviations over seeds."""
    rows = []
    for name in CONFIGURATIONS:
        seeds = seeds_of(runs, name)
        if seeds:
            cells = [_mean_and_spread(tier_means(runs, name, tier)) for tier in STAGES]
            rows.append([f"`{name}`", str(len(seeds)), *cells, _exposure(runs, name)])
    first = next(iter(runs.values()))
    unigram = [np.mean([row[2] for row in first["languages"].values() if row[0] == tier]) for tier in STAGES]
    rows.append(["unigram (told the language)", "", *(f"{value:.3f}" for value in unigram), ""])
    counts = [len(bits(runs, *next(iter(runs)), tier)) for tier in STAGES]
    titles = [f"{tier} ({count} languages)" for tier, count in zip(STAGES, counts, strict=True)]
    table = _table(["configuration", "seeds", *titles, "tokens seen of a language of the last tier"], rows)
    note = "Mean ± standard deviation over seeds (n - 1); without ± there is one seed. The last column is a median."
    return f"{table}\n\n{note}"


def difference_table(found: Sequence[Difference]) -> str:
    """Return the table of paired differences."""
    rows = [
        [
            f"`{each.configuration}`", each.tier, str(len(each.seeds)), _signed(each.mean),
            ", ".join(map(_signed, each.by_seed)), f"{each.better} of {each.languages}", _p(each.p), _p(each.p_seeds),
            each.verdict,
        ]
        for each in found
    ]  # fmt: skip
    titles = [
        "configuration", "tier", "seeds", "difference", "with each seed", "languages better", "p over languages (Holm)",
        "p over seeds", "",
    ]  # fmt: skip
    return _table(titles, rows, left=(0, 1, 8))


def merge_section(runs: Runs) -> list[str]:
    """Compare the merge with the decay it was made of, and with one longer decay without a merge."""
    seeds = seeds_of(runs, "ties")
    if not seeds:
        return []
    rows = [["`decay_all` of `ties`, 13.0M tokens, not merged"], ["merged, 14.0M tokens in all"]]
    for tier in STAGES:
        rows[0].append(_mean_and_spread([runs["ties", seed]["before_merge"][tier] for seed in seeds]))
        rows[1].append(_mean_and_spread(tier_means(runs, "ties", tier)))
    both = seeds_of(runs, "ties", REFERENCE)
    if both:
        means = [[float(np.mean(list(bits(runs, REFERENCE, seed, tier).values()))) for seed in both] for tier in STAGES]
        rows.append([f"`{REFERENCE}`: one decay, 14.0M tokens, no merge", *map(_mean_and_spread, means)])
    return ["## With and without TIES", f"Seeds: {', '.join(map(str, seeds))}.", _table(["model", *STAGES], rows)]


def exposure_section(rows: Sequence[EqualExposure], plots: Sequence[str]) -> list[str]:
    """Describe languages of the last tier that join late and early, at equal exposure."""
    lines = [
        [
            f"`{row.late}`", f"`{row.early}`", str(len(row.seeds)), str(row.languages), f"{row.exposure:,.0f}",
            f"{row.late_tokens / 1e6:.1f}M", f"{row.early_tokens / 1e6:.1f}M", f"{row.late_bits:.3f}",
            f"{row.early_bits:.3f}", _signed(row.late_bits - row.early_bits), _p(row.p),
        ]
        for row in rows
    ]  # fmt: skip
    titles = [
        "late", "early", "seeds", "languages", "exposure", "late run at", "early run at", "late, bits/byte",
        "early, bits/byte", "late - early", "p (Holm)",
    ]  # fmt: skip
    images = [
        *_plot(plots, "exposure", "Bits per byte of the sample over its exposure"),
        *_plot(plots, "tokens", "Bits per byte of the sample over all training tokens"),
    ]
    return [EXPOSURE, *images, _table(titles, lines, left=(0, 1))]


def _exposure(runs: Runs, name: str) -> str:
    """Return the median over languages of the last tier of the tokens seen, mean over seeds."""
    medians = [
        np.median([row[3] for row in runs[name, seed]["languages"].values() if row[0] == STAGES[-1]])
        for seed in seeds_of(runs, name)
    ]
    return f"{np.mean(medians):,.0f}"


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _plot(plots: Sequence[str], name: str, caption: str) -> list[str]:
    return [f"![{caption}]({name}.svg)"] if name in plots else []


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    sides = ["---" if place in left else "---:" for place in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, sides, *rows))


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:]]
    main(places[0] if places else HERE / "runs", places[1] if len(places) > 1 else HERE)
