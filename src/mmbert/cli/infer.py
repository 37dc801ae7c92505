"""Text in, answers out: ``mmbert embed``."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.lines import Line, SkipBadRows, open_lines, text_lines
from mmbert.io.row_errors import RowFaults

_Model = Annotated[str, typer.Argument(help="A folder of a saved model, or a name of the hub.")]
_File = Annotated[str, typer.Argument(help="Lines of text, or JSON lines; .gz and .zst too. -: standard input.")]
_Texts = Annotated[list[str] | None, typer.Option("--text", "-t", help="A text, instead of a file. May be repeated.")]
_Pooling = Annotated[str | None, typer.Option(help="mean, first, last, max or weightedmean. Default: the model's.")]
_TextField = Annotated[str | None, typer.Option(help="The field of JSON lines that holds the text. Default: text.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
_Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8, of the model's matrices.")]


def embed(
    model: _Model,
    file: _File = "-",
    text: _Texts = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file in .npy, .jsonl or .parquet. Default: lines on stdout.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="query, document, another prompt of the model, or text to put before each.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Keep the first so many (Matryoshka).")] = None,
    normalize: Annotated[bool, typer.Option(help="Unit length.")] = True,
    output: Annotated[str, typer.Option(help="float32, float16, int8, uint8, binary or ubinary.")] = "float32",
    ranges: Annotated[Path | None, typer.Option(help="Ranges for int8 of an earlier run, NAME.ranges.npy.")] = None,
    pooling: _Pooling = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest text; longer ones are cut. Default: the model's.")
    ] = None,
    text_field: _TextField = None,
    id_field: Annotated[
        str, typer.Option(help="The field of JSON lines that names a text. Without it: the number of the line.")
    ] = "id",
    skip_bad_rows: SkipBadRows = False,
    device: _Device = "auto",
    precision: _Precision = "auto",
    piece: Annotated[int, typer.Option(min=1, help="Texts computed and saved together.")] = 4096,
) -> None:
    """Vectors of texts. Stopped, the same command with --out goes on where it was."""
    from mmbert.errors import ConfigError
    from mmbert.inference.bulk import check_form, embed_to_file, json_line
    from mmbert.inference.embedder import Embedder
    from mmbert.inference.vectors import check_output

    check_output(output)
    if out is not None:
        check_form(out)
    elif output in ("int8", "uint8") and ranges is None:
        raise ConfigError(f"{output} on stdout needs --ranges; with --out they are measured and saved")
    faults = RowFaults(file, skip_bad_rows)
    objects = text_field is not None
    lines = text_lines(file, text) if text else open_lines(file, objects=objects, faults=faults, text_option="--text")
    records = _records(lines, text_field or "text", id_field, faults)
    embedder = Embedder.load(model, device=device, precision=precision, pooling=pooling, max_tokens=max_tokens)
    if ranges is not None:
        embedder.ranges = _load_ranges(ranges)
    options: dict[str, Any] = {
        "prompt": prompt, "dimensions": dimensions, "normalize": normalize, "output": output
    }  # fmt: skip
    if out is not None:
        count = embed_to_file(embedder, records, out, **options, piece=piece)
        sys.stderr.write(f"{count:,} vectors in {out}\n")
        return
    keys: deque[Any] = deque()

    def texts() -> Iterator[str]:
        for key, text in records:
            keys.append(key)
            yield text

    for vector in embedder.stream(texts(), **options, window=piece):
        sys.stdout.buffer.write(json_line(keys.popleft(), vector))
    sys.stdout.buffer.flush()


def _load_ranges(path: Path) -> Any:
    import numpy as np

    from mmbert.errors import ConfigError

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no ranges: give the NAME.ranges.npy of an earlier run") from error


def _records(lines: Iterator[Line], text_field: str, id_field: str, faults: RowFaults) -> Iterator[tuple[Any, str]]:
    """(key, text) of each line; a line without a key is named by its number, counted from 1."""

    def record(line: Line) -> tuple[Any, str]:
        named = isinstance(line.value, dict) and id_field in line.value
        return line.key(id_field) if named else line.number, line.text(text_field)

    yield from faults.keep(lines, record)
    faults.report()
