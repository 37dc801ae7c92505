"""``RopeScaling``: how RoPE reaches longer texts, in recipes and in ``config.json``. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RopeType = Literal["linear", "dynamic", "yarn", "llama3"]


_SHORT = {"type": "rope_type", "original": "original_max_position_embeddings"}
"""Names that are taken as well: ``type`` is what transformers 4 writes, and recipes may say both."""


def _short_names_too(schema: dict[str, Any]) -> None:
    """Allow the short names in the schema by which editors check recipes."""
    for short, long in _SHORT.items():
        schema["properties"][short] = schema["properties"][long]
        schema["required"].remove(long)


class RopeScaling(BaseModel):
    """A scaling of RoPE's angles, with the keys and defaults of transformers.

    rope_type            ``linear``: positions divided by ``factor`` (2306.15595). ``dynamic``: a base that grows with
                         the text beyond the original length (NTK-aware). ``yarn``: fast frequencies stay, slow ones are
                         divided (2309.00071). ``llama3``: the same with other borders
    factor               how many times the original length the model reads
    original_max_position_embeddings  tokens of the texts that it was trained on before
    attention_factor     of yarn: what cosines and sines are multiplied by; None: 0.1 ln(factor) + 1, or by ``mscale``
                         and ``mscale_all_dim``
    beta_fast, beta_slow of yarn: turns within the original length from which on a frequency stays, and below which it
                         is divided
    low_freq_factor, high_freq_factor  of llama3: the same borders, as original length per wavelength
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_short_names_too)

    rope_type: RopeType
    factor: float = Field(ge=1)
    original_max_position_embeddings: int = Field(ge=1)
    attention_factor: float | None = Field(None, gt=0)
    beta_fast: float = Field(32.0, gt=0)
    beta_slow: float = Field(1.0, gt=0)
    mscale: float | None = Field(None, gt=0)
    mscale_all_dim: float | None = Field(None, gt=0)
    low_freq_factor: float | None = Field(None, gt=0)
    high_freq_factor: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, values: Any) -> Any:
        return {_SHORT.get(key, key): value for key, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        both = self.low_freq_factor is not None and self.high_freq_factor is not None
        if self.rope_type == "llama3" and not both:
            raise ValueError("llama3 needs low_freq_factor and high_freq_factor")
        if self.low_freq_factor and self.high_freq_factor and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be above low_freq_factor")
        return self

    def to_hf(self) -> dict[str, Any]:
        """Return the table of transformers, without what is not set."""
        table = self.model_dump(exclude_none=True)
        for key in ("beta_fast", "beta_slow") if self.rope_type != "yarn" else ():
            del table[key]
        if self.rope_type in ("linear", "dynamic"):  # transformers warns about keys that these types do not read
            del table["original_max_position_embeddings"]
        return table
