"""``mmbert embed``: vectors of texts."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mmbert.cli.bulk import OnRay, Sources, one_source, runs_on_ray
from mmbert.cli.input import open_lines, text_lines
from mmbert.cli.options import Device, Dimensions, Layers, Model, Precision, SkipBadRows, Texts
from mmbert.io.lines import Line
from mmbert.io.row_errors import RowFaults

if TYPE_CHECKING:
    from mmbert.bulk.jobs import Embed
    from mmbert.inference.vectors import Output

_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File to write: .npy, .jsonl or .parquet; with --on ray a folder. Default: JSON lines on stdout.",
    ),
]
_Prompt = Annotated[
    str | None, typer.Option(help="query, document, another prompt of the model, or text to put before each text.")
]
_Output = Annotated[str, typer.Option(help="Number format: float32, float16, int8, uint8, binary or ubinary.")]
_Ranges = Annotated[
    Path | None, typer.Option(help="Value ranges for int8 and uint8 from an earlier run: NAME.ranges.npy.")
]
_Pooling = Annotated[str | None, typer.Option(help="mean, first, last, max or weightedmean. Default: the model's.")]
_MaxTokens = Annotated[int | None, typer.Option(help="Length to which texts are truncated. Default: the model's.")]
_TextField = Annotated[str | None, typer.Option(help="Field of JSON lines that holds the text. Default: text.")]
_IdField = Annotated[
    str, typer.Option(help="Field of JSON lines that holds the id. Lines without it get their line number.")
]


@runs_on_ray
def embed(
    model: Model,
    sources: Sources = None,
    text: Texts = None,
    out: _Out = None,
    prompt: _Prompt = None,
    layers: Layers = None,
    dimensions: Dimensions = None,
    normalize: Annotated[bool, typer.Option(help="Scale vectors to unit length.")] = True,
    output: _Output = "float32",
    ranges: _Ranges = None,
    pooling: _Pooling = None,
    max_tokens: _MaxTokens = None,
    text_field: _TextField = None,
    id_field: _IdField = "id",
    skip_bad_rows: SkipBadRows = False,
    device: Device = "auto",
    precision: Precision = "auto",
    part_size: Annotated[int, typer.Option(min=1, help="Texts that are embedded and saved together.")] = 4096,
    on_ray: OnRay | None = None,
) -> None:
    """Embed texts. The same command with --out resumes if interrupted."""
    from mmbert.bulk.jobs import Embed
    from mmbert.errors import ConfigError
    from mmbert.inference.bulk import check_form, embed_to_file, json_line
    from mmbert.inference.vectors import check_output

    check_output(output)
    job = Embed(
        model=model, device=device, precision=precision, layers=layers, text_field=text_field, prompt=prompt,
        dimensions=dimensions, normalize=normalize, output=cast("Output", output), pooling=pooling,
        max_tokens=max_tokens,
    )  # fmt: skip
    stored = None if ranges is None else _load_ranges(ranges)
    if on_ray is not None:
        on_ray.run(job, sources, text, out, id_field=id_field, ranges=stored)
        return
    if out is not None:
        check_form(out)
    elif output in ("int8", "uint8") and ranges is None:
        raise ConfigError(f"{output} on stdout needs --ranges; with --out they are measured and saved")
    file = one_source(sources)
    faults = RowFaults(file, skip_bad_rows)
    objects = text_field is not None
    lines = text_lines(file, text) if text else open_lines(file, objects=objects, faults=faults, text_option="--text")
    records = _records(lines, job, id_field, faults)
    embedder = job.load()
    if stored is not None:
        embedder.ranges = stored
    if out is not None:
        options: dict[str, Any] = {"prompt": prompt, "dimensions": dimensions, "normalize": normalize}
        count = embed_to_file(embedder, records, out, **options, output=job.output, part_size=part_size)
        sys.stderr.write(f"{count:,} vectors in {out}\n")
        return
    keys: deque[Any] = deque()

    def texts() -> Iterator[str]:
        for key, text in records:
            keys.append(key)
            yield text

    for vector in job.answers(embedder, texts(), window=part_size, progress=None):
        sys.stdout.buffer.write(json_line(keys.popleft(), vector))
    sys.stdout.buffer.flush()


def _load_ranges(path: Path) -> Any:
    import numpy as np

    from mmbert.errors import ConfigError

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no ranges: give the NAME.ranges.npy of an earlier run") from error


def _records(lines: Iterator[Line], job: Embed, id_field: str, faults: RowFaults) -> Iterator[tuple[Any, str]]:
    """Yield (id, text) of each line; a line without an id gets its number, counted from 1."""

    def record(line: Line) -> tuple[Any, str]:
        named = isinstance(line.value, dict) and id_field in line.value
        return line.key(id_field) if named else line.number, job.item(line)

    yield from faults.keep(lines, record)
    faults.report()
