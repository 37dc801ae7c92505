"""Export for other libraries and runtimes: written, read again, compared, and only then moved into place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.exporting import graph
from mmbert.exporting.compare import TOLERANCE, Agreement, compare, encode, graph_run, model_run
from mmbert.exporting.gguf_file import check_gguf, file_name, metadata, with_weights_of, write_gguf
from mmbert.exporting.gguf_vocab import has_mask, read_ids
from mmbert.exporting.plain import DTYPES, write_card, write_config, write_plain, write_tokenizer
from mmbert.exporting.sentence import write_modules
from mmbert.exporting.smooth import smooth
from mmbert.exporting.source import Output, Source
from mmbert.exporting.texts import TEXTS
from mmbert.files import atomic_folder, write_json
from mmbert.hub_names import PIPELINES
from mmbert.model.weights import WEIGHTS, model_folder
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.version import __version__

log = logging.getLogger(__name__)

Format = Literal["sentence-transformers", "onnx", "huggingface", "gguf"]

RECORD = "export.json"
"""The record of an export; a folder that has one may be overwritten by another export."""

Layout = Literal["transformers.js"]

FP32, INT8, FP16 = "onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"
"""Names that optimum and transformers.js expect; sentence-transformers takes them as ``file_name``."""

_NARROW = {INT8: graph.write_int8, FP16: graph.write_fp16}

_OUTPUTS: dict[Format, tuple[Output, ...]] = {
    "sentence-transformers": ("embedding",),
    "huggingface": ("logits", "hidden"),
    "onnx": ("logits", "hidden", "embedding"),
    "gguf": ("logits", "embedding", "hidden"),
}


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    output  what it computes: hidden, embedding or logits
    sizes   bytes of each file of weights
    checks  comparison of each of them with the model
    """

    out: Path
    format: Format
    output: Output
    sizes: dict[str, int]
    checks: dict[str, Agreement]


def export(
    model: str | Path,
    out: str | Path,
    *,
    format: Format,
    output: Output | None = None,
    int8: bool = False,
    layout: Layout | None = None,
    dtypes: Sequence[str] | None = None,
    quality: float = 0.99,
    pooling: str | Sequence[str] | None = None,
    normalize: bool | None = None,
    prompts: Mapping[str, str] | None = None,
    similarity: str | None = None,
    max_tokens: int | None = None,
    num_layers: int | None = None,
    dimensions: int | None = None,
    texts: Sequence[str] | None = None,
    revision: str | None = None,
) -> ExportReport:
    """Write ``model``, a folder or hub name, to the folder ``out`` in the form of other libraries.

    format      sentence-transformers: pooling, Normalize, prompts and longest text around the encoder;
                onnx: ``onnx/model.onnx`` for batches of any shape, with config and tokenizer beside it;
                huggingface: config, weights and tokenizer;
                gguf: ``model-f16.gguf`` for llama.cpp, with tokenizer, pooling and prompts in it
    output      of all but sentence-transformers: logits (the default for a model with a head), hidden (vectors of
                tokens, the bare encoder), embedding (onnx: pooling and the modules behind it are in the graph; gguf:
                the default but for classifiers of texts and rerankers, the only heads that llama.cpp has)
    int8        of onnx: also ``onnx/model_quantized.onnx``, matrices in int8
    layout      of onnx: transformers.js, all files that this library chooses from, ``onnx/model_fp16.onnx`` with them
    dtypes      of gguf: f32, f16, q8_0, a file for each; default: f16. Of huggingface and sentence-transformers: one of
                f32, f16, bf16; default: as the model is stored
    quality     smallest cosine to fp32 that is accepted of int8, f16, bf16 and q8_0
    pooling     mean, first, last, max, weightedmean, or several. Default: the model's, or mean
    normalize   scale vectors to unit length, or not. Default: the model's
    prompts     by name, beside the model's own; similarity: cosine, dot, euclidean, manhattan
    max_tokens  longest text. Default: the model's
    num_layers  write only the first layers, and the final norm. Default: all
    dimensions  of vectors of texts, the first so many: sliced in the graph of onnx, and written as the default of a
                sentence-transformers folder (``truncate_dim``, which version 6 reads). Default: the model's, or all
    texts       for the comparison. Default: 18 sentences in 12 scripts

    The result is read again and compared with the model; fp32 must agree to 1e-4 of the largest number (or of 1).
    Raises ConfigError for options that do not go together and an ``out`` that holds other files, and MMBertError for a
    result that differs too much. Then nothing is left, except that the fp32 graph stays if only int8 fails ``quality``.
    """
    folder, place = model_folder(model, revision=revision), Path(out)
    _check_place(place, folder)
    chosen: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "prompts": prompts, "similarity": similarity}
    chosen["dimensions"] = dimensions
    source = Source.load(folder, **chosen, max_tokens=max_tokens, num_layers=num_layers)
    wanted = _output(source, format, output)
    _check_options(format, wanted, {"int8": int8, "layout": layout, "dtypes": dtypes}, chosen)
    compared = TEXTS if texts is None else texts
    if not compared:
        raise DataError("no text to compare by: is the file empty?")
    with atomic_folder(place) as partial:
        if format == "onnx":
            checks = _write_onnx(source, wanted, partial, compared, (INT8, FP16) if layout else (INT8,) if int8 else ())
        elif format == "gguf":
            checks = _write_gguf(source, wanted, partial, compared, tuple(dtypes or ("f16",)), quality)
        else:
            checks = _write_folder(source, format, wanted, partial, compared, dtypes[0] if dtypes else None, quality)
        poor = _drop_poor(checks, quality, partial)
        weights = (path for path in sorted(partial.rglob("*")) if _has_weights(path))
        sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in weights}
        report = ExportReport(place, format, wanted, sizes, checks)
        write_json(partial / RECORD, _record(report, source))
    _check_quality(poor, quality, place)
    return report


