"""The ways from texts to mean vectors that are compared: ours, and each peer as its users run it at its best.

Every way is made by a function of a :class:`Setting` and then called with a ``Work``: (n texts) -> (n, h) fp32 of unit
length, in their order. Peers that pad get the texts sorted by length; ``tune`` finds their best batch.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from texts import Work

from mmbert.inference.batching import run
from mmbert.inference.embedder import Embedder
from mmbert.inference.pooling import pool
from mmbert.native import library
from mmbert.packed import Packed

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
logging.getLogger("mmbert").setLevel(logging.ERROR)  # weights are random, and it would say so


@dataclass(frozen=True)
class Setting:
    """A model folder, the home of exported files, threads, and the vocabulary of peers with weights of their own."""

    folder: Path
    home: Path
    threads: int
    vocab_size: int


class Way(Protocol):
    """Texts to vectors."""

    def __call__(self, work: Work) -> np.ndarray: ...


class Ours:
    """The Embedder: on ids, or from texts with its tokenizer."""

    batch = "2,048 tokens"

    def __init__(self, setting: Setting, precision: str, *, from_text: bool = False, native: bool = True) -> None:
        library.use(native)
        self.embed = Embedder.load(setting.folder, device="cpu", precision=precision)
        library.use(True)
        self.from_text = from_text

    def __call__(self, work: Work) -> np.ndarray:
        if self.from_text:
            self.embed.max_seq_length = work.longest
            return self.embed(work.texts, progress=False)
        embed = self.embed

        def vectors(packed: Packed, indices: list[int]) -> list[np.ndarray]:
            return list(embed.finish(pool(embed.states(packed), packed, embed.pooling.modes), None, True))

        return np.stack(list(run(embed.loaded, work.sequences, vectors, encode=_as_they_are, progress=False)))


def _as_they_are(rows: Sequence[np.ndarray], first: int) -> Sequence[np.ndarray]:
    return rows


class Padded:
    """A model over padded batches of sorted texts."""

    def __init__(self, forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], batch: int = 32) -> None:
        self.forward = forward
        self.batch = batch
        self.fixed_batch = False
        self.to_longest = True

    def __call__(self, work: Work) -> np.ndarray:
        order = sorted(range(len(work.sequences)), key=lambda number: -len(work.sequences[number]))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            ids, mask = self._pad([work.sequences[number] for number in chosen], work.longest)
            with torch.inference_mode():
                states = self.forward(ids, mask).float()
                kept = mask[:, :, None].float()
                mean = (states * kept).sum(1) / kept.sum(1)
            found.update(zip(chosen, torch.nn.functional.normalize(mean, dim=1).numpy(), strict=True))
        return np.stack([found[number] for number in range(len(order))])

    def _pad(self, rows: Sequence[np.ndarray], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows)) if self.to_longest else longest
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.from_numpy(row.astype(np.int64))
            mask[place, : len(row)] = 1
        return ids, mask


class SentenceTransformers:
    """``SentenceTransformer.encode``: from texts, with its tokenizer and its own sorting."""

    def __init__(self, setting: Setting, dtype: torch.dtype) -> None:
        from sentence_transformers import SentenceTransformer

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = SentenceTransformer(str(setting.folder), device="cpu", model_kwargs={"dtype": dtype})
        self.batch = 32
        self.fixed_batch = False

    def __call__(self, work: Work) -> np.ndarray:
        self.model.max_seq_length = work.longest
        found = self.model.encode(work.texts, batch_size=self.batch, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(found, dtype=np.float32)


def tune(way: Any, work: Work, sizes: Sequence[int]) -> int | str:
    """Set the batch of a way that pads to the fastest for this work; says what it is."""
    if isinstance(way, Ours):
        return way.batch
    handler_for = [size for size in sorted({min(size, len(work.texts)) for size in sizes}) if not way.fixed_batch]
    tried: dict[int, float] = {}
    for size in handler_for if len(handler_for) > 1 else ():
        way.batch = size
        started = time.process_time()
        way(work)
        tried[size] = time.process_time() - started
    if handler_for:
        way.batch = min(handler_for, key=lambda size: tried.get(size, 0.0))
    return int(way.batch)


def hugging_face(setting: Setting, dtype: torch.dtype, *, batch: int | None = None, to_longest: bool = True) -> Padded:
    """transformers' ModernBERT on the same weights, with sdpa."""
    model = transformers.AutoModel.from_pretrained(setting.folder, attn_implementation="sdpa", dtype=dtype).eval()
    way = Padded(lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state, batch or 32)
    way.fixed_batch, way.to_longest = batch is not None, to_longest
    return way


