"""``mmbert index``: build a search index of texts, change it and search it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.options import AsJson, Device, Dimensions, IdField, Layers, Model, Precision, SkipBadRows, TextField
from mmbert.cli.store import TextFiles, Vectors

app = typer.Typer(no_args_is_help=True)

_Index = Annotated[Path, typer.Argument(help="Folder of the index.")]
_Place = Annotated[
    str,
    typer.Argument(
        help="Folder of the index; or a table of mmbert store: FOLDER/TABLE.lance, s3://BUCKET/TABLE.lance."
    ),
]
_Files = Annotated[
    list[str],
    typer.Argument(
        help="Files of text lines or JSON lines, may be compressed (.gz, .zst); - for standard input; or folders."
    ),
]
_ModelFolder = Annotated[str | None, typer.Option(help="Where the model is now, if its folder was moved.")]
_BatchSize = Annotated[int, typer.Option(min=1, help="Records that are embedded and saved together.")]
_Output = Annotated[
    str, typer.Option(help="Number format of the vectors: float32, float16 (half the disk) or int8 (a quarter).")
]
_Store = Annotated[
    str, typer.Option(help="exact, lance (LanceDB, approximate) or auto: exact up to 200,000 vectors, then lance.")
]
_Kind = Annotated[str, typer.Option(help="Type of the LanceDB index: ivf_hnsw_sq, ivf_pq, ivf_sq, ivf_rq or ivf_flat.")]
_QueryPrompt = Annotated[str, typer.Option(help="A prompt of the model, or text to put before each query.")]

_CONDITION = re.compile(r"([^=<>!]+?)\s*(!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)


@app.command()
def build(
    model: Model,
    files: _Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new index.")],
    output: _Output = "float32",
    store: _Store = "auto",
    kind: _Kind = "ivf_hnsw_sq",
    layers: Layers = None,
    dimensions: Dimensions = None,
    query_prompt: _QueryPrompt = "query",
    document_prompt: Annotated[
        str, typer.Option(help="A prompt of the model, or text to put before each text.")
    ] = "document",
    chunking: Annotated[
        str | None,
        typer.Option(help="Split long texts into passages: windows or late. Default: each text is one passage."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Unit of the passages of late: sentence, paragraph or size.")] = None,
    size: Annotated[int | None, typer.Option(help="Length of a passage in tokens.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens shared by two neighbouring windows.")] = None,
    text_field: TextField = "text",
    id_field: IdField = "id",
    batch_size: _BatchSize = 1024,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Build an index of texts. The same command resumes if interrupted."""
    from mmbert.cli.input import read_records
    from mmbert.search.index import SearchIndex

    _check_files(files)
    options: dict[str, Any] = {
        "output": output, "store": store, "kind": kind, "dimensions": dimensions, "query_prompt": query_prompt,
        "document_prompt": document_prompt, "chunking": chunking, "by": by, "size": size, "overlap": overlap,
    }  # fmt: skip
    options |= {"num_layers": layers, "device": device, "precision": precision}
    with SearchIndex.create(out, model, **options, resume=True) as index:
        _report(out, index.add(read_records(files, text_field, id_field, skip_bad_rows), batch_size=batch_size), index)


