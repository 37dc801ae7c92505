"""Every option of every run, on one page (those about text on the next, ``recipe_text``).

A recipe is one YAML 1.2 file. It says where text comes from, which tokenizer and model, the phases as a tree (each
``follows`` another), how their ends are merged and how the result is judged. Reading it here, strictly, is the only
way an option enters the program:

    recipe = Recipe.load("recipes/nano.yaml", ["phases.extend.mask_rate=0.2"])

``extends: other.yaml`` starts from another recipe; maps are merged key by key. Null takes back what is inherited: a
phase, an entry of a map, or a value, which is then null or, where it cannot be, the default.
Everything in a schedule is counted in tokens (``3B``, ``2.3T``, ``1_048_576``), never in steps.
Sources: mmBERT (arXiv 2509.06888) and its published configurations; see the comments in ``recipes/``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.errors import ConfigError
from mmbert.recipe_file import Spec, SpecFile, Tokens
from mmbert.recipe_text import Cleaning as Cleaning
from mmbert.recipe_text import LanguageId as LanguageId
from mmbert.recipe_text import NearDuplicates as NearDuplicates
from mmbert.recipe_text import Share as Share
from mmbert.recipe_text import Source as Source
from mmbert.recipe_text import TokenizerTraining as TokenizerTraining

Precision = Literal["fp32", "bf16"]
"""Of matrix products."""

START = "start"
"""The model of ``start`` where models have names: in ``merge``, in the run's folder and in its report."""


class ModelSpec(Spec):
    """Shape of the encoder (ModernBERT's architecture; mmBERT table 8)."""

    hidden_size: int = Field(ge=8)
    """Width of the residual stream."""
    intermediate_size: int = Field(ge=8)
    """Width of each of the two GeGLU branches."""
    num_layers: int = Field(ge=1)
    """Blocks; layer 0 and every ``global_every``-th attend globally."""
    num_heads: int = Field(ge=1)
    """Attention heads; the head dimension is hidden_size / num_heads."""
    vocab_size: int | None = Field(None, ge=1)
    """Null: the tokenizer's."""
    max_context: int | None = Field(None, ge=16)
    """Longest sequence that the finished model is said to take, where that is more than its phase's ``context``."""
    global_every: int = Field(3, ge=1)
    """Distance between layers of global attention."""
    window: int = Field(128, ge=2)
    """Local layers: token i sees j iff \\|i - j\\| <= window / 2."""
    norm_eps: float = Field(1e-5, gt=0)
    embed_dropout: Share = 0.0
    attention_dropout: Share = 0.0
    """On the attention weights. Only 0 is supported: no fused kernel drops weights exactly, and mmBERT does not."""
    attention_out_dropout: Share = 0.0
    """On the output of attention's last matrix, in training only (mmBERT: 0.1)."""
    mlp_dropout: Share = 0.0
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of inner matrices; output matrices get this / sqrt(2 num_layers)."""
    initializer_cutoff: float = Field(2.0, gt=0)
    """Normal draws are cut at this many standard deviations."""
    initializer_bias: Literal["uniform", "unigram"] = "uniform"
    """Of the output's bias. uniform: as published. unigram: the logarithm of each token's part of what the phases draw
    (Meister et al. 2212.09686); otherwise the embeddings learn it first and grow alike. For runs of millions of tokens
    (docs/decisions/0010)."""
    initializer_embeddings: Literal["normal", "neighbours"] = "normal"
    """Of the token embeddings. normal: drawn, as published. neighbours: what counting each token's neighbours in the
    shards tells of it (``mmbert.training.cooccurrence_init``), as long as those that are drawn. For runs that draw a few
    million tokens, in which masking teaches little of what words mean (docs/decisions/0011)."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_heads {self.num_heads}: "
                "RoPE turns pairs"
            )
        if self.attention_dropout:
            raise ValueError("attention_dropout must be 0: use attention_out_dropout")
        return self


class Optimizer(Spec):
    """StableAdamW (arXiv 2304.13013): AdamW whose step is shortened when the second moment lags behind."""

    name: Literal["stable_adamw"] = "stable_adamw"
    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    """Times the learning rate, each step: 0.1 at 8e-4 is the published "8e-5". Matrices only."""
    decay_embeddings: bool = True
    """Whether the table of token embeddings is one of these matrices, as published."""
    embedding_lr: float = Field(1.0, gt=0)
    """Learning rate of that table relative to the others'; 1: as published. Less where it begins with what counting
    tells, which full steps of Adam soon cover up (docs/decisions/0011)."""


class Counts(Spec):
    """Sizes known without data: tokens per language of an already sampled set. For ``--dry-run`` only."""

    file: str
    """A tab-separated table with a column ``language``; relative to the recipe."""
    column: str
    """The column of token counts."""
    drawn_at: float = Field(1.0, gt=0, le=1.0)
    """The exponent at which that set was sampled: the natural size is count ** (1 / drawn_at), up to a factor."""


