"""A GGUF file in llama.cpp itself, through llama-cpp-python's bindings of its C functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RANK = 4
"""llama.cpp's number of the pooling with a head."""


class LlamaFile:
    """A file, loaded for texts of up to 1024 tokens, on one thread."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self.lib: Any = llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._log, None)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 1024
        options.embeddings, options.n_threads, options.n_threads_batch = True, 1, 1
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.pooling = llama_cpp.llama_pooling_type(self.context)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, ends included."""
        data = text.encode()
        room = (self.lib.llama_token * (2 * len(data) + 8))()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), room, len(room), True, True)
        return list(room[:count])

    def outputs(self, ids: Sequence[int]) -> np.ndarray:
        """Return the vector (or logits) of a sequence."""
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        for place, index in enumerate(ids):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = int(index), place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, 1
        batch.n_tokens = len(ids)
        assert self.lib.llama_encode(self.context, batch) == 0
        ranks = self.pooling == RANK
        size = (self.lib.llama_model_n_cls_out if ranks else self.lib.llama_model_n_embd)(self.model)
        found = np.array(self.lib.llama_get_embeddings_seq(self.context, 0)[:size])
        self.lib.llama_batch_free(batch)
        return found