def _drop_poor(checks: dict[str, Agreement], quality: float, folder: Path) -> dict[str, Agreement]:
    """Remove graphs whose cosine to fp32 is below ``quality``, and return their comparisons: int8, fp16."""
    names = {"int8": INT8, "fp16": FP16}
    poor = {kind: name for kind, name in names.items() if name in checks and checks[name].cosine < quality}
    for name in poor.values():
        for path in (folder / name).parent.glob(f"{Path(name).name}*"):
            path.unlink()
    return {kind: checks.pop(name) for kind, name in poor.items()}


def _check_quality(poor: Mapping[str, Agreement], quality: float, place: Path) -> None:
    """Raise MMBertError for the first graph that was removed."""
    for kind, found in poor.items():
        raise MMBertError(
            f"{kind}: the smallest cosine to fp32 is {found.cosine:.7f} (text {found.worst}), below the quality "
            f"{quality} asked for: no {kind} file was written. Use {place / FP32}, which is fp32 and correct, or a "
            "lower quality"
        )


def _write_folder(
    source: Source,
    format: Format,
    output: Output,
    folder: Path,
    texts: Sequence[str],
    dtype: str | None,
    quality: float,
) -> dict[str, Agreement]:
    """Write a folder of transformers or sentence-transformers, and return its comparison."""
    sentence, head = format == "sentence-transformers", output == "logits"
    write_plain(source, folder, head=head, dtype=dtype)
    kind = "sentence" if sentence else source.kind if head else "encoder"
    if sentence:
        write_modules(source, folder)
    elif source.kind == "sentence":
        log.warning("a Hugging Face folder has no pooling and no prompts: those of %s are left out", source.place)
    write_card(source, folder, "sentence-transformers" if sentence else "transformers", PIPELINES[kind])
    again = Source.load(folder)
    rows = encode(source, texts, again.tokenizer)
    if sentence:
        for what in ("pooling", "default_prompt", "similarity", "max_tokens", "truncate_dim"):
            assert getattr(again, what) == getattr(source, what), f"{what} of what was written"
        assert source.prompts.items() <= again.prompts.items(), "prompts of what was written"
    joint = head and source.kind in ("sequence", "choice")
    found = compare(model_run(source, output), model_run(again, output), rows, joint=joint)
    _check_near(found, WEIGHTS, dtype or "f32", quality)
    return {WEIGHTS: found}


