"""Exports of the first layers and dimensions: the numbers of a model that is loaded with as many, in every reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from export_models import save_masked_lm, save_task

import mmbert
from mmbert.doctor.model import examine
from mmbert.errors import ConfigError
from mmbert.exporting.texts import TEXTS
from mmbert.inference.classifier import Classifier
from mmbert.model.tasks import SequenceClassifier
from mmbert.model.weights import load_state
from mmbert.tokenizer.tokenizer import Tokenizer

LAYERS, DIMENSIONS = 2, 12


@pytest.fixture(scope="module")
def deep(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five layers: the second global one is the fourth."""
    return save_masked_lm(tmp_path_factory.mktemp("deep") / "model", tokenizer, num_layers=5)


def texts() -> list[str]:
    return [text for text in TEXTS if text]


def theirs(folder: Path, **options: int | bool) -> np.ndarray:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(texts(), batch_size=4, **options))


@pytest.mark.parametrize("layers", [2, 4])
def test_a_sentence_transformers_folder_has_the_numbers_of_the_loaded_layers(
    deep: Path, tmp_path: Path, layers: int
) -> None:
    report = mmbert.export(
        deep, tmp_path / "out", format="sentence-transformers", num_layers=layers, dimensions=DIMENSIONS, normalize=True
    )
    config = json.loads((report.out / "config.json").read_text())
    assert config["num_hidden_layers"] == len(config["layer_types"]) == layers
    assert config["layer_types"] == [("full" if n % 3 == 0 else "sliding") + "_attention" for n in range(layers)]
    stored = load_state(report.out)
    assert {name.split(".")[1] for name in stored if name.startswith("layers.")} == {str(n) for n in range(layers)}
    assert "final_norm.weight" in stored

    loaded = mmbert.Embedder.load(deep, num_layers=layers, dimensions=DIMENSIONS, precision="fp32")
    again = mmbert.Embedder.load(report.out, precision="fp32")
    assert again.dimensions == loaded.dimensions == DIMENSIONS
    expected = loaded(texts())
    np.testing.assert_allclose(again(texts()), expected, atol=1e-6)
    np.testing.assert_allclose(theirs(report.out, normalize_embeddings=True), expected, atol=1e-5)
    # what the folder keeps by default may be asked for whole, as with sentence-transformers
    whole = mmbert.Embedder.load(deep, num_layers=layers, precision="fp32")(texts())
    np.testing.assert_allclose(again(texts(), dimensions=32), whole, atol=1e-6)
    np.testing.assert_allclose(theirs(report.out, truncate_dim=32), whole, atol=1e-5)
    examined = examine(str(report.out))
    assert not examined.problems
    told = {verdict.reader: (verdict.reads, verdict.why) for verdict in examined.readers}
    assert told["sentence-transformers 6"] == told["transformers 5"] == ("rightly", "")
    assert told["sentence-transformers 5"][0] == "with an option"
    assert told["sentence-transformers 5"][1].endswith("gives all dimensions: ask for them, truncate_dim=12")


def test_a_graph_slices_the_vectors_itself(deep: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    report = mmbert.export(
        deep, tmp_path / "out", format="onnx", output="embedding", num_layers=LAYERS, dimensions=DIMENSIONS,
        normalize=True,
    )  # fmt: skip
    model = mmbert.Embedder.load(deep, num_layers=LAYERS, precision="fp32")
    session = onnxruntime.InferenceSession(str(report.out / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    words = transformers.AutoTokenizer.from_pretrained(report.out)
    for text in texts():
        ids = np.asarray([words(text).input_ids], np.int64)
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(found[0], model(text, dimensions=DIMENSIONS), atol=1e-5)
    assert json.loads((report.out / "config.json").read_text())["num_hidden_layers"] == LAYERS


def test_a_head_stays_behind_the_layers_that_are_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = save_task(tmp_path / "model", tokenizer, SequenceClassifier, ["no", "yes", "maybe"])
    report = mmbert.export(folder, tmp_path / "out", format="huggingface", num_layers=1)
    expected = Classifier.load(folder, num_layers=1, precision="fp32").logits(texts())
    np.testing.assert_allclose(Classifier.load(report.out, precision="fp32").logits(texts()), expected, atol=1e-6)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(report.out).eval()
    words = transformers.AutoTokenizer.from_pretrained(report.out)
    for text, wanted in zip(texts(), expected, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(model(**words(text, return_tensors="pt")).logits[0], wanted, atol=1e-4)
    assert not examine(str(report.out)).problems
    with pytest.raises(ConfigError, match="dimensions is about vectors of texts: huggingface"):
        mmbert.export(folder, tmp_path / "other", format="huggingface", dimensions=4)


@pytest.mark.parametrize(("options", "named"), [
    ({"num_layers": 6}, r"num_layers \(--layers\) is 6: it must be a whole number from 1 to 5"),
    ({"dimensions": 33}, "dimensions is 33: it must be a whole number from 1 to 32"),
])  # fmt: skip
def test_more_than_there_is_is_refused(deep: Path, tmp_path: Path, options: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        mmbert.export(deep, tmp_path / "out", format="sentence-transformers", **options)
    with pytest.raises(ConfigError, match=named):
        mmbert.Embedder.load(deep, **options)
    assert not (tmp_path / "out").exists()