@app.command("import")
def import_run(
    vectors: Vectors,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new index.")],
    model: Annotated[
        str | None, typer.Option(help="The model that made the vectors. Default: the one that the run names.")
    ] = None,
    texts: TextFiles = None,
    output: _Output = "float32",
    store: _Store = "auto",
    kind: _Kind = "ivf_hnsw_sq",
    query_prompt: _QueryPrompt = "query",
    text_field: TextField = "text",
    id_field: IdField = "id",
    batch_size: _BatchSize = 1024,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Build an index of vectors from a bulk run or mmbert embed. The same command resumes if interrupted."""
    from mmbert.cli.input import read_records
    from mmbert.search.import_vectors import import_vectors

    records = read_records(texts, text_field, id_field, skip_bad_rows) if texts else None
    index, changed = import_vectors(
        out, vectors, model=model, texts=records, text_column=text_field, output=output, store=store, kind=kind,
        query_prompt=query_prompt, batch_size=batch_size, device=device, precision=precision,
    )  # fmt: skip
    with index:
        _report(out, changed, index)


@app.command()
def add(
    index: _Index,
    files: _Files,
    update: Annotated[bool, typer.Option("--update", help="Replace records that exist with another text.")] = False,
    model: _ModelFolder = None,
    text_field: TextField = "text",
    id_field: IdField = "id",
    batch_size: _BatchSize = 1024,
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Add texts to an index. The same command resumes if interrupted."""
    from mmbert.cli.input import read_records
    from mmbert.search.index import SearchIndex

    _check_files(files)
    with SearchIndex.load(index, model=model, device=device, precision=precision) as found:
        write = found.update if update else found.add
        _report(index, write(read_records(files, text_field, id_field, skip_bad_rows), batch_size=batch_size), found)


@app.command()
def query(
    index: _Place,
    texts: Annotated[list[str] | None, typer.Argument(help="Queries. Default: the lines of standard input.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of hits for each query.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Condition on metadata, such as lang=fra_Latn, lang!=x or 'year>=2020'; or a filter in JSON."
        ),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Also search by words (BM25), and fuse the ranks of both searches.")
    ] = False,
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Hybrid search by weighted scores: the weight of the vectors, 0 to 1."),
    ] = None,
    per_record: Annotated[int, typer.Option(min=1, help="Most passages of one record among the hits.")] = 1,
    model: _ModelFolder = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Search an index. Prints a table, or JSON lines {"query": ..., "hits": [{"id", "score", "text", "metadata"}]}."""
    import orjson

    from mmbert.cli import show
    from mmbert.cli.output import echo_lines
    from mmbert.search.index import SearchIndex

    options: dict[str, Any] = {"top_k": top_k, "per_record": per_record, "hybrid": hybrid if share is None else share}
    options["where"] = parse_where(where) if where else None
    with SearchIndex.load(index, model=model, device=device, precision=precision) as found:
        asked = iter(texts) if texts else _queries()
        while chunk := list(islice(asked, 1 if not texts and sys.stdin.isatty() else 64)):
            for text, hits in zip(chunk, found(chunk, **options), strict=True):
                if show.for_people(as_json):
                    echo_lines(show.hits(text, [vars(hit) for hit in hits]))
                else:
                    typer.echo(orjson.dumps({"query": text, "hits": hits}))


@app.command()
def delete(
    index: _Index,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of records; - reads them from standard input, one on each line.")
    ],
) -> None:
    """Remove records. Ids that do not exist are skipped."""
    from mmbert.search.index import SearchIndex

    names = [name for given in ids for name in (_lines() if given == "-" else [given])]
    with SearchIndex.load(index) as found:
        numbers = [int(name) for name in names if re.fullmatch(r"-?[0-9]{1,18}", name) and name not in found]
        gone = found.delete([*names, *numbers])
    sys.stderr.write(f"{gone:,} of {len(names):,} records removed from {index}\n")


@app.command()
def show(index: _Place) -> None:
    """Print the options and counts of an index as JSON."""
    from mmbert.search.index import SearchIndex

    with SearchIndex.load(index) as found:
        typer.echo(json.dumps(found.describe(), ensure_ascii=False, indent=2))


@app.command()
def compact(index: _Index) -> None:
    """Free the disk space of removed records."""
    from mmbert.search.index import SearchIndex

    with SearchIndex.load(index) as found:
        sys.stderr.write(f"{found.compact():,} rows of removed records were freed in {index}\n")


def parse_where(conditions: list[str]) -> dict[str, Any]:
    """Return the filter of ``--where`` options; all conditions must hold. Raises ConfigError.

    A value is true, false, null, a number, or text; text that looks like one of these needs double quotes.
    """
    from mmbert.errors import ConfigError

    found: dict[str, Any] = {}
    for condition in conditions:
        if condition.lstrip().startswith("{"):
            try:
                parsed = json.loads(condition)
            except ValueError as error:
                raise ConfigError(f"--where {condition}: not JSON ({error})") from error
            parts = list(parsed.items())
        else:
            match = _CONDITION.fullmatch(condition.strip())
            if match is None:
                raise ConfigError(f"--where {condition}: expected KEY=VALUE, with one of = != < <= > >=, or JSON")
            key, operator, value = match[1], match[2], _value(match[3])
            if value is None:
                if operator not in ("=", "!="):
                    raise ConfigError(f"--where {condition}: null has no order")
                parts = [(key, None if operator == "=" else {"not": None})]
            else:
                parts = [(key, {"not": value} if operator == "!=" else {operator: value})]
        for key, condition_of_key in parts:
            there = found.get(key, {})
            if not isinstance(there, dict) or (key in found and not isinstance(condition_of_key, dict)):
                raise ConfigError(f"--where has two conditions on {key!r} that do not go together: write them as JSON")
            if isinstance(condition_of_key, dict) and set(there) & set(condition_of_key):
                raise ConfigError(f"--where has two conditions of a kind on {key!r}: write them as JSON")
            found[key] = {**there, **condition_of_key} if isinstance(condition_of_key, dict) else condition_of_key
    return found


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if not isinstance(found, dict | list) else text


def _queries() -> Iterator[str]:
    return (line for line in _lines() if line.strip())


def _lines() -> Iterator[str]:
    from mmbert.cli.input import STDIN, open_lines

    for line in open_lines(STDIN):
        yield line.value if isinstance(line.value, str) else str(line.text())


def _check_files(files: list[str]) -> None:
    """Raise DataError for a missing file, before a model is loaded."""
    from mmbert.errors import DataError

    missing = [file for file in files if file != "-" and not Path(file).exists()]
    if missing:
        raise DataError(f"no such file: {missing[0]}")


def _report(place: Path, changed: Any, index: Any) -> None:
    updated = f", {changed.updated:,} updated" if changed.updated else ""
    same = f", {changed.same:,} unchanged" if changed.same else ""
    sys.stderr.write(f"{changed.added:,} records added{updated}{same}: {len(index):,} in {place}\n")
