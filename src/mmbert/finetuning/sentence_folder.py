"""The folder of a tuned sentence model, in the form that all readers take alike.

sentence-transformers writes its own newest form, which older versions and servers cannot read or read wrongly, so what
is kept is written anew by ``exporting``: modules by their older names, pooling as booleans, config in both dialects.

    embed             sentence-transformers 2 to 6, text-embeddings-inference, vLLM; our Embedder
    rerank            a ModernBertForSequenceClassification: CrossEncoder 2 to 6, servers; our Reranker
    sparse            SparseEncoder of sentence-transformers 5 and 6; transformers as a ModernBertForMaskedLM
    late_interaction  MultiVectorEncoder of sentence-transformers 6, the first that has one
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling
from transformers import PreTrainedTokenizerBase

from mmbert.exporting.plain import write_card, write_plain
from mmbert.exporting.sentence import write_listing, write_module, write_modules, write_settings
from mmbert.exporting.source import Source
from mmbert.files import atomic_folder, write_text
from mmbert.finetuning.adapters import adapter_state, make_adapter, merge_lora
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.sentence_model import encoder_of

_OLD = "sentence_transformers.sparse_encoder.models"
_LATE = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
"""Where version 6 has them: older ones have no multi-vector models."""


def save_folder(
    model: BaseModel, task: str, folder: Path, card: str | None = None, adapter_of: FinetuneRecipe | None = None
) -> None:
    """Write ``folder``, whole or not at all. Adapters are merged into the weights, in place.

    card        its README.md; None: the library's
    adapter_of  a recipe whose adapter, not the merged model, is written
    """
    state = adapter_state(encoder_of(model)) if adapter_of is not None else {}
    merge_lora(encoder_of(model))
    with atomic_folder(folder) as partial:
        raw = partial.with_name(partial.name + ".raw")
        shutil.rmtree(raw, ignore_errors=True)
        try:
            write = {"embed": _dense, "rerank": _cross, "sparse": _sparse, "late_interaction": _late}[task]
            write(model, raw, partial)
            if card is not None:
                write_text(partial / "README.md", card)
            if adapter_of is not None:
                make_adapter(partial, state, adapter_of)
        finally:
            shutil.rmtree(raw, ignore_errors=True)


def _dense(model: Any, raw: Path, folder: Path) -> None:
    inner = encoder_of(model)
    mixed = any(isinstance(module, WeightedLayerPooling) for module in model)
    inner.config.output_hidden_states = mixed  # readers hand the layers to the module that mixes them
    model.save_pretrained(str(raw))
    inner.config.output_hidden_states = False
    source = Source.load(raw)
    write_plain(source, folder, head=False)
    write_modules(source, folder)
    write_card(source, folder, "sentence-transformers", "sentence-similarity")


def _cross(model: Any, raw: Path, folder: Path) -> None:
    model.save_pretrained(str(raw))
    source = Source.load(raw)
    write_plain(source, folder, head=True)
    write_card(source, folder, "sentence-transformers", "text-ranking")


def _sparse(model: Any, raw: Path, folder: Path) -> None:
    source = _plain(model, raw)
    write_plain(source, folder, head=True)
    pooling = {
        "pooling_strategy": "max", "activation_function": model[1].activation_function,
        "word_embedding_dimension": source.config.vocab_size,
    }  # fmt: skip
    modules = [
        ("", f"{_OLD}.MLMTransformer"),
        (write_module(folder, 1, "SpladePooling", pooling), f"{_OLD}.SpladePooling"),
    ]
    write_listing(folder, modules, {"max_seq_length": model.max_seq_length, "do_lower_case": False})
    _write_settings(folder, model, "SparseEncoder", "dot")
    write_card(source, folder, "sentence-transformers", "feature-extraction")


def _late(model: Any, raw: Path, folder: Path) -> None:
    source = _plain(model, raw)
    write_plain(source, folder, head=False)
    modules = [("", _LATE["Transformer"])]
    for index, module in enumerate(list(model)[1:], 1):
        name, state = type(module).__name__, module.state_dict() if isinstance(module, Dense) else None
        modules.append((write_module(folder, index, name, module.get_config_dict(), state), _LATE[name]))
    first = model[0]
    options = {
        "max_seq_length": first.max_seq_length, "do_lower_case": False, "query_length": first.query_length,
        "document_length": first.document_length, "query_expansion": first.query_expansion,
    }  # fmt: skip
    write_listing(folder, modules, {name: value for name, value in options.items() if value is not None})
    _write_settings(folder, model, "MultiVectorEncoder", "maxsim")
    write_card(source, folder, "sentence-transformers", "feature-extraction")


def _plain(model: Any, raw: Path) -> Source:
    """Write encoder, tokenizer and model card as transformers does, and read them again."""
    model.save_pretrained(str(raw / "whole"))
    encoder_of(model).save_pretrained(raw)
    tokenizer: PreTrainedTokenizerBase = model.tokenizer
    tokenizer.save_pretrained(raw)
    shutil.copyfile(raw / "whole" / "README.md", raw / "README.md")
    return Source.load(raw, max_tokens=model.max_seq_length)


def _write_settings(folder: Path, model: Any, kind: str, similarity: str) -> None:
    prompts = {name: text or "" for name, text in model.prompts.items()}
    write_settings(folder, kind, prompts, model.default_prompt_name, model.similarity_fn_name or similarity)
