"""``mmbert export``: write a model for other libraries and runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.options import Dimensions, Layers, Model, OutFolder
from mmbert.cli.push import pushes
from mmbert.io.stream import text_lines

Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help="gguf: f32, f16 or q8_0, and may be repeated, for a file of each. Default: f16. huggingface and "
        "sentence-transformers: f32, f16 or bf16. Default: as the model is stored.",
    ),
]


@pushes
def export(
    model: Model,
    format: Annotated[str, typer.Option(help="Format to write: sentence-transformers, onnx, huggingface or gguf.")],
    out: OutFolder,
    output: Annotated[
        str | None,
        typer.Option(
            help="Output of the model: logits (of the head), hidden (a vector for each token, encoder only) or, for "
            "onnx and gguf, embedding (with pooling). Default: logits if the model has a head."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: also write a file with int8 matrices.")] = False,
    layout: Annotated[
        str | None,
        typer.Option(help="onnx: transformers.js writes the fp32, fp16 and int8 files under the names it looks for."),
    ] = None,
    dtype: Dtypes = None,
    quality: Annotated[
        float,
        typer.Option(min=0, max=1, help="Keep a narrower file only if every text has this cosine to fp32, or more."),
    ] = 0.99,
    pooling: Annotated[
        list[str] | None,
        typer.Option(help="mean, first, last, max or weightedmean. May be repeated. Default: the model's, or mean."),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Scale vectors to unit length. Default: as the model does."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help='Prompt NAME=TEXT, such as "query=query: ". May be repeated.')
    ] = None,
    similarity: Annotated[
        str | None, typer.Option(help="Similarity: cosine, dot, euclidean or manhattan. Default: the model's.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Length to which texts are truncated. Default: the model's.")
    ] = None,
    layers: Layers = None,
    dimensions: Dimensions = None,
    text: Annotated[
        Path | None, typer.Option(help="File of text lines for the comparison. Default: sentences in 12 scripts.")
    ] = None,
) -> Path:
    """Write a model for sentence-transformers, ONNX runtimes, transformers or llama.cpp, load it and compare outputs.

    Nothing is written unless fp32 outputs agree to 1e-4 of the largest number (or of 1). If the int8 file is below
    --quality, only the fp32 file is kept and the command fails.
    """
    from mmbert.exporting.export import INT8
    from mmbert.exporting.export import export as export_model

    options: dict[str, Any] = {"format": format, "output": output, "layout": layout}  # checked there
    report = export_model(
        model, out, **options, int8=int8, dtypes=dtype, quality=quality, pooling=pooling, normalize=normalize,
        prompts=_prompts(prompt), similarity=similarity, max_tokens=max_tokens,
        num_layers=layers, dimensions=dimensions, texts=None if text is None else list(text_lines(text)),
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
    return out


def _prompts(given: list[str] | None) -> dict[str, str] | None:
    from mmbert.errors import ConfigError

    if not given:
        return None
    for one in given:
        if "=" not in one:
            raise ConfigError(f"prompt {one!r} is not NAME=TEXT")
    return dict(one.split("=", 1) for one in given)
