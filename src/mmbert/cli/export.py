"""``mmbert export``: a model for other libraries and runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.io.stream import text_lines


def export(
    model: Annotated[str, typer.Argument(help="A folder of a saved model, or a name of the hub.")],
    format: Annotated[str, typer.Option(help="sentence-transformers, onnx or huggingface.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    output: Annotated[
        str | None,
        typer.Option(
            help="logits (of the head), hidden (vectors of tokens, the bare encoder) or, of onnx, embedding (pooling "
            "inside). Default: logits where there is a head."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Of onnx: also a file with matrices in int8.")] = False,
    quality: Annotated[
        float,
        typer.Option(min=0, max=1, help="No int8 file is kept below this cosine to fp32 of its worst text; fp32 is."),
    ] = 0.99,
    pooling: Annotated[
        list[str] | None, typer.Option(help="mean, first, last, max, weightedmean. Default: the model's, or mean.")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Unit length at the end. Default: as the model.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help='NAME=TEXT, such as "query=query: ". Repeatable.')] = None,
    similarity: Annotated[
        str | None, typer.Option(help="cosine, dot, euclidean or manhattan. Default: the model's.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text. Default: the model's.")] = None,
    text: Annotated[
        Path | None, typer.Option(help="A short file of lines to compare by. Default: sentences in 12 scripts.")
    ] = None,
) -> None:
    """Write a model for sentence-transformers, ONNX runtimes or transformers, read it again and compare.

    fp32 must agree to 1e-4 of the largest number (or of 1), else nothing is written. An int8 file below --quality is
    not kept; the fp32 graph beside it is, and the command fails.
    """
    from mmbert.exporting.export import INT8
    from mmbert.exporting.export import export as export_model

    options: dict[str, Any] = {"format": format, "output": output}  # checked there
    report = export_model(
        model, out, **options, int8=int8, quality=quality, pooling=pooling, normalize=normalize,
        prompts=_prompts(prompt), similarity=similarity, max_tokens=max_tokens,
        texts=None if text is None else list(text_lines(text)),
    )  # fmt: skip
    typer.echo(f"{report.out}: {report.format}, {report.output}")
    for name, found in report.checks.items():
        size = sum(size for file, size in report.sizes.items() if file.startswith(name))
        typer.echo(
            f"{name:<28}{size / 1e6:>10,.1f} MB   {found.texts} texts: largest difference {found.difference:.1e}, "
            f"smallest cosine {found.cosine:.7f}"
        )
    if INT8 in report.checks:
        typer.echo(f"{INT8}: weights of 7 bits, so that no product saturates and the cosine holds on any x86 CPU")


def _prompts(given: list[str] | None) -> dict[str, str] | None:
    from mmbert.errors import ConfigError

    if not given:
        return None
    for one in given:
        if "=" not in one:
            raise ConfigError(f"prompt {one!r} is not NAME=TEXT")
    return dict(one.split("=", 1) for one in given)
