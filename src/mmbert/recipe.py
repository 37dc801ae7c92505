"""Every option of every run, on one page (but for ``recipe_text`` and ``recipe_phases``).

A recipe is one YAML 1.2 file. It states where text comes from, the tokenizer and the model, the phases as a tree (each
``follows`` another), how their results are merged and how the model is evaluated. Options enter the program only here,
and are checked strictly:

    recipe = Recipe.load("nano", ["phases.extend.mask_rate=0.2"])

``extends: other.yaml`` starts from another recipe, ``extends: nano`` from one of the package; maps are merged key by
key. Null removes what is inherited: a phase, an entry of a map, or a value, which then is null or, where null is not
allowed, the default.
Everything in a schedule is counted in tokens (``3B``, ``2.3T``, ``1_048_576``), never in steps.
Sources: mmBERT (arXiv 2509.06888) and its published configurations; see the comments in the recipes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.errors import ConfigError
from mmbert.recipe_file import Spec, SpecFile, Tokens
from mmbert.recipe_phases import Budget as Budget
from mmbert.recipe_phases import Counts as Counts
from mmbert.recipe_phases import Decay as Decay
from mmbert.recipe_phases import Phase as Phase
from mmbert.recipe_phases import PhaseData as PhaseData
from mmbert.recipe_text import Cleaning as Cleaning
from mmbert.recipe_text import LanguageId as LanguageId
from mmbert.recipe_text import NearDuplicates as NearDuplicates
from mmbert.recipe_text import Share as Share
from mmbert.recipe_text import Source as Source
from mmbert.recipe_text import TokenizerTraining as TokenizerTraining
from mmbert.trackers import TRACKER

Precision = Literal["fp32", "bf16", "fp16"]
"""Of the operands of matrix products."""

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
    """Rows of the embedding table; null: the tokenizer's size."""
    max_context: int | None = Field(None, ge=16)
    """Longest sequence that the finished model declares, if that is more than its phase's ``context``."""
    global_every: int = Field(3, ge=1)
    """Distance between layers of global attention."""
    window: int = Field(128, ge=2)
    """Local layers: token i sees j iff \\|i - j\\| <= window / 2."""
    norm_eps: float = Field(1e-5, gt=0)
    embed_dropout: Share = 0.0
    attention_out_dropout: Share = 0.0
    """On the output of attention's last matrix, in training only (mmBERT: 0.1). Attention weights have no dropout:
    fused kernels cannot drop them exactly, and mmBERT trains without it."""
    mlp_dropout: Share = 0.0
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of inner matrices; output matrices get this / sqrt(2 num_layers)."""
    initializer_cutoff: float = Field(2.0, gt=0)
    """Initial weights are truncated at this many standard deviations."""
    initializer_bias: Literal["uniform", "unigram"] = "uniform"
    """Bias of the output layer. uniform: as published. unigram: the log frequency of each token in what the phases draw
    (Meister et al. 2212.09686); without it the embeddings learn the frequencies first and grow alike. For runs of
    millions of tokens (docs/decisions/0010)."""
    initializer_embeddings: Literal["normal", "cooccurrence"] = "normal"
    """Token embeddings. normal: random, as published. cooccurrence: from co-occurrence counts in the shards (PPMI and
    SVD, ``mmbert.training.cooccurrence_init``), scaled to the norm of random ones. For runs of a few million tokens, in
    which masked language modelling teaches little of what words mean (docs/decisions/0011)."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_heads {self.num_heads}: "
                "RoPE turns pairs"
            )
        return self