def _write_onnx(
    source: Source, output: Output, folder: Path, texts: Sequence[str], narrow: Sequence[str]
) -> dict[str, Agreement]:
    """Write graphs with config, tokenizer and card, and return their comparisons."""
    graph.need()
    module, names = graph.graph_module(source, output)
    write_config(source, folder, "float32", head=output == "logits")
    write_tokenizer(source, folder)
    if output == "hidden" and source.kind == "sentence":
        write_modules(source, folder)
    kind = source.kind if output == "logits" else "sentence" if output == "embedding" else "encoder"
    write_card(source, folder, "onnx", PIPELINES[kind])
    rows = encode(source, texts, Tokenizer.load(folder))
    joint = output == "logits" and source.kind == "sequence"
    expected = model_run(source, output)

    if INT8 in narrow:
        smooth(source.encoder, lambda: [expected([row]) for row in rows])
    log.info("tracing %s", source.folder)
    graph.write_graph(module, names, folder / FP32)
    checks = {FP32: compare(expected, graph_run(folder / FP32, source, output), rows, joint=joint)}
    _check_equal(checks[FP32], FP32)
    for name in narrow:
        log.info("writing %s", name)
        _NARROW[name](folder / FP32, folder / name)
        checks[name] = compare(expected, graph_run(folder / name, source, output), rows, joint=joint)
    return checks


def _write_gguf(
    source: Source, output: Output, folder: Path, texts: Sequence[str], dtypes: tuple[str, ...], quality: float
) -> dict[str, Agreement]:
    """Write a file of each type with a card, and return their comparisons: this package computes with their weights."""
    check_gguf(source, output, dtypes)
    kind = source.kind if output == "logits" else "sentence" if output == "embedding" else "encoder"
    write_card(source, folder, "llama.cpp", PIPELINES[kind])
    _check_ids(source, output, texts)
    rows = encode(source, texts, source.tokenizer)
    joint, checks = output == "logits", {}
    for dtype in dtypes:
        name = file_name(dtype)
        write_gguf(source, output, dtype, folder / name)
        read = model_run(with_weights_of(folder / name, source), output)
        found = checks[name] = compare(model_run(source, output), read, rows, joint=joint)
        _check_near(found, name, dtype, quality)
    return checks


def _check_ids(source: Source, output: Output, texts: Sequence[str]) -> None:
    """Compare the ids that llama.cpp gives. Raises ConfigError if it reads ordinary sentences otherwise."""
    plain = [text for text in (*TEXTS, *texts) if not has_mask(text)]
    wanted = source.tokenizer.encode_batch(plain, specials=True)
    found = read_ids(metadata(source, output, "f32"), plain)
    other = [index for index, (ids, row) in enumerate(zip(found, wanted, strict=True)) if ids != row.tolist()]
    usual = len(plain) - sum(not has_mask(text) for text in texts)
    if other and other[0] < usual:
        raise ConfigError(
            f"llama.cpp would read {plain[other[0]][:40]!r} as other tokens than {source.tokenizer.origin} does: "
            "export --format onnx instead"
        )
    if other:
        log.warning("%d of %d texts have other tokens in llama.cpp, as %r", len(other), len(texts), plain[other[0]])


def _has_weights(path: Path) -> bool:
    return ".onnx" in path.name or path.suffix == ".gguf" or path.name == WEIGHTS


def _check_place(out: Path, model: Path) -> None:
    """Raise ConfigError for a place that is in use."""
    if out.resolve() == model.resolve():
        raise ConfigError(f"{out} is the model itself: give another folder for the export")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder for the export")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ConfigError(f"{out} is not empty and holds no earlier export: give another folder")


