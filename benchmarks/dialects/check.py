"""What other libraries compute with the folders of make.py, beside what this package computes; needs no mmbert.

    python benchmarks/dialects/check.py OUT

Plain folders go through the class of transformers that their config names, folders with modules.json through
sentence-transformers, ONNX files through onnxruntime and OpenVINO where they are installed. Every text is read alone
and in batches of three with padding (sentence-transformers: four). The empty text is left out where a prompt stands
before it: version 5 of sentence-transformers takes the prompt's last space away. Prints Markdown; exits 1 for a
difference above 1e-4, int8 aside.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

warnings.simplefilter("ignore")

Run = Callable[[list[str]], list[np.ndarray]]


def main() -> None:
    out = Path(sys.argv[1])
    plan, numbers = json.loads((out / "expected.json").read_text()), np.load(out / "expected.npz")
    texts: list[str] = plan["texts"]
    print(
        ", ".join(versions()),
        "\n\n| folder | read by | largest difference | smallest cosine |\n| --- | --- | --- | --- |",
    )
    bad = False
    for number, case in enumerate(plan["cases"]):
        folder, prompt = out / case["folder"], case["prompt"]
        chosen = [index for index, text in enumerate(texts) if text or not prompt]
        expected = [numbers[f"{number}/{index}"] for index in chosen]
        read = [texts[index] for index in chosen]
        for reader, run in readers(folder, prompt):
            difference, cosine = 0.0, 1.0
            for found in (run(read), [value for text in read for value in run([text])]):
                for a, b in zip(expected, found, strict=True):
                    assert a.shape == b.shape, (folder, a.shape, b.shape)
                    difference = max(difference, float(np.abs(a - b).max()))
                    x, y = a.ravel().astype(float), b.ravel().astype(float)
                    cosine = min(cosine, float(x @ y / np.sqrt((x @ x) * (y @ y))))
            bad |= difference > 1e-4 and "int8" not in reader
            shown = f"{folder.name}, {prompt}" if prompt else folder.name
            print(f"| {shown} | {reader} | {difference:.1e} | {cosine:.7f} |", flush=True)
    sys.exit(bad)


def versions() -> list[str]:
    found = []
    for name in ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def readers(folder: Path, prompt: str | None) -> list[tuple[str, Run]]:
    if (folder / "modules.json").is_file():
        if (folder / "onnx").is_dir() and importlib.util.find_spec("optimum") is None:
            return []  # what sentence-transformers reads graphs with; there is none for transformers 5
        return [sentence(folder, prompt)]
    if not (folder / "onnx").is_dir():
        return [plain(folder)]
    found = []
    for name, label in (("model.onnx", "fp32"), ("model_quantized.onnx", "int8")):
        for runtime, make in (("onnxruntime", onnx), ("openvino", openvino)):
            try:
                found.append((f"{runtime}, {label}", make(folder, folder / "onnx" / name)))
            except ImportError:
                continue
    return found


def sentence(folder: Path, prompt: str | None) -> tuple[str, Run]:
    from sentence_transformers import SentenceTransformer

    backend = "onnx" if (folder / "onnx").is_dir() else "torch"
    graph = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"} if backend == "onnx" else {}
    model = SentenceTransformer(str(folder), device="cpu", backend=backend, model_kwargs=graph)
    name = "sentence-transformers" + (", onnx" if backend == "onnx" else "")
    return name, lambda texts: list(model.encode(texts, batch_size=4, prompt_name=prompt))


def plain(folder: Path) -> tuple[str, Run]:
    import torch
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)

    def run(texts: list[str]) -> list[np.ndarray]:
        values = []
        for start in range(0, len(texts), 3):
            batch = words(texts[start : start + 3], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            if name.endswith("QuestionAnswering"):
                rows = torch.stack([found.start_logits, found.end_logits], dim=-1)
            else:
                rows = found.last_hidden_state if name == "ModernBertModel" else found.logits
            if name.endswith("SequenceClassification"):
                values += list(rows.numpy())
            else:
                lengths = batch["attention_mask"].sum(1)
                values += [row[:length].numpy() for row, length in zip(rows, lengths, strict=True)]
        return values

    return name, run


def onnx(folder: Path, path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return batched(folder, lambda feed: session.run(None, feed)[0])


def openvino(folder: Path, path: Path) -> Run:
    import openvino as ov

    model = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return batched(folder, lambda feed: model(feed)[0])


def batched(folder: Path, run: Callable[[Any], np.ndarray]) -> Run:
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)

    def vectors(texts: list[str]) -> list[np.ndarray]:
        values: list[np.ndarray] = []
        for start in range(0, len(texts), 3):
            batch = words(texts[start : start + 3], padding=True, truncation=True, return_tensors="np")
            values += list(run({key: batch[key].astype(np.int64) for key in ("input_ids", "attention_mask")}))
        return values

    return vectors


if __name__ == "__main__":
    main()