class Optimizer(Spec):
    """StableAdamW (arXiv 2304.13013): AdamW whose step is shortened when the second moment lags behind."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    """Multiplied by the learning rate each step: 0.1 at 8e-4 is the published "8e-5". Matrices only."""
    decay_embeddings: bool = True
    """Whether the token embeddings decay too, as published."""
    embedding_lr: float = Field(1.0, gt=0)
    """Learning rate of that table relative to that of all other weights; 1: as published. Lower it where the table is
    initialised from co-occurrence counts, which full steps of Adam soon overwrite (docs/decisions/0011)."""


class Merge(Spec):
    """How the models of several phases (or several checkpoints of one) become one model."""

    method: Literal["ties", "average"] = "ties"
    phases: dict[str, float]
    """Phase -> weight. ``start`` is the model of the recipe's ``start``."""
    base: str | None = None
    """``ties``: the phase that all of them follow, or ``start``."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """``ties``: fraction of each difference that is kept: the largest values."""
    scale: float = 1.0
    """``ties``: factor on the merged difference (lambda)."""
    trim: Literal["model", "tensor"] = "model"
    """``ties``: whether ``density`` applies to the whole model (the paper) or to each tensor (mergekit)."""
    checkpoints: int = Field(1, ge=1)
    """``average``: number of last checkpoints of each phase."""
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
    """Fraction of the held-out tokens that are masked, the same ones for every model."""
    context: int = Field(256, ge=16)
    """Longest sequence in tokens."""
    tokens_per_language: Tokens = 4096
    """At most this much held-out text a language."""
    batch: Tokens = 16_384
    """Tokens per forward pass."""
    parallel: str | None = None
    """Folder ``<language>/test.jsonl[.gz]`` of ``{text, english}`` for retrieval; null: what ``prepare`` held out."""
    pairs_per_language: int = Field(200, ge=0)
    """Maximum of pairs per language; 0: no retrieval."""
    kept: tuple[str, ...] = ()
    """With ``start``: sources of languages that it already knows. Languages of all other sources count as new."""


class Runtime(Spec):
    """How a run uses the machine. Nothing here changes the sequence of samples, except ``on_spike: rollback`` and
    ``on_bad_shard: skip``."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work. ddp: each holds all weights. fsdp: each holds a shard of every tensor, for
    models whose weights and moments, 16 bytes a parameter, do not fit one device. May change when a run resumes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights and the residual stream stay fp32. fp16 is for GPUs without bf16 (T4,
    V100): the loss is then scaled, and the scale is part of a checkpoint. auto: the device's fastest."""
    compile: bool = False
    """torch.compile of the element-wise parts."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; null: torch's choice."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    checkpoint_every: Tokens = 10_000_000_000
    """Tokens between checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept per phase beside its last one; ``merge.checkpoints`` may need more, which are then kept."""
    verify: bool = True
    """Read all shards once before training and compare their checksums. Later each block is checked when it is read."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do about a damaged shard. stop: end with an error that names it. skip: leave it out from the step on at
    which it is found. ``bad_shards.json`` in the run's folder records which and from when on: a resumed run leaves them
    out, whatever this option is by then."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics."""
    tracker: str | None = Field(None, pattern=TRACKER)
    """``wandb`` or ``trackio``, with ``:PROJECT`` if that is not mmbert: the metrics are sent there too."""
    timeout: float = Field(600.0, gt=0)
    """Seconds after which a process that does not answer counts as lost, and the others end."""
    on_spike: Literal["stop", "rollback"] = "stop"
    """What to do about a loss or gradient that is not finite, or a norm above ``spike_norm``. stop: end before a weight
    changes, and record the step for ``mmbert pretrain --replay``. rollback: go back to the last checkpoint and continue
    with the data after the spike, at most three times. Skipped samples change the weights, so a run is reproducible to
    the bit only with the same ``on_spike`` and ``spike_norm`` throughout. Changes apply from the last checkpoint on."""
    spike_norm: float | None = Field(None, gt=1)
    """A gradient norm above this multiple of the median of the last 64 is a spike; null: only what is not finite."""


class Recipe(SpecFile):
    """A whole run, from raw text to an evaluated model."""

    command = "run"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    """Seed of weights, data order, masks and dropout."""
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
    """Shape of the model; null: the start's."""
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