def _output(source: Source, format: Format, output: Output | None) -> Output:
    if format not in get_args(Format):
        raise ConfigError(f"format {format!r} is none of {', '.join(get_args(Format))}")
    possible = _OUTPUTS[format]
    if format == "sentence-transformers" and source.kind not in ("encoder", "masked_lm", "sentence"):
        raise ConfigError(
            f"{source.folder} has the head of a task: a sentence-transformers model has none "
            "(sentence-transformers' CrossEncoder reads --format huggingface)"
        )
    if output is None and format == "gguf":
        return "logits" if source.kind == "sequence" else "embedding"
    if output == "logits" and format == "gguf" and source.has_head and source.kind != "sequence":
        raise ConfigError(f"llama.cpp does not compute the head of {source.folder}: export --output embedding")
    if output is None:
        return "logits" if source.has_head and "logits" in possible else next(o for o in possible if o != "logits")
    if output not in possible:
        raise ConfigError(f"output {output!r} is not of {format}: choose {' or '.join(possible)}")
    if output == "logits" and not source.has_head:
        raise ConfigError(f"{source.folder} has no head: choose {' or '.join(possible[1:])}")
    return output


def _check_options(format: Format, output: Output, own: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise ConfigError for options without effect: ``own`` are of one format, ``chosen`` about vectors of texts."""
    for name in ("int8", "layout"):
        if own[name] and format != "onnx":
            raise ConfigError(f"{name} is an option of onnx, not of {format}")
    dtypes = own["dtypes"] or ()
    if dtypes and format == "onnx":
        raise ConfigError("dtypes is no option of onnx: int8 and layout say which files are written")
    if dtypes and format != "gguf" and (len(dtypes) > 1 or dtypes[0] not in DTYPES):
        raise ConfigError(f"dtypes {', '.join(dtypes)}: {format} takes one of {', '.join(DTYPES)}")
    if own["layout"] not in (None, *get_args(Layout)):
        raise ConfigError(f"layout {own['layout']!r} is none of {', '.join(get_args(Layout))}")
    for name, value in chosen.items():
        needed = {"sentence-transformers", "gguf"} | (set() if name in ("similarity", "prompts") else {"onnx"})
        if value is not None and (format not in needed or output != "embedding"):
            raise ConfigError(f"{name} is about vectors of texts: {format} with output {output} has none")


def _check_equal(found: Agreement, name: str) -> None:
    if not found.equal:
        raise MMBertError(
            f"{name} differs from the model by {found.difference:.2g} (text {found.worst}, cosine {found.cosine:.7f}), "
            f"more than {TOLERANCE:g} of its largest number, {found.largest:.2g}: nothing was written"
        )


def _check_near(found: Agreement, name: str, dtype: str, quality: float) -> None:
    """Raise MMBertError for fp32 that is not equal, or a narrower type that is further from it than ``quality``."""
    if dtype == "f32":
        _check_equal(found, name)
    elif not found.cosine >= quality:  # NaN is worse than any
        raise MMBertError(
            f"{dtype}: the smallest cosine to fp32 is {found.cosine:.7f} (text {found.worst}), below the quality "
            f"{quality} asked for: nothing was written; ask for f32, or for a lower quality"
        )


def _record(report: ExportReport, source: Source) -> dict[str, Any]:
    return {
        "model": source.folder.resolve().name,
        "model_hash": source.model_hash,
        "format": report.format,
        "output": report.output,
        "num_layers": source.config.num_layers,
        "dimensions": source.truncate_dim if report.output == "embedding" else None,
        "sizes": report.sizes,
        "checks": {name: asdict(found) for name, found in report.checks.items()},
        **({"int8_largest_weight": graph.LARGEST_WEIGHT} if INT8 in report.checks else {}),
        "mmbert": __version__,
    }
