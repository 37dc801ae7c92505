"""The Embedder by sentence-transformers' names, so that it drops into code written for a SentenceTransformer.

Names, order and defaults are those of version 6; ``sentences`` is the older name of ``inputs``. What differs: batches
go by tokens, so ``batch_size`` is read and not used; one process does the work, so pools are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from mmbert.errors import ConfigError
from mmbert.inference.checks import many_texts, one_text, whole
from mmbert.inference.vectors import measure_ranges, quantize
from mmbert.packed import Packed

if TYPE_CHECKING:
    from mmbert.inference.embedder import Embedder

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


class DropIn:
    """What :class:`Embedder` adds for such code."""

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        sentences: Any = None,
    ) -> Any:
        """SentenceTransformer.encode: (n, d) NumPy, a tensor, or a list of tensors; one text gives one vector.

        int8 and uint8 count from ``ranges`` after ``calibrate``, else from the vectors at hand, as there.
        """
        embedder = cast("Embedder", self)
        texts = sentences if inputs is None else inputs
        whole("batch_size", batch_size)
        if pool is not None or chunk_size is not None:
            raise ConfigError("pool and chunk_size are not supported: start one Embedder a process, or a server")
        _check_device(embedder, device)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
        chosen = self._chosen_prompt(prompt, prompt_name)
        text = one_text(texts)
        single = text is not None
        listed = list(many_texts(texts, "inputs", "a str or a list of str")) if text is None else [text]
        if output_value == "token_embeddings":
            found = self._token_embeddings(listed, chosen, show_progress_bar)
            return found[0] if single else found
        if output_value != "sentence_embedding":
            raise ConfigError(f"output_value {output_value!r} is neither sentence_embedding nor token_embeddings")
        vectors = np.zeros((0, embedder.width(truncate_dim)), np.float32)
        if listed:
            rows = embedder.stream(
                listed, prompt=chosen, dimensions=truncate_dim, normalize=normalize_embeddings,
                progress=show_progress_bar,
            )  # fmt: skip
            vectors = np.stack(list(rows))
        if precision in ("int8", "uint8") and len(vectors):
            ranges = embedder.ranges if embedder.ranges is not None else measure_ranges(vectors)
            vectors = quantize(vectors, precision, ranges)
        elif precision != "float32" and precision not in ("int8", "uint8"):
            vectors = quantize(vectors, precision)
        if convert_to_tensor:
            tensor = torch.from_numpy(vectors).to(embedder.loaded.device)
            return tensor[0] if single else tensor
        if convert_to_numpy:
            return vectors[0] if single else vectors
        rows_of_tensors = list(torch.from_numpy(vectors).to(embedder.loaded.device))
        return rows_of_tensors[0] if single else rows_of_tensors

    def encode_query(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """:meth:`encode` with the folder's prompt for queries, unless another is given."""
        return self._encode_as("query", inputs, prompt_name, options)

    def encode_document(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """:meth:`encode` with the folder's prompt for documents, unless another is given."""
        names = cast("Embedder", self).loaded.prompts
        found = next((name for name in ("document", "passage", "corpus") if name in names), "document")
        return self._encode_as(found, inputs, prompt_name, options)

    def get_embedding_dimension(self) -> int:
        """Width of a vector."""
        return cast("Embedder", self).dimensions

    def get_sentence_embedding_dimension(self) -> int:
        """The older name of :meth:`get_embedding_dimension`."""
        return cast("Embedder", self).dimensions

    @property
    def prompts(self) -> dict[str, str]:
        """Of the folder, by name."""
        return cast("Embedder", self).loaded.prompts

    @property
    def similarity_fn_name(self) -> str:
        """cosine, dot, euclidean or manhattan, as the folder says."""
        return cast("Embedder", self).loaded.similarity

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return cast("Embedder", self).loaded.device

    def _encode_as(self, name: str, inputs: Any, prompt_name: str | None, options: dict[str, Any]) -> Any:
        if prompt_name is None and options.get("prompt") is None and name in cast("Embedder", self).loaded.prompts:
            prompt_name = name
        return self.encode(inputs, prompt_name, **options)

    def _chosen_prompt(self, prompt: str | None, name: str | None) -> str | None:
        """What the text or, without one, the name stands for; None: the folder's default."""
        prompts = cast("Embedder", self).loaded.prompts
        if prompt is None and name is not None and name not in prompts:
            raise ConfigError(f"no prompt {name!r} in the model's folder: it has {', '.join(prompts) or 'none'}")
        return name if prompt is None else prompt

    def _token_embeddings(self, texts: list[str], prompt: str | None, progress: bool | None) -> list[torch.Tensor]:
        """Vectors of all tokens of each text, ends and prompt included."""
        from mmbert.inference.batching import Batch, run, text_encoder

        embedder = cast("Embedder", self)
        encode = text_encoder(embedder.loaded, embedder.prompt_text(prompt), max_tokens=embedder.max_tokens)

        def states(packed: Packed, batch: Batch) -> list[torch.Tensor]:
            rows = packed.unpack(embedder.states(packed))
            batch.finite(torch.stack([row.sum() for row in rows]).cpu().numpy())  # NaN and infinity stay in a sum
            return rows

        return [rows.clone() for rows in run(embedder.loaded, texts, states, encode=encode, progress=progress)]


def _check_device(embedder: Embedder, device: str | None) -> None:
    if device is None:
        return
    if isinstance(device, list | tuple):
        raise ConfigError("several devices are not supported: start one Embedder a device")
    wanted = torch.device(device)
    if wanted.type != embedder.loaded.device.type or (wanted.index or 0) != (embedder.loaded.device.index or 0):
        raise ConfigError(f"the model is on {embedder.loaded.device}: load it with device={str(device)!r}")
