"""ONNX files, run by onnxruntime: the numbers of transformers and of our encoder at any shape; int8; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from export_models import padded, random_rows, save_task
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnxruntime import quantization
from safetensors.torch import load_file

import mmbert
from mmbert.errors import ConfigError, MissingExtra, MMBertError, WeightsError
from mmbert.exporting import graph
from mmbert.exporting.export import FP32, INT8, ExportReport
from mmbert.exporting.texts import TEXTS
from mmbert.model.tasks import ChoiceClassifier, SpanClassifier
from mmbert.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def hidden(masked_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    out = tmp_path_factory.mktemp("onnx") / "hidden"
    return mmbert.export(masked_lm, out, format="onnx", output="hidden", int8=True, quality=0.9)


@pytest.fixture(scope="module")
def vectors(masked_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    out = tmp_path_factory.mktemp("onnx") / "vectors"
    return mmbert.export(
        masked_lm, out, format="onnx", output="embedding", int8=True, quality=0.9, pooling=["first", "mean"],
        normalize=True,
    )  # fmt: skip


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def feed(rows: list[np.ndarray], *, left: bool = False) -> dict[str, np.ndarray]:
    ids, mask = padded(rows, left=left)
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}


def test_any_shape_equals_transformers(hidden: ExportReport, masked_lm: Path, tokenizer: Tokenizer) -> None:
    """One text and three, from one token to beyond the window, padding on either side."""
    run = session(hidden.out / FP32)
    theirs = transformers.ModernBertModel.from_pretrained(masked_lm).eval()
    for lengths in ([1], [2], [16], [17], [33, 1, 34], [300], [7, 300, 65]):
        rows = random_rows(lengths, tokenizer.vocab_size)
        ids, mask = padded(rows)
        with torch.inference_mode():
            wanted = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].numpy()
        for left in (False, True):
            (found,) = run.run(["last_hidden_state"], feed(rows, left=left))
            seen = feed(rows, left=left)["attention_mask"].astype(bool)
            np.testing.assert_allclose(found[seen], wanted, rtol=0, atol=2e-5)


def test_reported(hidden: ExportReport) -> None:
    assert (hidden.format, hidden.output, set(hidden.sizes)) == ("onnx", "hidden", {FP32, INT8})
    fp32, int8 = hidden.checks[FP32], hidden.checks[INT8]
    assert fp32.texts == len(TEXTS)
    assert 0 < fp32.difference < 1e-4
    assert fp32.cosine > 1 - 1e-9
    assert fp32.difference < int8.difference
    assert 0.9 < int8.cosine < 1 - 1e-7
    record = json.loads((hidden.out / "export.json").read_text())
    assert record["checks"][INT8]["cosine"] == int8.cosine
    assert record["int8_largest_weight"] == 64


def test_int8_file(hidden: ExportReport) -> None:
    """Products are in int8, all of them; the rest of the world's operators are standard ones."""
    model = onnx.load(hidden.out / INT8)
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulInteger") == 8, "four a layer"
    assert kinds.count("MatMul") == 4, "scores and mixes of two layers"
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert hidden.sizes[INT8] < hidden.sizes[FP32]
    values = [value.type.tensor_type.shape.dim for value in onnx.load(hidden.out / FP32).graph.input]
    assert [[dim.dim_param for dim in dims] for dims in values] == [["batch_size", "sequence_length"]] * 2


def test_the_token_embedding_of_an_int8_file(hidden: ExportReport, masked_lm: Path, tmp_path: Path) -> None:
    """Each row is within half a step of its own scale; a decoder that is tied to the embedding keeps it in fp32."""
    (table,) = (value for name, value in load_file(masked_lm / "model.safetensors").items() if "tok_embeddings" in name)
    kept = {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(hidden.out / INT8).graph.initializer}
    (rounded,) = (value for value in kept.values() if value.shape == table.shape)
    (scale,) = (value for value in kept.values() if value.shape == (len(table), 1))
    assert (rounded.dtype, scale.dtype) == (np.int8, np.float32)
    assert int(np.abs(rounded.astype(int)).max()) == 127
    assert bool((np.abs(rounded * scale - table.numpy()) <= scale / 2 + 1e-7).all())
    tied = mmbert.export(masked_lm, tmp_path / "tied", format="onnx", int8=True, quality=0.5)
    assert tied.output == "logits"
    kept = {value.name: value for value in onnx.load(tied.out / INT8).graph.initializer}
    assert not [name for name in kept if name.endswith("_int8")]


