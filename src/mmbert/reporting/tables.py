"""Tables of a run: rows of plain values, and their text for people. The page and the Markdown show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmbert import languages
from mmbert.evaluation.results import LanguageLoss, summarise_retrieval
from mmbert.evaluation.tiers import below
from mmbert.reporting.record import Record


@dataclass(frozen=True)
class Column:
    """A column's heading, how its values read, and what they mean (shown on hover)."""

    title: str
    text: Callable[[Any], str] | None = None
    """None: a column of words, set flush left."""
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """A value as text, and as what it is sorted by."""

    text: str
    sort: str | float
    numeric: bool


@dataclass(frozen=True)
class Table:
    """Values by row; None is an empty cell."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[Cell]]:
        """Every value as text."""
        return [[_cell(column, value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [
            " | ".join(column.title for column in self.columns),
            " | ".join("---" if column.text is None else "---:" for column in self.columns),
            *(" | ".join(cell.text.replace("|", "\\|").replace("\n", " ") for cell in row) for row in self.cells()),
        ]
        return "".join(f"| {line} |\n" for line in lines)


def _cell(column: Column, value: Any) -> Cell:
    if column.text is None:
        return Cell("" if value is None else str(value), str(value or ""), False)
    if value is None:
        return Cell("", -1e300, True)
    return Cell(column.text(value), float(value), True)


def count(value: float) -> str:
    """4096 -> 4,096, 12_345 -> 12.3k, 4_000_000 -> 4.00M: three digits are enough."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= max(size * 0.9995, 1e4):
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled + 1e-9))))}f}{suffix}"
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """0.254 -> 25.4%."""
    return f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """0.254 -> −25.4%: a part below, shown as the change it is."""
    return f"{'−' if value >= 0 else '+'}{abs(100 * value):.1f}%"


def bits(value: float) -> str:
    return f"{value:.3f}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def language_name(code: str) -> str:
    """The English name, with the script where a code tells it."""
    return languages.name(code)


def phase_table(record: Record) -> Table:
    """What each phase was."""
    columns = [
        Column("Phase"),
        Column("Follows"),
        Column("Tokens", count),
        Column("Languages", count),
        Column("Temperature", str, "exponent on a language's size: 1 natural, 0 all alike"),
        Column("Mask rate", percent),
        Column("Context", count),
        Column("Batch", count, "tokens per step at the end"),
        Column("Peak rate", "{:g}".format),
        Column("RoPE base", count),
        Column("Decay"),
        Column("Time"),
    ]
    rows = []
    for name in record.phases:
        phase = record.recipe.phases[name]
        drawn = record.languages_per_phase.get(name)
        decay = f"{phase.decay.shape}, {count(phase.decay_tokens)}, to {phase.decay.floor:g}" if phase.decay else ""
        seconds = record.seconds(name)
        rows.append(
            [
                name,
                phase.follows or "",
                phase.tokens,
                len(drawn) if drawn is not None else None,
                phase.data.temperature,
                phase.mask_rate,
                phase.context,
                phase.batch,
                phase.peak_lr,
                phase.rope_theta,
                decay,
                duration(seconds) if seconds is not None else "",
            ]
        )
    return Table(columns, rows)


def tier_table(record: Record) -> Table:
    """Loss per model and tier, the unigram models first."""
    if not record.summaries:
        return Table([], [])
    last = next(reversed(record.summaries.values()))
    columns = [Column("Model")]
    for summary in last:
        columns += [
            Column(
                f"{summary.tier}: bits/byte",
                bits,
                f"mean over the {summary.languages} languages of the tier, each counting the same",
            ),
            Column("to unigram", signed, "change of the tier's mean against its unigram models"),
            Column("beaten", str, f"languages of {summary.languages} in which the model is below the baseline"),
        ]
    rows: list[list[Any]] = [["unigram (told the language)", *(v for s in last for v in (s.unigram, None, None))]]
    for name, summaries in record.summaries.items():
        by_tier = {s.tier: s for s in summaries}
        row: list[Any] = [name]
        for summary in last:
            found = by_tier.get(summary.tier)
            row += [found.bits_per_byte, found.below, found.languages_won] if found else [None, None, None]
        rows.append(row)
    return Table(columns, rows)


