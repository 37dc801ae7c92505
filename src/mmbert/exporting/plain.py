"""A plain Hugging Face folder: config, weights and tokenizer for transformers 4 and 5 and servers."""

from __future__ import annotations

import re
import shutil
from functools import reduce
from pathlib import Path

import torch

from mmbert.exporting.source import CLASSES, Source
from mmbert.files import write_json, write_text
from mmbert.model.config import config_to_hf
from mmbert.model.weights import WEIGHTS, save_state

_KEPT = (
    "id2label", "label2id", "problem_type", "classifier_pooling", "classifier_dropout", "sentence_transformers",
    "sbert_ce_default_activation_function",
)  # fmt: skip
"""Keys of a head, which are copied; the others are the encoder's and are written from its shape."""


def write_config(source: Source, folder: Path, dtype: str, *, head: bool) -> None:
    """Write ``config.json`` of the head's class with labels (``head``), or of a ModernBertModel."""
    kind = source.kind if head else "encoder"
    values = config_to_hf(source.config, CLASSES[kind], dtype)
    if head:
        values |= {key: source.values[key] for key in _KEPT if key in source.values}
        labels = source.labels or {}
        if kind in ("sequence", "tokens"):
            values["id2label"] = {str(number): label for number, label in labels.items()}
            values["label2id"] = {label: number for number, label in labels.items()}
            values["num_labels"] = len(labels)  # text-embeddings-inference assumes one without it
    if head and source.activation is not None:  # versions 4 and 5 of sentence-transformers read it here
        options = values.get("sentence_transformers")
        options = options if isinstance(options, dict) else {}
        values["sentence_transformers"] = {**options, "activation_fn": source.activation}
    if not head and source.pooling.layers is not None:
        values["output_hidden_states"] = True  # for WeightedLayerPooling
    write_json(folder / "config.json", values)


DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
"""Types of weights that a folder may be written in."""


def write_weights(source: Source, folder: Path, *, head: bool, dtype: str | None = None) -> str:
    """Write ``model.safetensors``, and return the type of its weights, or the one that holds all of several.

    transformers loads weights in the type that ``config.json`` says.

    dtype  one of ``DTYPES``. Default: as the model is stored
    """
    state = source.state(head=head)
    if dtype is not None:
        state = {name: value.to(DTYPES[dtype]) for name, value in state.items()}
    save_state(state, folder / WEIGHTS, None)
    return str(reduce(torch.promote_types, (value.dtype for value in state.values()))).removeprefix("torch.")


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``."""
    source.tokenizer.save(folder, max_tokens=source.max_tokens, as_written=True)


def write_card(source: Source, folder: Path, library: str, pipeline: str) -> None:
    """Write ``README.md``, the model's own with these two keys or a short one, and copy its licence."""
    for path in source.folder.glob("LICENSE*"):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    card = source.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head, body = "", text
    if found := re.match(r"---\n(.*?)^---\n", text, re.DOTALL | re.MULTILINE):
        head, body = found[1], text[found.end() :]
    kept = [line for line in head.splitlines() if not line.startswith(("library_name:", "pipeline_tag:"))]
    lines = ["---", *kept, f"library_name: {library}", f"pipeline_tag: {pipeline}", "---", ""]
    write_text(folder / "README.md", "\n".join(lines) + (body or f"# {source.folder.resolve().name}\n"))


def write_plain(source: Source, folder: Path, *, head: bool, dtype: str | None = None) -> None:
    """Write config, weights (``dtype`` as in :func:`write_weights`) and tokenizer."""
    write_config(source, folder, write_weights(source, folder, head=head, dtype=dtype), head=head)
    write_tokenizer(source, folder)
