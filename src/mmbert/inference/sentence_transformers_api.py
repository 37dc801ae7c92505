"""The methods of a SentenceTransformer, so that an Embedder can take its place in existing code.

Names, order and defaults are those of version 6; ``sentences`` is the older name of ``inputs``. Two things differ:
batches are made by tokens, so ``batch_size`` is checked and not used; and one process computes, so pools are refused.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from mmbert.errors import ConfigError
from mmbert.inference.batching import Batch, run, text_encoder
from mmbert.inference.checks import many_texts, one_text
from mmbert.inference.vector_predictor import VectorPredictor
from mmbert.inference.vectors import measure_ranges, quantize
from mmbert.packed import Packed

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


class SentenceTransformersApi(VectorPredictor):
    """What :class:`mmbert.Embedder` offers by sentence-transformers' names."""

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
        """Return (n, d) NumPy, a tensor, or a list of tensors; one vector for one text.

        int8 and uint8 use ``ranges`` after ``calibrate``, else the ranges of these vectors, as the library does.
        """
        texts = sentences if inputs is None else inputs
        self.check_unused(batch_size, device, pool, chunk_size)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
        chosen = self.loaded.check_prompt(prompt_name) if prompt is None else prompt
        text = one_text(texts)
        listed = list(many_texts(texts, "inputs", "a str or a list of str")) if text is None else [text]
        if output_value == "token_embeddings":
            found: Any = self._token_embeddings(listed, chosen, show_progress_bar)
        elif output_value == "sentence_embedding":
            vectors = np.zeros((0, self.width(truncate_dim)), np.float32)
            if listed:
                rows = self.stream(
                    listed, prompt=chosen, dimensions=truncate_dim, normalize=normalize_embeddings,
                    progress=show_progress_bar,
                )  # fmt: skip
                vectors = np.stack(list(rows))
            if precision in ("int8", "uint8"):
                if len(vectors):
                    ranges = self.ranges if self.ranges is not None else measure_ranges(vectors)
                    vectors = quantize(vectors, precision, ranges)
            else:
                vectors = quantize(vectors, precision)
            found = vectors
            if convert_to_tensor or not convert_to_numpy:
                tensor = torch.from_numpy(vectors).to(self.loaded.device)
                found = tensor if convert_to_tensor else list(tensor)
        else:
            raise ConfigError(f"output_value {output_value!r} is neither sentence_embedding nor token_embeddings")
        return found if text is None else found[0]

    def encode_query(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """Call :meth:`encode` with the folder's prompt for queries, unless another is given."""
        return self._encode_as("query", inputs, prompt_name, options)

    def encode_document(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """Call :meth:`encode` with the folder's prompt for documents, unless another is given."""
        names = self.loaded.prompts
        found = next((name for name in ("document", "passage", "corpus") if name in names), "document")
        return self._encode_as(found, inputs, prompt_name, options)

    def get_embedding_dimension(self) -> int:
        """Return the width of a vector."""
        return self.dimensions

    def get_sentence_embedding_dimension(self) -> int:
        """Return the same, by its older name."""
        return self.dimensions

    @property
    def prompts(self) -> dict[str, str]:
        """The folder's prompts by name."""
        return self.loaded.prompts

    @property
    def similarity_fn_name(self) -> str:
        """cosine, dot, euclidean or manhattan, as the folder says."""
        return self.loaded.similarity

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.loaded.device

    def _encode_as(self, name: str, inputs: Any, prompt_name: str | None, options: dict[str, Any]) -> Any:
        if prompt_name is None and options.get("prompt") is None and name in self.loaded.prompts:
            prompt_name = name
        return self.encode(inputs, prompt_name, **options)

    def _token_embeddings(self, texts: list[str], prompt: str | None, progress: bool | None) -> list[torch.Tensor]:
        """Return the vectors of all tokens of each text, of special tokens and the prompt too."""
        encode = text_encoder(self.loaded, self.prompt_text(prompt), max_tokens=self.max_tokens)

        def states(packed: Packed, batch: Batch) -> list[torch.Tensor]:
            rows = packed.unpack(self.states(packed))
            batch.finite(torch.stack([row.sum() for row in rows]).cpu().numpy())  # NaN and infinity stay in a sum
            return rows

        return [rows.clone() for rows in run(self.loaded, texts, states, encode=encode, progress=progress)]