def language_table(record: Record) -> Table:
    """Every language with held-out text: size, tier, baseline and each model's loss."""
    if record.baseline is None:
        return Table([], [])
    final = record.final
    others = {name: result for name, result in record.results.items() if result is not final}
    columns = [
        Column("Language"),
        Column("Code"),
        Column("Tier"),
        Column("Training tokens", count),
        Column("Unigram", bits, "bits per byte of the language's own unigram model"),
        *([Column(final.model, bits, f"bits per byte of the final model, {final.model}")] if final else []),
        Column("Change", signed, "final model against unigram"),
        Column("Accuracy", percent, "masked tokens that the final model guesses exactly"),
        *(Column(name, bits, f"bits per byte after {name}") for name in others),
        Column("Masked", count, "held-out tokens predicted"),
    ]
    rows = []
    for code, tier in record.tier_of.items():
        base = record.baseline.losses[code]
        loss = final.losses.get(code) if final else None
        rows.append(
            [
                language_name(code),
                code,
                tier,
                base.train_tokens,
                base.bits_per_byte,
                *([_bits_of(loss)] if final else []),
                below(loss, base) if loss else None,
                loss.accuracy if loss else None,
                *(_bits_of(result.losses.get(code)) for result in others.values()),
                base.tokens,
            ]
        )
    return Table(columns, rows)


def retrieval_table(record: Record) -> Table:
    """Per language of the final model."""
    columns = [
        Column("Language"),
        Column("Code"),
        Column("Tier"),
        Column("Pairs", count),
        Column("to English", percent),
        Column("from English", percent),
        Column("Centred", percent, "both directions, after subtracting each language's mean vector"),
        Column("Spelling alone", percent, "both directions, by character trigrams, without a model"),
        Column("Chance", percent),
    ]
    results = record.final.retrieval if record.final else []
    rows = [
        [
            language_name(r.language),
            r.language,
            record.tier_of.get(r.language, ""),
            r.pairs,
            r.to_english,
            r.from_english,
            r.centred,
            r.spelling,
            r.chance,
        ]
        for r in sorted(results, key=lambda r: -r.accuracy)
    ]
    return Table(columns, rows)


def retrieval_by_model(record: Record) -> Table:
    """All languages together, a row a model."""
    columns = [
        Column("Model"),
        Column("Languages", count),
        Column("Accuracy", percent),
        Column("Centred", percent),
        Column("Spelling alone", percent),
        Column("Chance", percent),
        Column("Standard errors above chance", "{:,.0f}".format),
    ]
    found = {name: summarise_retrieval(result.retrieval) for name, result in record.results.items()}
    rows = [[name, s.languages, s.accuracy, s.centred, s.spelling, s.chance, s.z] for name, s in found.items() if s]
    return Table(columns, rows)


def merge_table(record: Record) -> Table:
    """How far the merged models had gone from where they parted, and how much they disagreed."""
    if record.merge is None:
        return Table([], [])
    total = record.merge["total"]
    names = [variant.rstrip("/").split("/")[-1] for variant in record.merge["variants"]]
    phases = list(record.recipe.merge.phases) if record.recipe.merge else []
    if len(phases) == len(names):
        names = phases
    columns = [
        Column("Merged"),
        Column("Weight", "{:g}".format),
        Column("Way gone", percent, "length of the difference from the base, relative to the base"),
        Column("Kept", percent, "entries left after the trim"),
        *(Column(f"cosine with {name}", bits) for name in names),
    ]
    weights, kept, way, cosine = record.merge["weights"], total["kept"], total["distance"], total["cosine"]
    return Table(columns, [[name, weights[i], way[i], kept[i], *cosine[i]] for i, name in enumerate(names)])


def facts_table(values: dict[str, Any]) -> Table:
    """Names and values, such as an environment; a map becomes one line."""

    def line(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {line(v)}" for k, v in value.items())
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [[name.replace("_", " "), line(value)] for name, value in values.items() if value not in (None, "", [], {})]
    return Table([Column("What"), Column("Value")], rows)


def _bits_of(loss: LanguageLoss | None) -> float | None:
    return loss.bits_per_byte if loss else None
