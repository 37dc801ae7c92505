"""ONNX files: the padded model traced by torch.export, in fp32, in fp16 or with int8 matrices."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmbert.errors import ConfigError, import_extra
from mmbert.exporting.padded import PaddedClassifier, PaddedEmbedder, PaddedEncoder, PaddedSpans
from mmbert.exporting.source import Output, Source
from mmbert.model.heads import MaskedLM
from mmbert.model.tasks import TaskHead

OPSET = 18
"""Read by onnxruntime since 1.14, and by OpenVINO."""

ONE_FILE = 1_900_000_000
"""Bytes of weights within the file: protobuf ends at 2 GiB. Larger models have them beside it, in ``NAME_data``."""

LARGEST_WEIGHT = 64
"""Of int8 files: 255 * 64 * 2 = 32,640 fits into 16 bits, so that no sum of two products saturates on any x86."""

_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime", "root")


def need() -> None:
    """Raise MissingExtra for a library that is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, "export")


def graph_module(source: Source, output: Output) -> tuple[nn.Module, list[str]]:
    """Return the module to trace, and the names of its outputs. Raises ConfigError if there is no such graph."""
    encoder, head = source.encoder, source.head
    if output == "hidden":
        if source.pooling.layers is not None:
            raise ConfigError(f"{source.folder} pools a mix of layers, hidden is the last: export --output embedding")
        return PaddedEncoder(encoder), ["last_hidden_state"]
    if output == "embedding":
        if not source.pooling.include_prompt and any(source.prompts.values()):
            raise ConfigError(
                f"{source.folder} leaves prompts out of pooling, and a graph cannot know them: export --output hidden"
            )
        return PaddedEmbedder(encoder, source.pooling, source.behind_pooling), ["sentence_embedding"]
    if isinstance(head, MaskedLM):
        return PaddedClassifier(encoder, nn.Sequential(head.head, head.decoder), None), ["logits"]
    if not isinstance(head, TaskHead) or source.kind == "choice":
        raise ConfigError(f"no graph is written for the head of {source.folder}: export --output hidden")
    if source.kind == "span":
        return PaddedSpans(encoder, head, None), ["start_logits", "end_logits"]
    pooling = source.classifier_pooling if source.kind == "sequence" else None
    return PaddedClassifier(encoder, head, pooling), ["logits"]


def write_graph(module: nn.Module, outputs: list[str], path: Path) -> None:
    """Trace a padded model and write it, for batches of any shape."""
    import onnx_ir

    ids = torch.full((2, 6), 5)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    axes = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length")}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), (ids, mask), input_names=["input_ids", "attention_mask"], output_names=outputs,
            dynamic_shapes=(axes, axes), opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None, "dynamo answers with a program"
    model = program.model
    _strip(model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, path, external_data=f"{path.name}_data" if weights > ONE_FILE else None)


def write_int8(path: Path, out: Path) -> None:
    """Write a graph with int8 products: weights quantized by column, activations by tensor at run time.

    Weights have 7 bits (:data:`LARGEST_WEIGHT`). Without VNNI, onnxruntime sums two products of an activation (0 to
    255) and a weight in 16 bits, saturating at 32,767: with weights of 8 bits the results of a file would be right on
    one CPU and wrong on another.

    The token embedding is rounded to int8 too, each row with a scale of its own, and rows are scaled when they are
    looked up (:func:`round_rows`). One that a decoder is tied to stays fp32, and so does the decoder, which would
    otherwise be a second copy. Products of attention and the norms stay fp32.
    """
    import onnx_ir
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = path.with_name(f"{path.name}_data").is_file()
    with _quiet(), tempfile.TemporaryDirectory(dir=path.parent) as place:
        known = Path(place) / "model.onnx"  # with the shape of every value
        rounded = Path(place) / "rounded.onnx"
        quant_pre_process(  # onnx knows the shapes; onnxruntime's own inference fails on Expand
            path, known, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=large,
            all_tensors_to_one_file=large,
        )  # fmt: skip
        quantize_dynamic(
            known, rounded, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
            weight_type=QuantType.QInt8, use_external_data_format=large,
        )  # fmt: skip
        model = onnx_ir.load(rounded)
        largest = largest_weight(model)
        assert largest <= LARGEST_WEIGHT, f"an int8 weight of {largest} can saturate"
        round_rows(model)
        onnx_ir.save(model, out, external_data=f"{out.name}_data" if large else None)