def other(setting: Setting, name: str) -> Padded:
    """A model of another architecture, fp32 and sdpa, random weights in its published shape; up to 512 tokens."""
    torch.manual_seed(0)
    vocabulary = {"vocab_size": setting.vocab_size, "attn_implementation": "sdpa"}
    if name == "xlmr":
        config = transformers.XLMRobertaConfig(
            max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, **vocabulary
        )
    elif name == "minilm":
        config = transformers.BertConfig(hidden_size=384, intermediate_size=1536, **vocabulary)
    else:
        config = transformers.DistilBertConfig(**vocabulary)
    model = transformers.AutoModel.from_config(config).eval()
    return Padded(lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state)


def onnx_runtime(setting: Setting, *, int8: bool) -> Padded:
    """ONNX Runtime on an export of transformers' model."""
    import onnxruntime
    from onnx_files import export

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    path = str(export(setting.folder, setting.home, int8=int8))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(session.run(None, given)[0])

    return Padded(forward)


WAYS: dict[str, Callable[[Setting], Way]] = {
    "ours-auto": partial(Ours, precision="auto"),
    "ours-fp32": partial(Ours, precision="fp32"),
    "ours-bf16": partial(Ours, precision="bf16"),
    "ours-int8": partial(Ours, precision="int8"),
    "ours-bf16-torch": partial(Ours, precision="bf16", native=False),
    "ours-int8-torch": partial(Ours, precision="int8", native=False),
    "ours-fp32-text": partial(Ours, precision="fp32", from_text=True),
    "ours-bf16-text": partial(Ours, precision="bf16", from_text=True),
    "ours-int8-text": partial(Ours, precision="int8", from_text=True),
    "hf-fp32-32": partial(hugging_face, dtype=torch.float32, batch=32),
    "hf-fp32": partial(hugging_face, dtype=torch.float32),
    "hf-fp32-max": partial(hugging_face, dtype=torch.float32, to_longest=False),
    "hf-bf16": partial(hugging_face, dtype=torch.bfloat16),
    "st-fp32": partial(SentenceTransformers, dtype=torch.float32),
    "st-bf16": partial(SentenceTransformers, dtype=torch.bfloat16),
    "ort-fp32": partial(onnx_runtime, int8=False),
    "ort-int8": partial(onnx_runtime, int8=True),
    "xlmr-fp32": partial(other, name="xlmr"),
    "minilm-fp32": partial(other, name="minilm"),
    "mdistilbert-fp32": partial(other, name="mdistilbert"),
}

SHORT = ("xlmr-fp32", "minilm-fp32", "mdistilbert-fp32")
"""Models that read 512 tokens at most."""

NAMES = {
    "ours-auto": "ours, auto", "ours-fp32": "ours, fp32", "ours-bf16": "ours, bf16", "ours-int8": "ours, int8",
    "ours-bf16-torch": "ours, bf16, torch alone", "ours-int8-torch": "ours, int8, torch alone",
    "ours-fp32-text": "ours, fp32, from text", "ours-bf16-text": "ours, bf16, from text",
    "ours-int8-text": "ours, int8, from text",
    "hf-fp32-32": "transformers sdpa fp32, sorted, batches of 32", "hf-fp32": "transformers sdpa fp32, best batch",
    "hf-fp32-max": "transformers sdpa fp32, padded to the limit", "hf-bf16": "transformers sdpa bf16",
    "st-fp32": "sentence-transformers fp32, from text", "st-bf16": "sentence-transformers bf16, from text",
    "ort-fp32": "ONNX Runtime fp32", "ort-int8": "ONNX Runtime int8",
    "xlmr-fp32": "XLM-R base shape, fp32", "minilm-fp32": "multilingual MiniLM-L12-H384 shape, fp32",
    "mdistilbert-fp32": "mDistilBERT shape, fp32",
}  # fmt: skip
