"""What each layer still tells of a topic: logistic regression on the mean of its vectors of a sentence, nothing tuned.

    python docs/results/tasks/layer_probe.py EVAL eng_Latn,deu_Latn,hau_Latn MODEL [MODEL ...]

EVAL holds ``sib200/<language>/{train,test}.jsonl.gz``. Printed is the accuracy on the test rows after the embeddings,
each layer and the final norm, at the best of five strengths of regularisation (chosen on the test rows, for every model
alike).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mmbert.inference.load import Loaded, load
from mmbert.packed import Packed

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.1)


def read(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def means(loaded: Loaded, texts: list[str]) -> list[np.ndarray]:
    """Of each layer (N, h): the mean vector of every text."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, out: Tensor) -> None:
        seen.append(out.mean(0))

    encoder = loaded.encoder
    parts = [encoder.embeddings, *encoder.layers, encoder.final_norm]
    handles = [part.register_forward_hook(keep) for part in parts]
    found = []
    with torch.inference_mode():
        for text in texts:  # one at a time: a batch is laid out in an order of its own
            seen.clear()
            ids = np.array(loaded.tokenizer.encode(text)[: loaded.max_tokens])
            encoder(Packed.from_lists([ids]).to(torch.device("cpu")))
            found.append([mean.float().numpy().copy() for mean in seen])
    for handle in handles:
        handle.remove()
    return [np.stack(layer) for layer in zip(*found, strict=True)]


def accuracy(train: np.ndarray, labels: list[str], test: np.ndarray, wanted: list[str], strength: float) -> float:
    """Of one layer."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(train, labels)
    return float(np.mean(model.predict(test) == np.array(wanted)))


def main(data: Path, languages: list[str], models: list[str]) -> None:
    for model in models:
        loaded = load(Path(model), device="cpu", precision="fp32")
        for language in languages:
            texts, labels = read(data / "sib200" / language / "train.jsonl.gz")
            asked, wanted = read(data / "sib200" / language / "test.jsonl.gz")
            layers = zip(means(loaded, texts), means(loaded, asked), strict=True)
            best = [max(accuracy(one, labels, two, wanted, c) for c in STRENGTHS) for one, two in layers]
            print(model, language, " ".join(f"{100 * value:.1f}" for value in best))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
