"""The shape of an encoder, and its translation to and from Hugging Face's ``config.json``. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from mmbert.errors import WeightsError


class ModelConfig(BaseModel):
    """Everything that fixes the encoder's function and shape (mmBERT table 8; names of the field where ours differ below).

    ``window`` is Hugging Face's ``local_attention``: token i sees j iff |i - j| <= window / 2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    global_every: int = 3
    window: int = 128
    rope_theta: float = 10_000.0
    local_rope_theta: float = 10_000.0
    max_context: int = 8192
    norm_eps: float = 1e-5
    embed_dropout: float = 0.0
    attention_out_dropout: float = 0.0
    mlp_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_cutoff: float = 2.0
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def is_global(self, layer: int) -> bool:
        """Whether a layer attends to its whole document: layers 0, 3, 6, ..."""
        return layer % self.global_every == 0

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """``base`` (307M) and ``small`` (140M) as published, or ``nano`` for a CPU, with changes."""
        if name not in PRESETS:
            raise WeightsError(f"no preset {name}: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "base": dict(vocab_size=256_000, hidden_size=768, intermediate_size=1152, num_layers=22, num_heads=12,
                 rope_theta=160_000.0, local_rope_theta=160_000.0, attention_out_dropout=0.1),
    "small": dict(vocab_size=256_000, hidden_size=384, intermediate_size=1152, num_layers=22, num_heads=6,
                  rope_theta=160_000.0, local_rope_theta=160_000.0, attention_out_dropout=0.1),
    "nano": dict(vocab_size=8192, hidden_size=192, intermediate_size=384, num_layers=4, num_heads=6,
                 rope_theta=10_000.0, local_rope_theta=10_000.0, max_context=1024),
}  # fmt: skip
