"""The options of a recipe about its phases: what each draws from the shards, and how it trains on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe_file import Spec, Tokens
from mmbert.recipe_text import Share
from mmbert.rope_scaling import RopeScaling


class Counts(Spec):
    """Sizes known without data: tokens per language of an already sampled set. For ``--dry-run`` only."""

    file: str
    """A tab-separated table with a column ``language``; relative to the recipe."""
    column: str
    """The column of token counts."""
    drawn_at: float = Field(1.0, gt=0, le=1.0)
    """The exponent at which that set was sampled: the natural size is count ** (1 / drawn_at), up to a factor."""


class Budget(Spec):
    """The share of one source in a phase."""

    tokens: Tokens
    """Weight of the source: its tokens in the published phase. Only the proportion between sources matters."""
    temperature: Share | None = None
    """Exponent over the languages of this source; null: the phase's."""
    without: tuple[str, ...] = ()
    """Languages not drawn from this source, because another source of the phase has them in better quality."""
    counts: Counts | None = None
    """Sizes for a dry run."""


class PhaseData(Spec):
    """What a phase draws from the shards, in which proportion."""

    languages: Literal["all"] | int | tuple[str, ...] = "all"
    """``all``; a number (that many largest languages); a list of codes; or in YAML the path of a list, one code a line,
    or of a table as ``languages.tsv#tier=pretrain,mid``. ``fra`` admits every script, ``fra_Latn`` one."""
    temperature: Share
    """The exponent of annealed language learning: share = tokens ** temperature. 1: natural; 0: all languages alike."""
    mixture: dict[str, Budget] | None = None
    """Fixed budgets per source. Null: all sources are one pool and the temperature applies to each language's total."""
    fixed: dict[str, Share] = Field({})
    """Languages of the pool with a share of their own, outside the temperature (in mmBERT: English)."""
    max_epochs: float | None = Field(5.0, gt=0)
    """Maximum of repetitions of a language in this phase; the tokens that it cannot give go to the others."""

    @model_validator(mode="after")
    def _one_way_to_fix(self) -> Self:
        if self.fixed and self.mixture is not None:
            raise ValueError("fixed and mixture exclude each other: give the language a source with its own budget")
        if sum(self.fixed.values()) >= 1:
            raise ValueError(
                f"fixed shares add up to {sum(self.fixed.values()):g}: they must leave a part to the others"
            )
        return self


class Decay(Spec):
    """How the learning rate falls at the end of a phase."""

    shape: Literal["one_minus_sqrt", "linear"] = "one_minus_sqrt"
    tokens: Tokens | None = None
    """Length of the decay; null: the whole phase."""
    floor: Share = 0.02
    """The last learning rate, relative to the peak."""


class Phase(Spec):
    """A stretch of training with constant data, context and mask rate."""

    follows: str | None = None
    """The phase whose end this one starts from; null for the root."""
    tokens: Tokens
    """Length."""
    data: PhaseData
    context: int = Field(ge=16)
    """Longest sequence, in tokens, with <bos> and <eos>."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary angles of global layers. If it is left out and there is a ``start``: that of the start, also
    for local layers."""
    local_rope_theta: float | None = Field(None, gt=0)
    """Base of the rotary angles of local layers; null: rope_theta, as in mmBERT."""
    rope: RopeScaling | None = None
    """Scaling of the rotary angles of global layers to a longer context, such as {type: yarn, factor: 4, original:
    8192}. If it is left out and there is a ``start``: that of the start."""
    local_rope: RopeScaling | None = None
    """Scaling of the rotary angles of local layers. They see ``window`` tokens whatever the context, so they need
    none; transformers 4 reads a scaling only if both kinds of layers have the same."""
    mask_rate: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Fraction of the tokens to predict (80 % <mask>, 10 % a random token, 10 % unchanged)."""
    whole_words: bool = False
    """Mask all tokens of a word together (arXiv 1906.08101), so that the model must predict it from the sentence, not
    from the rest of its spelling; false: mask each token by itself, as published."""
    batch: Tokens
    """Tokens per optimiser step."""
    batch_start: Tokens | None = None
    """Tokens per step at the beginning. It grows to ``batch`` in increments of the largest size that divides both, with
    equally many steps at each size."""
    batch_warmup: Tokens = 0
    """Length of that growth."""
    micro_batch: Tokens
    """Tokens per forward pass of one device."""
    peak_lr: float = Field(gt=0)
    warmup: Tokens = 0
    """Linear warm-up of the learning rate from 0."""
    decay: Decay | None = None
    seed: int | None = Field(None, ge=0)
    """Seed of its data order, masks and dropout; null: the recipe's."""

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.batch % self.micro_batch or (self.batch_start or self.batch) % self.micro_batch:
            raise ValueError(
                f"batch {self.batch} and batch_start {self.batch_start} "
                f"must be multiples of micro_batch {self.micro_batch}"
            )
        if self.batch_start is not None and self.batch_start > self.batch:
            raise ValueError(f"batch_start {self.batch_start} exceeds batch {self.batch}")
        if (self.batch_warmup > 0) != (self.batch_start is not None):
            raise ValueError("batch_start and batch_warmup go together: set both or neither")
        if self.context > self.micro_batch:
            raise ValueError(f"context {self.context} exceeds micro_batch {self.micro_batch}: raise micro_batch")
        if self.warmup + self.decay_tokens > self.tokens:
            raise ValueError(f"warmup and decay are longer than the phase ({self.tokens} tokens): shorten them")
        return self

    @property
    def rotary(self) -> dict[str, Any]:
        """Return the fields of ModelConfig that say how this phase's layers rotate queries and keys."""
        return {
            "rope_theta": self.rope_theta, "local_rope_theta": self.local_rope_theta or self.rope_theta,
            "rope_scaling": self.rope, "local_rope_scaling": self.local_rope,
        }  # fmt: skip

    @property
    def decay_tokens(self) -> int:
        """Tokens over which the learning rate falls; 0 without a decay."""
        if self.decay is None:
            return 0
        return self.tokens - self.warmup if self.decay.tokens is None else self.decay.tokens