def round_rows(model: Any) -> None:
    """Round tables (V, d) that are only looked up to int8, in place: row v is about scale_v * q_v, q from -127 to 127.

    Their numbers are in no int8 product, so that all 8 bits can be used.
    """
    import onnx_ir

    graph = model.graph
    for table in list(graph.initializers.values()):
        uses = [use.node for use in table.uses() if use.idx == 0]
        looked_up = len(uses) == len(table.uses()) and all(node.op_type == "Gather" for node in uses)
        if not uses or not looked_up or table.const_value is None or table.dtype != onnx_ir.DataType.FLOAT:
            continue
        rows = table.const_value.numpy()
        if rows.ndim != 2 or rows.shape[1] < 8:
            continue
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
        rounded = np.rint(rows / np.where(scale == 0, 1, scale)).astype(np.int8)
        q, s = (
            onnx_ir.val(f"{table.name}_{name}", const_value=onnx_ir.tensor(values))
            for name, values in (("int8", rounded), ("scale", scale.astype(np.float32)))
        )
        for value in (q, s):
            graph.register_initializer(value)
        for node in uses:
            _scaled_lookup(graph, node, q, s)
        del graph.initializers[table.name]


def _scaled_lookup(graph: Any, node: Any, rounded: Any, scale: Any) -> None:
    """Replace a Gather of a table by Cast(Gather(rounded)) * Gather(scale)."""
    import onnx_ir

    ids, old = node.inputs[1], node.outputs[0]
    looked = onnx_ir.node("Gather", [rounded, ids])
    cast = onnx_ir.node("Cast", [looked.outputs[0]], {"to": int(onnx_ir.DataType.FLOAT)})
    scales = onnx_ir.node("Gather", [scale, ids])
    product = onnx_ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
    made = product.outputs[0]
    made.type, made.shape, made.name = old.type, old.shape, f"{old.name}_scaled"
    graph.insert_before(node, [looked, cast, scales, product])
    old.replace_all_uses_with(made)
    graph.remove(node, safe=True)


def write_fp16(path: Path, out: Path) -> None:
    """Write a graph with weights and numbers in fp16; inputs and outputs stay as they are.

    RoPE's angles stay fp32, because fp16 has no place for position 2,049, and so do sums over a text, which can leave
    its range. The mask's smallest number becomes -10,000, which Softmax turns into 0 as well.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    large = path.with_name(f"{path.name}_data").is_file()
    with _quiet():
        model = onnx.load(path)
        angles = _ancestors(model.graph.node, ("Cos", "Sin"))
        model = convert_float_to_float16(
            model, keep_io_types=True, node_block_list=sorted(angles), disable_shape_infer=large,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "ReduceSum", "ReduceMean", "ReduceL2"],
        )  # fmt: skip
        del model.graph.value_info[:]  # the converter leaves wrong types for what stays fp32, and tract believes them
        onnx.save(model, out, save_as_external_data=large, location=f"{out.name}_data" if large else None)


def _ancestors(nodes: Any, kinds: tuple[str, ...]) -> set[str]:
    """Return the names of the nodes of these kinds, and of all that they are computed from."""
    makers = {value: node for node in nodes for value in node.output}
    found: set[str] = set()
    waiting = [node for node in nodes if node.op_type in kinds]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [makers[value] for value in node.input if value in makers]
    return found


def largest_weight(model: Any) -> int:
    """Return the largest weight, by size, of the int8 products of a graph."""
    weights = [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == "MatMulInteger"]
    return max((int(np.abs(weight.astype(np.int16)).max()) for weight in weights), default=0)


def _strip(model: Any) -> None:
    """Remove the metadata of tracing from every node: source lines, with local paths."""
    graph = model.graph
    for part in (model, graph, *graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        part.metadata_props.clear()
    for node in graph:
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs and warnings of torch and onnxruntime about their internals."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
