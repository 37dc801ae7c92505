"""Little folders of every kind that is served, and servers for tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mmbert.recipe import TokenizerTraining
from mmbert.serving.server import Server
from mmbert.tokenizer.train import train_tokenizer


def _neighbour(name: str) -> ModuleType:
    """A module of helpers of tests/inference."""
    path = Path(__file__).parents[1] / "inference" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "TEXTS"):
        spec.loader.exec_module(module)
    return module


sentence_folders = _neighbour("sentence_folders")
task_folders = _neighbour("task_folders")

TEXTS: list[str] = sentence_folders.TEXTS


def write_models(root: Path) -> Path:
    """tuned, classes, ranks, tags, masks, spans."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    words = train_tokenizer([("eng_Latn", text) for text in TEXTS * 2], TokenizerTraining(vocab_size=600))
    bare = sentence_folders.write_model(root / "bare", words)
    prompts = {"query": "Look for: ", "document": "Text: "}
    sentence_folders.write_sentence_model(root / "tuned", bare, [Pooling(32, "mean")], prompts=prompts)
    for name, kind, labels in (
        ("classes", "SequenceClassification", ["no", "yes", "maybe"]),
        ("ranks", "SequenceClassification", ["score"]),
        ("tags", "TokenClassification", ["O", "B-PER", "I-PER"]),
        ("masks", "MaskedLM", []),
        ("spans", "QuestionAnswering", []),
    ):
        named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
        task_folders.save_theirs(root / name, kind, **(named if labels else {}))
    return root


@contextmanager
def serving(*models: Path | str, **options: Any) -> Iterator[Server]:
    """A server that is ready."""
    server = Server(models, **{"port": 0, "precision": "fp32", "quiet": True, **options})
    server.start()
    try:
        server.load()
        yield server
    finally:
        server.stop()
