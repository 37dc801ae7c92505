"""Text in, answers out: ``mmbert embed``."""

from __future__ import annotations

import gzip
import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

_Model = Annotated[str, typer.Argument(help="A folder of a saved model, or a name of the hub.")]
_File = Annotated[str, typer.Argument(help="Lines of text, or JSON lines (.jsonl), also .gz; - is standard input.")]
_TextField = Annotated[
    str | None, typer.Option(help="The field of JSON lines that holds the text. Default: text, for files in .jsonl.")
]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
_Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8, of the model's matrices.")]


def embed(
    model: _Model,
    file: _File = "-",
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
    pooling: Annotated[
        str | None, typer.Option(help="mean, first, last, max or weightedmean. Default: the model's.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest text; longer ones are cut. Default: the model's.")
    ] = None,
    text_field: _TextField = None,
    id_field: Annotated[
        str, typer.Option(help="The field of JSON lines that names a text. Default: its number.")
    ] = "id",
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
    with _records(file, text_field, id_field) as records:
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


@contextmanager
def _records(file: str, text_field: str | None, id_field: str) -> Iterator[Iterator[tuple[Any, str]]]:
    """(key, text) of a file or standard input."""
    from mmbert.errors import DataError

    name = file.removesuffix(".gz")
    as_json = text_field is not None or Path(name).suffix in (".jsonl", ".ndjson")
    if file != "-" and not Path(file).is_file():
        raise DataError(f"no such file: {file}")
    stream: Any = sys.stdin.buffer
    if file != "-":
        stream = gzip.open(file) if file.endswith(".gz") else Path(file).open("rb")  # noqa: SIM115  (closed below)
    try:
        yield _parse(stream, file, (text_field or "text") if as_json else None, id_field)
    finally:
        if file != "-":
            stream.close()


def _parse(stream: IO[bytes], file: str, text_field: str | None, id_field: str) -> Iterator[tuple[Any, str]]:
    from mmbert.errors import DataError

    for number, line in enumerate(stream):
        where = f"line {number + 1} of {'standard input' if file == '-' else file}"
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8: convert the file") from error
        if text_field is None:
            yield number, text
            continue
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            found, key = record[text_field], record.get(id_field, number)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is no JSON object with a field {text_field!r}: name it with --text-field"
            ) from error
        if not isinstance(found, str):
            raise DataError(f"{where}: {text_field} is {type(found).__name__}, not text")
        yield key, found
