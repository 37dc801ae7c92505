"""The model that is exported, with its pooling, the modules behind it, prompts and longest text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from mmbert.errors import ConfigError
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import KINDS, Loaded, load
from mmbert.inference.pooling import Pooling
from mmbert.inference.sentence_transformers_folder import Normalize, Truncate
from mmbert.inference.vectors import Similarity
from mmbert.model.adapter import read_adapter
from mmbert.model.folder import is_adapter
from mmbert.model.weights import TIED, cut_padding, drop_layers, load_state, take_encoder

Output = Literal["hidden", "embedding", "logits"]
"""Vectors of tokens, vectors of texts, logits of the head."""

CLASSES = {kind: name for name, kind in KINDS.items()}
"""transformers' class of each kind of head."""


class Source(Loaded):
    """A model on the CPU, in fp32 and as plain modules, with the options that were chosen for the export.

    ``config`` has the ids of the tokenizer's special tokens.
    """

    pooling: Pooling

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        prompts: Mapping[str, str] | None = None,
        similarity: str | None = None,
        max_tokens: int | None = None,
        num_layers: int | None = None,
        dimensions: int | None = None,
    ) -> Source:
        """Load a folder or hub name; options as in :func:`mmbert.export`, None keeps what the folder says.

        Raises WeightsError, TokenizerError or ConfigError.
        """
        loaded = load(name, revision=revision, device="cpu", precision="plain", num_layers=num_layers)
        embedder = Embedder(loaded, pooling=pooling, dimensions=dimensions, max_tokens=max_tokens)
        ids = {f"{role}_id": getattr(loaded.tokenizer, f"{role}_id") for role in ("pad", "eos", "bos", "unk", "mask")}
        measure = similarity or loaded.similarity
        if measure not in get_args(Similarity):
            raise ConfigError(f"similarity {measure!r} is none of {', '.join(get_args(Similarity))}")
        chosen: dict[str, Any] = {
            "config": loaded.config.model_copy(update=ids), "pooling": embedder.pooling,
            "after": _ending(loaded.after, normalize), "prompts": {**loaded.prompts, **(prompts or {})},
            "similarity": measure, "max_tokens": embedder.max_tokens,
            "truncate_dim": embedder.dimensions if embedder.dimensions < embedder.widest else None,
        }  # fmt: skip
        return cls(**vars(loaded) | chosen)

    @property
    def has_head(self) -> bool:
        """Whether the model has a head."""
        return self.head is not None

    @property
    def behind_pooling(self) -> tuple[nn.Module, ...]:
        """The modules from pooling to the vectors of a graph: those of the folder, and what truncates.

        Where the folder gives vectors unit length, truncated ones have it too, as a call of the Embedder.
        """
        if self.truncate_dim is None:
            return self.after
        unit = (Normalize(),) if self.after and isinstance(self.after[-1], Normalize) else ()
        return (*self.after, Truncate(self.truncate_dim), *unit)

    def state(self, *, head: bool) -> dict[str, Tensor]:
        """Return the tensors as stored, by the names of transformers' class with a head, or of the bare encoder."""
        state = load_state(self.place, convert=True)
        if is_adapter(self.folder):
            read_adapter(self.folder).merge(state)
            # one type for all, as config.json says: the merged matrices are fp32
            state = {name: value.float() for name, value in state.items()}
        if self.config.tied:
            state.pop(TIED, None)
        cut_padding(state, self.config.vocab_size)
        drop_layers(state, self.config.num_layers)
        own = take_encoder(state)
        return {**{f"model.{name}": value for name, value in own.items()}, **state} if head else own


def _ending(after: tuple[nn.Module, ...], normalize: bool | None) -> tuple[nn.Module, ...]:
    """Return the modules behind pooling, with or without Normalize at the end as asked."""
    if normalize is None or (normalize and after and isinstance(after[-1], Normalize)):
        return after
    if normalize:
        return (*after, Normalize())
    while after and isinstance(after[-1], Normalize):
        after = after[:-1]
    return after