class Budget(Spec):
    """One source's part in a phase."""

    tokens: Tokens
    """Weight of the source: its tokens in the published phase. Only the proportion between sources matters."""
    temperature: Share | None = None
    """Exponent over the languages of this source; null: the phase's."""
    without: tuple[str, ...] = ()
    """Languages not drawn from this source, since another source of the phase has them (better)."""
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
    """No language is repeated more often in this phase; what it cannot give goes to the others."""

    @model_validator(mode="after")
    def _one_way_to_fix(self) -> Self:
        if self.fixed and self.mixture is not None:
            raise ValueError("fixed and mixture exclude each other: give the language a source with its own budget")
        if sum(self.fixed.values()) >= 1:
            raise ValueError(
                f"fixed shares add up to {sum(self.fixed.values()):g}: they must leave something to the others"
            )
        return self


class Decay(Spec):
    """How the learning rate falls at the end of a phase."""

    shape: Literal["one_minus_sqrt", "linear"] = "one_minus_sqrt"
    tokens: Tokens | None = None
    """Length of the fall; null: the whole phase."""
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
    """Base of the rotary angles of global layers. Where it is left out and there is a ``start``: the start's, also
    for local layers."""
    local_rope_theta: float | None = Field(None, gt=0)
    """Base of the rotary angles of local layers; null: rope_theta, as in mmBERT."""
    mask_rate: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Part of the tokens to predict (80 % <mask>, 10 % a random token, 10 % unchanged)."""
    whole_words: bool = False
    """All tokens of a word together (arXiv 1906.08101), so that its meaning must be told by the sentence, not by the
    rest of its spelling; false: each token for itself, as published."""
    batch: Tokens
    """Tokens per optimiser step."""
    batch_start: Tokens | None = None
    """Tokens per step at the beginning. It grows to ``batch`` by the largest size that divides both, with equally many
    steps at each size."""
    batch_warmup: Tokens = 0
    """Length of that growth."""
    micro_batch: Tokens
    """Tokens per forward pass of one device."""
    peak_lr: float = Field(gt=0)
    warmup: Tokens = 0
    """Linear warm-up of the learning rate from 0."""
    decay: Decay | None = None
    seed: int | None = Field(None, ge=0)
    """Of its data order, masks and dropout; null: the recipe's."""

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
    def decay_tokens(self) -> int:
        """Tokens over which the learning rate falls; 0 without a decay."""
        if self.decay is None:
            return 0
        return self.tokens - self.warmup if self.decay.tokens is None else self.decay.tokens


class Merge(Spec):
    """How the ends of several phases (or several checkpoints of one) become one model."""

    method: Literal["ties", "average"] = "ties"
    phases: dict[str, float]
    """Phase -> weight. ``start`` is the model of the recipe's ``start``."""
    base: str | None = None
    """``ties``: the phase all of them started from, or ``start``."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """``ties``: part of each difference that is kept, the largest."""
    scale: float = 1.0
    """``ties``: factor on the merged difference (lambda)."""
    trim: Literal["model", "tensor"] = "model"
    """``ties``: whether ``density`` holds over the whole model (the paper) or in each tensor (mergekit)."""
    checkpoints: int = Field(1, ge=1)
    """``average``: the last so many checkpoints of each phase."""
    fading: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """``average``: weight of each older checkpoint relative to the next."""

    @model_validator(mode="after")
    def _base(self) -> Self:
        if self.method == "ties" and self.base is None:
            raise ValueError("ties needs base: the phase that the merged phases follow")
        if self.method == "ties" and self.base in self.phases:
            raise ValueError(f"{self.base} is both base and merged, which changes nothing: lower scale, or use average")
        return self


class Evaluation(Spec):
    """What is measured on held-out text after each phase and for the merge."""

    mask_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Part of the held-out tokens predicted, the same ones for every model."""
    context: int = Field(256, ge=16)
    """Longest sequence in tokens."""
    tokens_per_language: Tokens = 4096
    """At most this much held-out text a language."""
    batch: Tokens = 16_384
    """Tokens per forward pass."""
    parallel: str | None = None
    """Folder ``<language>/test.jsonl[.gz]`` of ``{text, english}`` for retrieval; null: what ``prepare`` held out."""
    pairs_per_language: int = Field(200, ge=0)
    """At most so many pairs a language; 0: no retrieval."""
    kept: tuple[str, ...] = ()
    """With ``start``: sources of languages that it knows and is to keep. Those of all other sources are new to it."""


