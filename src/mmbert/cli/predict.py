"""``mmbert classify``, ``tag``, ``answer``, ``rerank`` and ``fill-mask``: predictions for each line of input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmbert.cli import show
from mmbert.cli.bulk import OnRay, Sources, one_source, runs_on_ray
from mmbert.cli.input import STDIN, open_lines, text_given, text_lines
from mmbert.cli.options import AsJson, Device, Layers, Model, Precision, SkipBadRows, Source, TextField, Texts
from mmbert.cli.output import PARQUET, check_out, echo_lines, predict_lines, write_lines
from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.io.lines import Line
from mmbert.io.row_errors import RowFaults
from mmbert.io.stream import read_text

if TYPE_CHECKING:
    from mmbert.bulk.jobs import Job
    from mmbert.inference.predictor import Predictor

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File to write, .parquet or JSON lines. The same command resumes if interrupted."),
]


@dataclass
class _Command:
    """One run of a command: its input, where the answers go, and how they are shown."""

    name: str
    source: str
    texts: list[str] | None
    out: Path | None
    skip_bad_rows: bool
    as_json: bool
    text_option: str | None = "--text"
    """The option that takes a text instead of a file."""
    faults: RowFaults = field(init=False)
    lines: Iterator[Line] = field(init=False)

    def __post_init__(self) -> None:
        """Check the output and open the input. Raises before a model is loaded."""
        self.faults = RowFaults(self.source, self.skip_bad_rows)
        check_out(self.out)
        if self.texts:
            self.lines = text_lines(self.source, self.texts, self.text_option or "")
        else:
            self.lines = open_lines(self.source, faults=self.faults, text_option=self.text_option)

    @property
    def shows_tables(self) -> bool:
        """Whether answers are formatted for a terminal."""
        return self.out is None and show.for_people(self.as_json)

    def run(
        self,
        predictor: Predictor,
        item: Callable[[Line], Any],
        predict: Callable[[Iterator[Any]], Iterator[dict[str, Any]]],
        shown: Callable[[Any, dict[str, Any]], Iterator[str]],
        **options: Any,
    ) -> None:
        """Predict for each line, see :func:`predict_lines`; ``options`` are what the answers depend on."""

        def stamp() -> dict[str, Any]:
            loaded = predictor.loaded
            shape = {"num_layers": loaded.config.num_layers, "precision": loaded.precision}
            model = {"model": loaded.model_hash, **shape}
            return {"command": self.name, **model, "input": self.source, **options}

        show_answer = shown if self.shows_tables else None
        predict_lines(self.lines, item, predict, self.out, stamp, self.faults, show_answer)

    def run_job(self, job: Job, shown: Callable[[Any, dict[str, Any]], Iterator[str]], **options: Any) -> None:
        """Run a job over the lines, see ``run``."""
        predictor = job.load()
        self.run(predictor, job.item, partial(_answers, job, predictor), shown, **job.options(), **options)


def _answers(job: Job, predictor: Predictor, items: Iterator[Any]) -> Iterator[dict[str, Any]]:
    for answer in job.answers(predictor, items):
        if isinstance(answer, MMBertError):
            raise answer
        yield answer


@runs_on_ray
def classify(
    model: Model,
    sources: Sources = None,
    text: Texts = None,
    out: Out = None,
    text_field: TextField = "text",
    pair_field: Annotated[str | None, typer.Option(help="Field of the second text, to classify pairs.")] = None,
    threshold: Annotated[float, typer.Option(help="Multi-label models: least score of a label that applies.")] = 0.5,
    skip_bad_rows: SkipBadRows = False,
    layers: Layers = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
    on_ray: OnRay | None = None,
) -> None:
    """Classify texts or pairs of texts: {"label", "score", "scores", "labels"}."""
    from mmbert.bulk.jobs import Classify

    job = Classify(
        model=model, device=device, precision=precision, layers=layers, text_field=text_field, pair_field=pair_field,
        threshold=threshold,
    )  # fmt: skip
    if on_ray is not None:
        on_ray.run(job, sources, text, out)
        return
    _Command("classify", one_source(sources), text, out, skip_bad_rows, as_json).run_job(job, show.classes)


@runs_on_ray
def tag(
    model: Model,
    sources: Sources = None,
    text: Texts = None,
    out: Out = None,
    text_field: TextField = "text",
    strategy: Annotated[
        Literal["first", "average", "max", "simple"],
        typer.Option(help="How the scores of a word's tokens become the word's label."),
    ] = "first",
    skip_bad_rows: SkipBadRows = False,
    layers: Layers = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
    on_ray: OnRay | None = None,
) -> None:
    """Find entities in texts: {"entities": [{"label", "start", "end", "text", "score"}]}, with character positions."""
    from mmbert.bulk.jobs import Tag

    options: dict[str, Any] = {"text_field": text_field, "strategy": strategy}
    job = Tag(model=model, device=device, precision=precision, layers=layers, **options)
    if on_ray is not None:
        on_ray.run(job, sources, text, out)
        return
    _Command("tag", one_source(sources), text, out, skip_bad_rows, as_json).run_job(job, show.entities)


def fill_mask(
    model: Model,
    source: Source = STDIN,
    text: Texts = None,
    out: Out = None,
    text_field: TextField = "text",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Number of candidates for each mask.")] = 5,
    skip_bad_rows: SkipBadRows = False,
    layers: Layers = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict the token behind `<mask>`: {"fills": [{"token", "id", "score", "text"}]}.

    A text with several masks gets a list of such lists; in a Parquet file every text does.
    """
    from mmbert.inference.fill_mask import FillMask

    nested = out is not None and out.suffix == PARQUET
    command = _Command("fill-mask", source, text, out, skip_bad_rows, as_json)
    model_of_masks = FillMask.load(model, device=device, precision=precision, num_layers=layers)

    def predict(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for found in model_of_masks(items, top_k=top_k):
            several = bool(found) and isinstance(found[0], list)
            yield {"fills": [found] if nested and not several else found}

    options = {"text_field": text_field, "top_k": top_k}
    command.run(model_of_masks, lambda line: line.text(text_field), predict, show.fills, **options)


def answer(
    model: Model,
    source: Source = STDIN,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="One question for all lines, which are contexts.")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="One context for all lines, which are questions.")
    ] = None,
    context_file: Annotated[Path | None, typer.Option(help="File with the one context.")] = None,
    out: Out = None,
    question_field: Annotated[str, typer.Option(help="Field of JSON lines that holds the question.")] = "question",
    context_field: Annotated[str, typer.Option(help="Field of JSON lines that holds the context.")] = "context",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Number of answers.")] = 1,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Allow that the context does not contain the answer.")
    ] = False,
    skip_bad_rows: SkipBadRows = False,
    layers: Layers = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer questions with spans of a context: {"answers": [{"text", "start", "end", "score"}]}.

    Each line is a JSON object with a question and a context. With --question each line is a context, with --context or
    --context-file each line is a question; with both, no lines are read.
    """
    from mmbert.inference.answerer import Answerer

    read = _context(context, context_file)
    asked = [question] if question is not None and read is not None else None
    command = _Command("answer", source, asked, out, skip_bad_rows, as_json, text_option="--question")
    answerer = Answerer.load(model, device=device, precision=precision, num_layers=layers)

    def item(line: Line) -> Any:
        if question is None and read is None:
            line.field(question_field, "--question-field")  # raises for a line of text, which cannot hold both
        asked = line.text(question_field, "--question-field") if question is None else question
        return asked, line.text(context_field, "--context-field") if read is None else read

    def predict(items: Iterator[Any]) -> Iterator[dict[str, Any]]:
        return ({"answers": found} for found in answerer.stream(items, top_k=top_k, no_answer=no_answer))

    options = {
        "question": question, "context": read, "question_field": question_field, "context_field": context_field,
        "top_k": top_k, "no_answer": no_answer,
    }  # fmt: skip
    command.run(answerer, item, predict, show.answers, **options)


@runs_on_ray
def rerank(
    model: Model,
    sources: Sources = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="One query for all lines, which are documents.")
    ] = None,
    out: Out = None,
    text_field: Annotated[str, typer.Option(help="With --query: field of JSON lines that holds the text.")] = "text",
    query_field: Annotated[str, typer.Option(help="Field of JSON lines that holds the query.")] = "query",
    documents_field: Annotated[str, typer.Option(help="Field that holds the list of documents.")] = "documents",
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="Number of documents. Default: all.")] = None,
    skip_bad_rows: SkipBadRows = False,
    layers: Layers = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
    on_ray: OnRay | None = None,
) -> None:
    """Sort documents by relevance to a query, best first: {"index" (from 0), "score", "text"}.

    Without --query each line is a JSON object with a query and its documents, and gets {"ranked": [...]}.
    """
    from mmbert.bulk.jobs import Rerank

    job = Rerank(
        model=model, device=device, precision=precision, layers=layers, query_field=query_field,
        documents_field=documents_field, top_k=top_k,
    )  # fmt: skip
    if on_ray is not None:
        if query is not None:
            raise ConfigError("--query ranks all lines together: with --on ray give lines with a query and documents")
        on_ray.run(job, sources, None, out)
        return
    command = _Command("rerank", one_source(sources), None, out, skip_bad_rows, as_json, text_option=None)
    if query is not None:
        reranker = job.load()
        documents = list(command.faults.keep(command.lines, lambda line: line.text(text_field)))
        command.faults.report()
        ranked = [dict(vars(found)) for found in reranker(query, documents, top_k=top_k)]
        if command.shows_tables:
            echo_lines(show.ranked(query, ranked))
        else:
            write_lines(ranked, out)
        return

    def shown(asked: Any, answer: dict[str, Any]) -> Iterator[str]:
        return show.ranked(asked[1], answer["ranked"])

    command.run_job(job, shown, query=query, text_field=text_field)


def _context(text: str | None, file: Path | None) -> str | None:
    """Return the one context for all questions, given as a text or as a file."""
    if text is not None and file is not None:
        raise ConfigError("--context and --context-file are two texts: give only one of them")
    if text is not None:
        return text_given(text, "--context", "--context-file FILE")
    try:
        return None if file is None else read_text(file)
    except DataError as error:
        raise DataError(f"--context-file: {error} (a text itself: --context TEXT)") from error
