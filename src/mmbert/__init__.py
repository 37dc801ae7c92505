"""mmbert: train, merge, evaluate and use multilingual encoders by the mmBERT recipe.

The names below are the public interface; each is imported on first use, so ``import mmbert`` loads no torch.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmbert.version import __version__ as __version__

if TYPE_CHECKING:
    from mmbert.data.prepare import prepare_data
    from mmbert.errors import MMBertError
    from mmbert.evaluation.evaluate import evaluate
    from mmbert.exporting.export import export
    from mmbert.finetuning.finetune import finetune
    from mmbert.finetuning.recipe import FinetuneRecipe
    from mmbert.inference.answerer import Answerer
    from mmbert.inference.classifier import Classifier
    from mmbert.inference.embedder import Embedder
    from mmbert.inference.fill_mask import FillMask
    from mmbert.inference.multiple_choice import MultipleChoice
    from mmbert.inference.reranker import Reranker
    from mmbert.inference.tagger import Tagger
    from mmbert.model.config import ModelConfig
    from mmbert.model.encoder import Encoder
    from mmbert.model.heads import MaskedLM
    from mmbert.packed import Packed
    from mmbert.pipeline import run
    from mmbert.recipe import Recipe
    from mmbert.search.index import SearchIndex
    from mmbert.serving.server import serve
    from mmbert.surgery.convert import convert
    from mmbert.surgery.extend import extend
    from mmbert.surgery.merge import merge
    from mmbert.surgery.trim import trim
    from mmbert.tokenizer.tokenizer import Tokenizer
    from mmbert.tokenizer.train import train_tokenizer
    from mmbert.training.pretrain import pretrain

_HOMES = {
    "Answerer": "mmbert.inference.answerer",
    "MultipleChoice": "mmbert.inference.multiple_choice",
    "Classifier": "mmbert.inference.classifier",
    "Embedder": "mmbert.inference.embedder",
    "Encoder": "mmbert.model.encoder",
    "FillMask": "mmbert.inference.fill_mask",
    "FinetuneRecipe": "mmbert.finetuning.recipe",
    "MMBertError": "mmbert.errors",
    "MaskedLM": "mmbert.model.heads",
    "ModelConfig": "mmbert.model.config",
    "Packed": "mmbert.packed",
    "Recipe": "mmbert.recipe",
    "Reranker": "mmbert.inference.reranker",
    "SearchIndex": "mmbert.search.index",
    "Tagger": "mmbert.inference.tagger",
    "Tokenizer": "mmbert.tokenizer.tokenizer",
    "convert": "mmbert.surgery.convert",
    "evaluate": "mmbert.evaluation.evaluate",
    "export": "mmbert.exporting.export",
    "extend": "mmbert.surgery.extend",
    "finetune": "mmbert.finetuning.finetune",
    "merge": "mmbert.surgery.merge",
    "prepare_data": "mmbert.data.prepare",
    "pretrain": "mmbert.training.pretrain",
    "run": "mmbert.pipeline",
    "serve": "mmbert.serving.server",
    "train_tokenizer": "mmbert.tokenizer.train",
    "trim": "mmbert.surgery.trim",
}

__all__ = [
    "Answerer",
    "Classifier",
    "Embedder",
    "Encoder",
    "FillMask",
    "FinetuneRecipe",
    "MMBertError",
    "MaskedLM",
    "ModelConfig",
    "MultipleChoice",
    "Packed",
    "Recipe",
    "Reranker",
    "SearchIndex",
    "Tagger",
    "Tokenizer",
    "convert",
    "evaluate",
    "export",
    "extend",
    "finetune",
    "merge",
    "prepare_data",
    "pretrain",
    "run",
    "serve",
    "train_tokenizer",
    "trim",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmbert' has no attribute {name!r}")
    collecting = gc.isenabled()
    gc.disable()  # torch makes a million objects that all stay: looking for garbage among them takes a tenth of a load
    try:
        value = getattr(import_module(_HOMES[name]), name)
    finally:
        if collecting:
            gc.enable()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