class Runtime(Spec):
    """How a run uses the machine. Nothing here changes the sequence of samples, but for ``on_spike: rollback`` and
    ``on_bad_shard: skip``."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work: every one holds all weights, or a part of each (for models whose weights
    and averages, 16 bytes a parameter, are too much for one device). May change when a run goes on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; weights and the residual stream stay fp32."""
    compile: bool = False
    """torch.compile of the element-wise parts."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; null: torch's choice."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    checkpoint_every: Tokens = 10_000_000_000
    """Tokens between checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept per phase, beside its last (``merge.checkpoints`` raises it where needed)."""
    verify: bool = True
    """Read all shards once before training and compare their checksums. Later each block is checked when it is read."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do about a damaged shard: end, and say which and where; or leave all of it out, from the step on at which
    it is found. ``bad_shards.json`` in the run's folder keeps which and from when on: a run that goes on does so
    without them, whatever is said here by then."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics."""
    timeout: float = Field(600.0, gt=0)
    """Seconds until a process that does not answer counts as lost, and the others end."""
    on_spike: Literal["stop", "rollback"] = "stop"
    """On a loss or gradient that is not finite, or above ``spike_norm``: end before a weight moves, and keep the place
    for ``mmbert pretrain --replay``; or go back to the last checkpoint and on from there with the data after the spike,
    at most three times. Samples passed over are part of what the weights depend on: a run ends in the same bits again
    only with the same ``on_spike`` and ``spike_norm`` all along. Changed in a begun run, they hold from the last
    checkpoint on."""
    spike_norm: float | None = Field(None, gt=1)
    """A gradient norm above so many times the median of the last 64 is a spike; null: only what is not finite."""


class Recipe(SpecFile):
    """A whole run, from raw text to an evaluated model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    """Of weights, data order, masks and dropout."""
    start: str | None = None
    """Folder or hub name of a model to continue from, with a fresh optimiser; null: fresh weights."""
    sources: dict[str, Source] = Field({})
    """Where raw text comes from, by name."""
    cleaning: Cleaning = Cleaning()
    shards: str | None = None
    """Folder of prepared shards, to share them between recipes; null: ``data`` in the run's folder."""
    tokenizer: str | TokenizerTraining | None = None
    """Folder or hub name of a tokenizer, or how to train one; null: the start's."""
    model: ModelSpec | None = None
    """Null: the start's."""
    optimizer: Optimizer = Optimizer()
    phases: dict[str, Phase]
    merge: Merge | None = None
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    @property
    def vocabulary(self) -> str | TokenizerTraining:
        """``tokenizer``, or the start's."""
        vocabulary = self.tokenizer if self.tokenizer is not None else self.start
        assert vocabulary is not None, "_needs_start looks"
        return vocabulary

    @property
    def shape(self) -> ModelSpec:
        """``model``; where that is the start's, ``mmbert.start_model.resolve`` must have filled it in."""
        if self.model is None:
            raise ConfigError(f"the model of {self.name} is that of its start: mmbert.start_model.resolve looks it up")
        return self.model

    def seed_of(self, phase: str) -> int:
        """The seed of a phase: its own, or the recipe's."""
        own = self.phases[phase].seed
        return self.seed if own is None else own

    def order(self) -> list[str]:
        """Names of the phases, each after the one it follows."""
        return list(self._depths())

    def _depths(self) -> dict[str, int]:
        depths: dict[str, int] = {}
        waiting = dict(self.phases)
        while waiting:
            ready = [name for name, phase in waiting.items() if phase.follows is None or phase.follows in depths]
            if not ready:
                raise ValueError(f"phases {', '.join(waiting)} follow one another in a circle")
            for name in ready:
                follows = waiting.pop(name).follows
                depths[name] = 0 if follows is None else depths[follows] + 1
        return depths

    @model_validator(mode="after")
    def _needs_start(self) -> Self:
        for field in ("tokenizer", "model"):
            if self.start is None and getattr(self, field) is None:
                raise ValueError(f"{field} is missing: only a recipe with `start` may leave it out")
        if START in self.phases:
            raise ValueError(f"phases.{START}: this name is that of the model of `start`: choose another")
        return self

    @model_validator(mode="after")
    def _references(self) -> Self:
        for name, phase in self.phases.items():
            if phase.follows is not None and phase.follows not in self.phases:
                raise ValueError(f"phases.{name}.follows names no phase: {phase.follows}")
            for source in phase.data.mixture or {}:
                if source not in self.sources:
                    raise ValueError(f"phases.{name}.data.mixture names no source: {source}")
        if not self.phases:
            raise ValueError("phases is empty: a recipe needs at least one")
        self._depths()
        for source in self.evaluation.kept:
            if source not in self.sources:
                raise ValueError(f"evaluation.kept names no source: {source}")
        if self.merge is not None:
            for name in [*self.merge.phases, *([self.merge.base] if self.merge.base else [])]:
                if name == START and self.start is None:
                    raise ValueError("merge names start, but the recipe has none: say from which model it starts")
                if name not in self.phases and name != START:
                    raise ValueError(f"merge names no phase: {name}")
        return self
