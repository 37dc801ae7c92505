"""Folders for check.py, as this package writes them, and the numbers it computes with each.

    python benchmarks/dialects/make.py MODEL OUT

MODEL is a masked language model with its tokenizer. What the folders hold: the model as saved; other RoPE bases, equal
and different; plain and sentence-transformers exports with prompts, several poolings, a mix of layers, Dense and
Normalize; three heads of random weights; ONNX files with pooling inside.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmbert import Embedder, MaskedLM, Tokenizer, export
from mmbert.exporting.compare import encode, model_run
from mmbert.exporting.plain import write_plain
from mmbert.exporting.sentence import write_modules
from mmbert.exporting.source import Source
from mmbert.exporting.texts import TEXTS
from mmbert.inference.pooling import Pooling
from mmbert.inference.sentence_transformers_folder import Dense, Normalize
from mmbert.model.tasks import SequenceClassifier, SpanClassifier, TokenClassifier

PROMPTS = {"query": "query: ", "document": "passage: "}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    write(arguments.model, arguments.out)
    numbers: dict[str, np.ndarray] = {}
    table = []
    for folder in sorted(path for path in arguments.out.iterdir() if path.is_dir()):
        for prompt, values in answers(folder):
            table.append({"folder": folder.name, "prompt": prompt})
            numbers |= {f"{len(table) - 1}/{index}": value for index, value in enumerate(values)}
    np.savez(arguments.out / "expected.npz", **numbers)
    (arguments.out / "expected.json").write_text(json.dumps({"texts": TEXTS, "cases": table}, ensure_ascii=False))


def write(model: Path, out: Path) -> None:
    """All folders."""
    words = Tokenizer.load(model)
    for name, thetas in (("saved", None), ("saved-160k", (160_000.0, 160_000.0)), ("saved-mixed", (160_000.0, 2e4))):
        whole = MaskedLM.load(model)
        if thetas is not None:
            whole.config = whole.config.model_copy(update={"rope_theta": thetas[0], "local_rope_theta": thetas[1]})
        whole.save(out / name)
        words.save(out / name, max_tokens=whole.config.max_context)
    mixed = out / "saved-mixed"
    export(mixed, out / "plain-logits", format="huggingface")
    export(mixed, out / "plain-hidden", format="huggingface", output="hidden")
    export(mixed, out / "sentence-mean", format="sentence-transformers")
    export(
        mixed, out / "sentence-first-prompts", format="sentence-transformers", pooling=["first", "mean"],
        normalize=True, prompts=PROMPTS, max_tokens=128,
    )  # fmt: skip
    export(out / "sentence-first-prompts", out / "sentence-again", format="sentence-transformers", similarity="dot")
    export(out / "sentence-first-prompts", out / "onnx-embedding", format="onnx", output="embedding", int8=True)
    export(out / "sentence-mean", out / "onnx-sentence", format="onnx", output="hidden")
    layered(mixed, out / "sentence-layers-dense")
    heads = {"sequence": SequenceClassifier, "tokens": TokenClassifier, "span": SpanClassifier}
    for name, kind in heads.items():
        labels = 2 if name == "span" else 3
        pooling = {"pooling": "mean"} if kind.pools else {}
        made = kind(MaskedLM.load(mixed).model, labels, **pooling)
        made.save(out / f"own-{name}", [f"label {index}" for index in range(labels)])
        words.save(out / f"own-{name}", max_tokens=made.config.max_context)
        export(out / f"own-{name}", out / f"plain-{name}", format="huggingface")


def layered(model: Path, out: Path) -> None:
    """A mix of all layers but the last, then a Dense module and unit length."""
    source = Source.load(model)
    width, count = source.config.hidden_size, source.config.num_layers + 1
    dense = Dense(nn.Linear(width, width // 2), nn.Tanh(), None).requires_grad_(False)
    layers = (*(float(index + 1) for index in range(count - 1)), 0.0)
    source = replace(source, pooling=Pooling(("mean",), True, layers), after=(dense, Normalize()))
    out.mkdir()
    write_plain(source, out, head=False)
    write_modules(source, out)


def answers(folder: Path) -> list[tuple[str | None, list[np.ndarray]]]:
    """What this package computes with a folder, for each of its prompts."""
    if (folder / "modules.json").is_file():
        weights = folder.parent / "sentence-mean" if folder.name == "onnx-sentence" else folder
        embed = Embedder.load(weights, precision="plain")
        return [(name, list(embed(list(TEXTS), prompt=name, normalize=False))) for name in embed.loaded.prompts]
    if (folder / "onnx").is_dir():  # of the folder it was made from
        source = Source.load(folder.parent / "sentence-first-prompts")
        rows = encode(source, TEXTS, source.tokenizer)
        return [(None, model_run(source, "embedding")(rows))]
    source = Source.load(folder)
    rows = encode(source, TEXTS, source.tokenizer)
    return [(None, model_run(source, "logits" if source.has_head else "hidden")(rows))]


if __name__ == "__main__":
    main()
