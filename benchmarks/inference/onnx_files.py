"""transformers' ModernBERT as ONNX files, by torch's own exporter; int8 by ONNX Runtime's dynamic quantisation."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from transformers import AutoModel


class _States(torch.nn.Module):
    """ids and mask, both (B, L) -> (B, L, h)."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def export(folder: Path, home: Path, *, int8: bool) -> Path:
    """The file, made where it is not yet there."""
    whole, small = home / "fp32.onnx", home / "int8.onnx"
    if not whole.is_file():
        home.mkdir(parents=True, exist_ok=True)
        model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
        ids = torch.randint(5, 100, (2, 24))
        mask = torch.ones_like(ids)
        mask[1, 16:] = 0
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                _States(model), (ids, mask), whole, dynamo=True, input_names=["input_ids", "attention_mask"],
                output_names=["states"], dynamic_shapes={"input_ids": axes, "attention_mask": axes}, optimize=True,
            )  # fmt: skip
    if int8 and not small.is_file():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(whole, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    return small if int8 else whole
