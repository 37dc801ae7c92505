"""Tables of a run: rows of plain values, and their text. The page and the Markdown show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mmbert.evaluation.results import ModelResult, summarise_retrieval
from mmbert.evaluation.tiers import below
from mmbert.formatting import count, duration
from mmbert.languages import name as language_name
from mmbert.recipe import Phase
from mmbert.reporting.record import Record

T = TypeVar("T")


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

    @classmethod
    def of(cls, items: Iterable[T], columns: Sequence[tuple[Column, Callable[[T], Any]]]) -> Table:
        """Return a row an item: in each column what its function gives for the item."""
        return cls([column for column, _ in columns], [[value(item) for _, value in columns] for item in items])

    def cells(self) -> list[list[Cell]]:
        """Return every value as text."""
        return [[_cell(column, value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
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


def percent(value: float) -> str:
    """Write a part: 0.254 -> 25.4%."""
    return f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """Write how far a value is below another as a change: 0.254 -> −25.4%."""
    return f"{'−' if value >= 0 else '+'}{abs(100 * value):.1f}%"


def bits(value: float) -> str:
    return f"{value:.3f}"


def phase_table(record: Record) -> Table:
    """Return a row a phase: its schedule, data and time."""
    temperature = Column("Temperature", str, "exponent on a language's size: 1 natural, 0 all alike")

    def decay(phase: Phase) -> str:
        done = phase.decay
        return f"{done.shape}, {count(phase.decay_tokens)}, to {done.floor:g}" if done else ""

    def languages(name: str) -> int | None:
        return len(record.languages_per_phase[name]) if name in record.languages_per_phase else None

    def time(name: str) -> str:
        seconds = record.seconds(name)
        return "" if seconds is None else duration(seconds)

    return Table.of(
        [(name, record.recipe.phases[name]) for name in record.phases],
        [
            (Column("Phase"), lambda each: each[0]),
            (Column("Follows"), lambda each: each[1].follows or ""),
            (Column("Tokens", count), lambda each: each[1].tokens),
            (Column("Languages", count), lambda each: languages(each[0])),
            (temperature, lambda each: each[1].data.temperature),
            (Column("Mask rate", percent), lambda each: each[1].mask_rate),
            (Column("Context", count), lambda each: each[1].context),
            (Column("Batch", count, "tokens per step at the end"), lambda each: each[1].batch),
            (Column("Peak rate", "{:g}".format), lambda each: each[1].peak_lr),
            (Column("RoPE base", count), lambda each: each[1].rope_theta),
            (Column("Decay"), lambda each: decay(each[1])),
            (Column("Time"), lambda each: time(each[0])),
        ],
    )


def tier_table(record: Record) -> Table:
    """Return the loss per model and tier, the unigram models first."""
    if not record.summaries:
        return Table([], [])
    last = next(reversed(record.summaries.values()))
    columns = [Column("Model")]
    for summary in last:
        mean = f"mean over the {summary.languages} languages of the tier, each counting the same"
        won = f"languages of {summary.languages} in which the model is below the baseline"
        columns += [
            Column(f"{summary.tier}: bits/byte", bits, mean),
            Column("to unigram", signed, "change of the tier's mean against its unigram models"),
            Column("languages won", str, won),
        ]
    rows: list[list[Any]] = [["unigram of each language", *(v for s in last for v in (s.unigram, None, None))]]
    for name, summaries in record.summaries.items():
        by_tier = {s.tier: s for s in summaries}
        row: list[Any] = [name]
        for summary in last:
            found = by_tier.get(summary.tier)
            row += [found.bits_per_byte, found.below, found.languages_won] if found else [None, None, None]
        rows.append(row)
    return Table(columns, rows)


def language_table(record: Record) -> Table:
    """Return every language with held-out text: size, tier, baseline and each model's loss."""
    if record.baseline is None:
        return Table([], [])
    baseline, final = record.baseline.losses, record.final
    last = final.losses if final else {}

    def after(hint: str, result: ModelResult) -> tuple[Column, Callable[[str], Any]]:
        column = Column(result.model, bits, f"bits per byte {hint} {result.model}")
        return column, lambda code: result.losses[code].bits_per_byte if code in result.losses else None

    hit = Column("Accuracy", percent, "masked tokens that the final model guesses exactly")
    unigram = Column("Unigram", bits, "bits per byte of the language's own unigram model")
    change = Column("Change", signed, "final model against unigram")
    return Table.of(
        record.tier_of,
        [
            (Column("Language"), language_name),
            (Column("Code"), str),
            (Column("Tier"), record.tier_of.__getitem__),
            (Column("Training tokens", count), lambda code: baseline[code].train_tokens),
            (unigram, lambda code: baseline[code].bits_per_byte),
            *([after("of the final model,", final)] if final else []),
            (change, lambda code: below(last[code], baseline[code]) if code in last else None),
            (hit, lambda code: last[code].accuracy if code in last else None),
            *(after("after", result) for result in record.results.values() if result is not final),
            (Column("Masked", count, "held-out tokens predicted"), lambda code: baseline[code].tokens),
        ],
    )


def retrieval_table(record: Record) -> Table:
    """Return the retrieval of the final model per language."""
    centred = Column("Centred", percent, "both directions, after subtracting each language's mean vector")
    spelling = Column("Spelling alone", percent, "both directions, by character trigrams, without a model")
    return Table.of(
        sorted(record.final.retrieval if record.final else [], key=lambda r: -r.accuracy),
        [
            (Column("Language"), lambda r: language_name(r.language)),
            (Column("Code"), lambda r: r.language),
            (Column("Tier"), lambda r: record.tier_of.get(r.language, "")),
            (Column("Pairs", count), lambda r: r.pairs),
            (Column("to English", percent), lambda r: r.to_english),
            (Column("from English", percent), lambda r: r.from_english),
            (centred, lambda r: r.centred),
            (spelling, lambda r: r.spelling),
            (Column("Chance", percent), lambda r: r.chance),
        ],
    )


def retrieval_by_model(record: Record) -> Table:
    """Return the retrieval over all languages together, a row a model."""
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
    """Return how far each merged model is from the base, and how much they disagree."""
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
        Column("Distance from base", percent, "length of the difference from the base, relative to the base"),
        Column("Kept", percent, "entries left after the trim"),
        *(Column(f"cosine with {name}", bits) for name in names),
    ]
    weights, kept, distance, cosine = record.merge["weights"], total["kept"], total["distance"], total["cosine"]
    return Table(columns, [[name, weights[i], distance[i], kept[i], *cosine[i]] for i, name in enumerate(names)])


def facts_table(values: dict[str, Any]) -> Table:
    """Return names and values, such as an environment; a map becomes one line."""

    def line(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {line(v)}" for k, v in value.items())
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [[name.replace("_", " "), line(value)] for name, value in values.items() if value not in (None, "", [], {})]
    return Table([Column("What"), Column("Value")], rows)
