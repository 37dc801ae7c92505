"""What transformers answers to rows of the little sets, and that a predictor of ours answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from little_sets import SETS

import mmbert

AUTO = {
    "classify": "SequenceClassification", "pairs": "SequenceClassification", "regression": "SequenceClassification",
    "multi_label": "SequenceClassification", "tag": "TokenClassification", "answer": "QuestionAnswering",
    "choose": "MultipleChoice",
}  # fmt: skip
TOLERANCE = 1e-4


def theirs(folder: Path, name: str) -> tuple[Any, Any]:
    model = getattr(transformers, f"AutoModelFor{AUTO[name]}").from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def logits(model: Any, words: Any, *texts: str) -> Any:
    encoded = words(*texts, return_tensors="pt")
    encoded.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**encoded)


def assert_alike(folder: Path, name: str, oracle: tuple[Any, Any] | None = None, atol: float = TOLERANCE) -> None:
    """The answers of our predictor to some rows are those of ``oracle``, a model and a tokenizer of transformers."""
    model, words = oracle or theirs(folder, name)
    for row in SETS[name](6):
        if name == "tag":
            text = " ".join(row["tokens"])
            found = mmbert.Tagger.load(folder, precision="fp32").tokens(text).probabilities
            wanted = logits(model, words, text).logits[0, 1:-1].softmax(-1).numpy()
        elif name == "answer":
            texts = (row["question"], row["context"][-20:])
            found = mmbert.Answerer.load(folder, precision="fp32").logits(*texts)
            out = logits(model, words, *texts)
            wanted = torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
        elif name == "choose":
            found = mmbert.MultipleChoice.load(folder, precision="fp32").logits(row["question"], row["choices"])
            both = [row["question"]] * len(row["choices"]), row["choices"]
            encoded = words(*both, return_tensors="pt", padding=True)
            with torch.inference_mode():
                wanted = model(encoded["input_ids"][None], encoded["attention_mask"][None]).logits[0].numpy()
        else:
            texts = (row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],)
            said = mmbert.Classifier.load(folder, precision="fp32")(
                texts if len(texts) == 2 else texts[0], function="none"
            )
            found, wanted = np.array(list(said.scores.values())), logits(model, words, *texts).logits[0].numpy()
        np.testing.assert_allclose(found, wanted, atol=atol)
