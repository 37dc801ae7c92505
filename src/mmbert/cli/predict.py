"""``mmbert classify``, ``tag``, ``answer``, ``rerank`` and ``fill-mask``: what a model says of each line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmbert.cli import show
from mmbert.cli.answers import check_out, echo_lines, judge_lines, write_lines
from mmbert.cli.lines import STDIN, Line, SkipBadRows, open_lines, text_given, text_lines
from mmbert.cli.parquet import PARQUET
from mmbert.cli.show import AsJson
from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.io.row_errors import RowFaults
from mmbert.io.stream import read_text

if TYPE_CHECKING:
    from mmbert.inference.predictor import Predictor

Model = Annotated[str, typer.Argument(help="A folder or hub name.", show_default=False)]
Source = Annotated[str, typer.Argument(help="Lines of text, or JSON lines; .gz and .zst too. -: standard input.")]
Texts = Annotated[list[str] | None, typer.Option("--text", "-t", help="A text, instead of a file. May be repeated.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file, .parquet or JSON lines, that is gone on with.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")]
Field = Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")]


def classify(
    model: Model,
    source: Source = STDIN,
    text: Texts = None,
    out: Out = None,
    text_field: Field = "text",
    pair_field: Annotated[str | None, typer.Option(help="The field of the second text, for pairs.")] = None,
    threshold: Annotated[float, typer.Option(help="From which a label holds, where several may.")] = 0.5,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Classes of texts or pairs: {"label", "score", "scores", "labels"}."""
    from mmbert.inference.classifier import Classifier

    faults = RowFaults(source, skip_bad_rows)
    lines = _lines(source, text, out, faults)
    facade = Classifier.load(model, device=device, precision=precision)

    def item(line: Line) -> Any:
        first = line.text(text_field)
        return first if pair_field is None else (first, line.text(pair_field, "--pair-field"))

    def judge(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        return (dict(vars(found)) for found in facade(items, threshold=threshold))

    fields = {"text_field": text_field, "pair_field": pair_field, "threshold": threshold}
    _run(
        "classify",
        facade,
        source,
        lines,
        out,
        item,
        judge,
        faults,
        fields,
        show.classes if show.for_people(as_json) else None,
    )


def tag(
    model: Model,
    source: Source = STDIN,
    text: Texts = None,
    out: Out = None,
    text_field: Field = "text",
    strategy: Annotated[
        Literal["first", "average", "max", "simple"], typer.Option(help="What a word of several tokens is.")
    ] = "first",
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Entities in texts: {"entities": [{"label", "start", "end", "text", "score"}]}, in characters."""
    from mmbert.inference.tagger import Tagger

    faults = RowFaults(source, skip_bad_rows)
    lines = _lines(source, text, out, faults)
    facade = Tagger.load(model, device=device, precision=precision)

    def judge(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        return ({"entities": found} for found in facade(items, strategy=strategy))

    fields = {"text_field": text_field, "strategy": strategy}
    _run(
        "tag",
        facade,
        source,
        lines,
        out,
        lambda line: line.text(text_field),
        judge,
        faults,
        fields,
        show.entities if show.for_people(as_json) else None,
    )


def fill_mask(
    model: Model,
    source: Source = STDIN,
    text: Texts = None,
    out: Out = None,
    text_field: Field = "text",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many fills.")] = 5,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """What stands behind `<mask>`: {"fills": [{"token", "id", "score", "text"}]}; a list of such lists for several.

    In a Parquet file it is always a list of lists.
    """
    from mmbert.inference.fill_mask import FillMask

    nested = out is not None and out.suffix == PARQUET
    faults = RowFaults(source, skip_bad_rows)
    lines = _lines(source, text, out, faults)
    facade = FillMask.load(model, device=device, precision=precision)

    def judge(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for found in facade(items, top_k=top_k):
            several = bool(found) and isinstance(found[0], list)
            yield {"fills": [found] if nested and not several else found}

    fields = {"text_field": text_field, "top_k": top_k}
    _run(
        "fill-mask",
        facade,
        source,
        lines,
        out,
        lambda line: line.text(text_field),
        judge,
        faults,
        fields,
        show.fills if show.for_people(as_json) else None,
    )


def answer(
    model: Model,
    source: Source = STDIN,
    question: Annotated[str | None, typer.Option("--question", "-q", help="One question: lines are texts.")] = None,
    context: Annotated[str | None, typer.Option("--context", "-c", help="One text: lines are questions on it.")] = None,
    context_file: Annotated[Path | None, typer.Option(help="The same, with the text in a file.")] = None,
    out: Out = None,
    question_field: Annotated[str, typer.Option(help="The field of a JSON line with the question.")] = "question",
    context_field: Annotated[str, typer.Option(help="The field of a JSON line with the text.")] = "context",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many answers.")] = 1,
    no_answer: Annotated[bool, typer.Option("--no-answer", help="The text may not hold the answer.")] = False,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Answers as pieces of a text: {"answers": [{"text", "start", "end", "score"}]}.

    Lines are JSON objects of a question and a text; with --question they are texts, with --context or --context-file
    questions, and with both none are read.
    """
    from mmbert.inference.answerer import Answerer

    read = _context(context, context_file)
    both = question is not None and read is not None
    faults = RowFaults(source, skip_bad_rows)
    lines = _lines(source, [question or ""] if both else None, out, faults, "--question")
    facade = Answerer.load(model, device=device, precision=precision)

    def item(line: Line) -> Any:
        if question is None and read is None:
            line.field(question_field, "--question-field")  # raises for a line of text, which cannot hold both
        asked = line.text(question_field, "--question-field") if question is None else question
        return asked, line.text(context_field, "--context-field") if read is None else read

    def judge(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        return ({"answers": found} for found in facade.stream(items, top_k=top_k, no_answer=no_answer))

    fields = {
        "question": question, "context": read, "question_field": question_field, "context_field": context_field,
        "top_k": top_k, "no_answer": no_answer,
    }  # fmt: skip
    _run(
        "answer",
        facade,
        source,
        lines,
        out,
        item,
        judge,
        faults,
        fields,
        show.answers if show.for_people(as_json) else None,
    )


def rerank(
    model: Model,
    source: Source = STDIN,
    query: Annotated[str | None, typer.Option("--query", "-q", help="One query: lines are documents.")] = None,
    out: Out = None,
    text_field: Annotated[str, typer.Option(help="With --query: the field of a JSON line with the text.")] = "text",
    query_field: Annotated[str, typer.Option(help="The field of a JSON line with the query.")] = "query",
    documents_field: Annotated[str, typer.Option(help="The field with the list of documents.")] = "documents",
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="How many documents. Default: all.")] = None,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Documents by how well they answer a query: {"index" (from 0), "score", "text"} a line, best first.

    Without --query, JSON lines of a query and its documents: {"ranked": [...]} for each.
    """
    from mmbert.inference.reranker import Reranker

    faults = RowFaults(source, skip_bad_rows)
    lines = _lines(source, None, out, faults, None)
    facade = Reranker.load(model, device=device, precision=precision)
    fields: dict[str, Any] = {"query": query, "top_k": top_k, "query_field": query_field, "text_field": text_field}
    if query is not None:
        documents = list(faults.keep(lines, lambda line: line.text(text_field)))
        faults.report()
        ranked = [dict(vars(found)) for found in facade(query, documents, top_k=top_k)]
        if out is None and show.for_people(as_json):
            echo_lines(show.ranked(query, ranked))
        else:
            write_lines(ranked, out)
        return

    def item(line: Line) -> Any:
        return line, line.field(query_field, "--query-field"), line.field(documents_field, "--documents-field")

    def judge(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for line, asked, documents in items:
            try:
                yield {"ranked": facade(asked, documents, top_k=top_k)}
            except (DataError, TokenizerError, ConfigError) as error:
                raise type(error)(f"{line.where}: {error}") from error

    def shown(asked: Any, answer: dict[str, Any]) -> Iterator[str]:
        return show.ranked(asked[1], answer["ranked"])

    fields["documents_field"] = documents_field
    _run("rerank", facade, source, lines, out, item, judge, faults, fields, shown if show.for_people(as_json) else None)


def _run(
    command: str,
    facade: Predictor,
    source: str,
    lines: Iterator[Line],
    out: Path | None,
    item: Callable[[Line], Any],
    judge: Callable[[Iterator[Any]], Iterator[dict[str, Any]]],
    faults: RowFaults,
    options: dict[str, Any],
    shown: Callable[[Any, dict[str, Any]], Iterator[str]] | None = None,
) -> None:
    def stamp() -> dict[str, Any]:
        loaded = facade.loaded
        what = {"command": command, "model": loaded.model_hash, "precision": loaded.precision, "input": source}
        return {**what, **options}

    judge_lines(lines, item, judge, out, stamp, faults, shown)


def _lines(
    source: str, texts: list[str] | None, out: Path | None, faults: RowFaults, option: str | None = "--text"
) -> Iterator[Line]:
    """Of the texts on the command line, if there are any, else of the source."""
    check_out(out)
    if texts:
        return text_lines(source, texts, option or "")
    return open_lines(source, faults=faults, text_option=option)


def _context(text: str | None, file: Path | None) -> str | None:
    """The text that questions are asked on, given by itself or as a file."""
    if text is not None and file is not None:
        raise ConfigError("--context and --context-file are two texts: give one of them")
    if text is not None:
        return text_given(text, "--context", "--context-file FILE")
    try:
        return None if file is None else read_text(file)
    except DataError as error:
        raise DataError(f"--context-file: {error} (a text itself: --context TEXT)") from error
