"""Stand-ins for a tokenizer, where its ids are all that matters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bytes:
    """A tokenizer of bytes that counts what it was asked to encode."""

    vocab_size: int = 261
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4
    fingerprint: str = "0123456789abcdef"
    encoded: list[str] = field(default_factory=list)

    def encode_batch(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        self.encoded.extend(texts)
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) + 5 for text in texts]

    def token_texts(self) -> list[str]:
        return [chr(max(0, index - 5)) for index in range(self.vocab_size)]