def test_int8_runs_without_the_fp32_file_and_our_classes_say_whose_it_is(
    hidden: ExportReport, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = shutil.copytree(hidden.out, tmp_path / "int8")
    (folder / FP32).unlink()
    rows = random_rows([7, 20], tokenizer.vocab_size)
    (found,) = session(folder / INT8).run(["last_hidden_state"], feed(rows))
    (wanted,) = session(hidden.out / INT8).run(["last_hidden_state"], feed(rows))
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(
        WeightsError, match=r"no model\.safetensors in .*: its \.onnx files are for ONNX Runtime .*; load"
    ):
        mmbert.Embedder.load(folder)


class MatMulInteger(OpRun):
    """As onnxruntime multiplies on CPUs without VNNI: neighbouring products are added in 16 bits, and cut off."""

    op_domain = ""

    def _run(self, a: np.ndarray, b: np.ndarray, a_zero: Any = 0, b_zero: Any = 0) -> tuple[np.ndarray]:  # type: ignore[override]
        assert (a.dtype, b.dtype, np.any(b_zero)) == (np.uint8, np.int8, False)
        products = a.astype(np.int32)[..., :, None] * b.astype(np.int32)  # (..., k, n)
        if products.shape[-2] % 2:
            products = np.concatenate([products, np.zeros_like(products[..., :1, :])], axis=-2)
        pairs = (products[..., 0::2, :] + products[..., 1::2, :]).clip(-(2**15), 2**15 - 1)
        return ((pairs.sum(axis=-2) - int(a_zero) * b.astype(np.int32).sum(axis=0)).astype(np.int32),)


@pytest.mark.parametrize("bits", [7, 8])
def test_int8_on_a_cpu_without_vnni(
    bits: int, hidden: ExportReport, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 7 bits cannot saturate; with those of 8 the same graph is another one there."""
    path = hidden.out / INT8
    if bits == 8:
        narrow = quantization.quantize_dynamic
        monkeypatch.setattr(
            quantization,
            "quantize_dynamic",
            lambda *args, **options: narrow(*args, **{**options, "reduce_range": False}),
        )
        monkeypatch.setattr(graph, "LARGEST_WEIGHT", 127)
        path = tmp_path / "wide.onnx"
        graph.write_int8(hidden.out / FP32, path)
    model = onnx.load(path)
    names = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    weights = [onnx.numpy_helper.to_array(value) for value in model.graph.initializer if value.name in names]
    largest = max(int(np.abs(weight.astype(np.int32)).max()) for weight in weights)
    assert (len(weights), largest) == (8, 64 if bits == 7 else 127)
    given = feed(random_rows([40, 21], tokenizer.vocab_size))
    exact, saturating = ReferenceEvaluator(model), ReferenceEvaluator(model, new_ops=[MatMulInteger])
    (wanted,), (found,) = (run.run(["last_hidden_state"], given) for run in (exact, saturating))
    if bits == 7:
        assert np.array_equal(found, wanted)
        np.testing.assert_allclose(session(path).run(None, given)[0], wanted, rtol=0, atol=0.05)
    else:
        assert np.abs(found - wanted).max() > 0.2


def test_beside_the_graph(hidden: ExportReport, tokenizer: Tokenizer) -> None:
    names = {path.name for path in hidden.out.iterdir()}
    assert names == {"README.md", "config.json", "export.json", "onnx", "special_tokens_map.json", "tokenizer.json",
                     "tokenizer_config.json"}  # fmt: skip
    assert {path.name for path in (hidden.out / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    words = transformers.AutoTokenizer.from_pretrained(hidden.out)
    assert words(TEXTS[3])["input_ids"] == tokenizer.encode(TEXTS[3], specials=True)
    assert str(Path(graph.__file__).parent).encode() not in (hidden.out / FP32).read_bytes()


def test_pooling_inside(vectors: ExportReport, masked_lm: Path, tokenizer: Tokenizer) -> None:
    embed = mmbert.Embedder.load(masked_lm, pooling=["first", "mean"], precision="plain")
    rows = [np.array(tokenizer.encode(text, specials=True)) for text in TEXTS]
    (found,) = session(vectors.out / FP32).run(["sentence_embedding"], feed(rows))
    assert found.shape == (len(TEXTS), 64)
    np.testing.assert_allclose(found, embed(list(TEXTS)), rtol=0, atol=1e-5)
    (rounded,) = session(vectors.out / INT8).run(["sentence_embedding"], feed(rows))
    assert 1e-4 < np.abs(rounded - found).max() < 0.2
    assert (rounded * found).sum(axis=1).min() > 0.9


@pytest.fixture
def ready(hidden: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the model, traced once for all tests."""

    def copy(module: Any, outputs: list[str], path: Path) -> None:
        path.parent.mkdir()
        shutil.copyfile(hidden.out / FP32, path)

    monkeypatch.setattr(graph, "write_graph", copy)


@pytest.mark.usefixtures("ready")
def test_poor_int8_is_refused_and_fp32_kept(masked_lm: Path, hidden: ExportReport, tmp_path: Path) -> None:
    out = tmp_path / "out"
    says = rf"int8: .* is 0\.\d+ \(text \d+\), below the quality .*: no int8 file was written. Use {out / FP32}"
    with pytest.raises(MMBertError, match=says):
        mmbert.export(masked_lm, out, format="onnx", output="hidden", int8=True, quality=0.9999999)
    assert list(tmp_path.iterdir()) == [out]
    assert [path.name for path in (out / "onnx").iterdir()] == ["model.onnx"]
    assert (out / FP32).read_bytes() == (hidden.out / FP32).read_bytes()
    record = json.loads((out / "export.json").read_text())
    assert set(record["checks"]) == set(record["sizes"]) == {FP32}
    assert "int8_largest_weight" not in record


@pytest.mark.usefixtures("ready")
def test_another_graph_is_refused(masked_lm: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A file that computes something else than the model: here that of another window."""
    shutil.copytree(masked_lm, tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**values, "local_attention": 34}))
    with pytest.raises(MMBertError, match=r"onnx/model\.onnx differs from the model by .* nothing was written"):
        mmbert.export(tmp_path / "model", tmp_path / "out", format="onnx", output="hidden")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_answers_and_large_weights(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two outputs; weights beside the graph where they are too large for one file."""
    folder = save_task(tmp_path / "span", tokenizer, SpanClassifier, ["start", "end"])
    monkeypatch.setattr(graph, "ONE_FILE", 1000)
    report = mmbert.export(folder, tmp_path / "out", format="onnx", int8=True, quality=0.5, texts=TEXTS[:4])
    assert report.output == "logits"
    assert set(report.sizes) == {FP32, FP32 + "_data", INT8, INT8 + "_data"}
    assert report.sizes[FP32 + "_data"] > 10 * tokenizer.vocab_size
    assert report.checks[FP32].equal
    start, end = session(tmp_path / "out" / FP32).run(["start_logits", "end_logits"], feed([np.arange(5, 12)] * 2))
    assert start.shape == end.shape == (2, 7)


def test_refused(masked_lm: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = save_task(tmp_path / "choice", tokenizer, ChoiceClassifier, ["score"])
    with pytest.raises(ConfigError, match="no graph is written for the head"):
        mmbert.export(choice, tmp_path / "out", format="onnx")
    with pytest.raises(ConfigError, match="pooling is about vectors of texts"):
        mmbert.export(masked_lm, tmp_path / "out", format="onnx", pooling="mean")
    with pytest.raises(ConfigError, match="similarity is about vectors of texts"):
        mmbert.export(masked_lm, tmp_path / "out", format="onnx", output="embedding", similarity="dot")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"onnxruntime is not installed: pip install 'mmbert\[export\]'"):
        mmbert.export(masked_lm, tmp_path / "out", format="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["choice"]
