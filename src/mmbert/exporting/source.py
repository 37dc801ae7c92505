"""The model that is exported, with what is chosen for it: pooling, what comes after it, prompts, longest text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from mmbert.errors import ConfigError
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import KINDS, Loaded, load
from mmbert.inference.pooling import Pooling
from mmbert.inference.sentence_transformers_folder import Dense, Normalize, read_parts
from mmbert.inference.vectors import Similarity
from mmbert.model.config import ModelConfig
from mmbert.model.weights import TIED, cut_padding, load_state, model_folder, take_encoder

Output = Literal["hidden", "embedding", "logits"]
"""Vectors of tokens, vectors of texts, what the head says."""

CLASSES = {kind: name for name, kind in KINDS.items()}
"""transformers' class of each kind of head."""


@dataclass(frozen=True)
class Source:
    """A model, on the CPU, in fp32 and as plain modules, and how its vectors are made.

    place   the folder with its ``config.json``: ``loaded.folder``, or one in it
    config  the shape, with the ids of the tokenizer's special tokens
    """

    loaded: Loaded
    place: Path
    config: ModelConfig
    pooling: Pooling
    after: tuple[nn.Module, ...]
    prompts: dict[str, str]
    default_prompt: str | None
    similarity: str
    max_tokens: int

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
    ) -> Source:
        """Options are those of :func:`mmbert.export`; None leaves what the folder says.

        Raises WeightsError, TokenizerError or ConfigError.
        """
        folder = model_folder(name, revision=revision)
        parts = read_parts(folder)
        loaded = load(folder, device="cpu", precision="plain")
        embedder = Embedder(loaded, pooling=pooling, max_tokens=max_tokens)
        words = loaded.tokenizer
        ids = {f"{role}_id": getattr(words, f"{role}_id") for role in ("pad", "eos", "bos", "unk", "mask")}
        measure = similarity or loaded.similarity
        if measure not in get_args(Similarity):
            raise ConfigError(f"similarity {measure!r} is none of {', '.join(get_args(Similarity))}")
        return cls(
            loaded=loaded,
            place=parts.encoder if parts else folder,
            config=loaded.config.model_copy(update=ids),
            pooling=embedder.pooling,
            after=_ending(loaded.after, normalize),
            prompts={**loaded.prompts, **(prompts or {})},
            default_prompt=loaded.default_prompt,
            similarity=measure,
            max_tokens=embedder.max_tokens,
        )

    @property
    def has_head(self) -> bool:
        return self.loaded.head is not None

    @property
    def dimensions(self) -> int:
        """Width of a text's vector."""
        dense = [module for module in self.after if isinstance(module, Dense)]
        return dense[-1].linear.out_features if dense else self.config.hidden_size * len(self.pooling.modes)

    def state(self, *, head: bool) -> dict[str, Tensor]:
        """The tensors as stored, by the names that transformers' class expects: with a head, or a bare encoder."""
        state = load_state(self.place)
        state.pop(TIED, None)
        cut_padding(state, self.config.vocab_size)
        own = take_encoder(state)
        return {**{f"model.{name}": value for name, value in own.items()}, **state} if head else own


def _ending(after: tuple[nn.Module, ...], normalize: bool | None) -> tuple[nn.Module, ...]:
    """The modules behind pooling, ending in unit length or not as asked."""
    if normalize is None or (normalize and after and isinstance(after[-1], Normalize)):
        return after
    if normalize:
        return (*after, Normalize())
    while after and isinstance(after[-1], Normalize):
        after = after[:-1]
    return after
