"""The shape of an encoder, and Hugging Face's ``config.json`` for it. Imports no torch."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mmbert.errors import WeightsError
from mmbert.model.rope_parameters import LAYER_TYPES, Rope, read_rope, write_rope
from mmbert.rope_scaling import RopeScaling

_MOST = {"num_layers": 1024}
"""Each layer is an object before any weights are read."""

_LARGEST = 2**31 - 1
"""Limit of every other size: the product of two of them fits into 64 bits."""


class ModelConfig(BaseModel):
    """All options of the encoder's function and shape (mmBERT table 8).

    ``window`` is Hugging Face's ``local_attention``: token i sees j iff |i - j| <= window / 2. ``tied``: the decoder of
    a masked language model is the token embedding.
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
    rope_scaling: RopeScaling | None = None
    local_rope_scaling: RopeScaling | None = None
    max_context: int = 8192
    norm_eps: float = 1e-5
    embed_dropout: float = 0.0
    attention_out_dropout: float = 0.0
    mlp_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_cutoff: float = 2.0
    tied: bool = True
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "max_context")
        # Checked before anything is allocated: a config.json is a stranger's file.
        for name in sizes:
            if not 1 <= getattr(self, name) <= _MOST.get(name, _LARGEST):
                most = _MOST.get(name, _LARGEST)
                raise ValueError(f"{name} is {getattr(self, name)}, and must be at least 1 and at most {most:,}")
        for name in ("embed_dropout", "attention_out_dropout", "mlp_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be in [0, 1]")
        # RoPE rotates pairs (j, j + D / 2), so D must be even.
        if self.hidden_size % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not an even multiple of {self.num_heads} heads: RoPE rotates pairs"
            )
        if self.window < 2 or self.global_every < 1:
            raise ValueError("window must be at least 2 and global_every at least 1")
        for scaling in (self.rope_scaling, self.local_rope_scaling):
            if (
                scaling
                and scaling.rope_type == "dynamic"
                and scaling.original_max_position_embeddings != self.max_context
            ):
                raise ValueError(f"a dynamic RoPE begins at max_context, here {self.max_context}: say it as original")
        if self.pad_id >= self.vocab_size:
            raise ValueError(f"pad_id {self.pad_id} is outside a vocabulary of {self.vocab_size}")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def longest_text(self) -> int:
        """Return the most tokens of a text: ``max_context``, times the factor of a dynamic scaling."""
        dynamic = [s.factor for s in (self.rope_scaling, self.local_rope_scaling) if s and s.rope_type == "dynamic"]
        return int(self.max_context * max(dynamic, default=1.0))

    def rope(self, *, local: bool) -> Rope:
        """Return base and scaling of the angles of local or global layers."""
        if local:
            return Rope(self.local_rope_theta, self.local_rope_scaling)
        return Rope(self.rope_theta, self.rope_scaling)

    def is_global(self, layer: int) -> bool:
        """Return whether a layer attends to its whole document: layers 0, 3, 6, ..."""
        return layer % self.global_every == 0

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """Return ``base`` (307M) or ``small`` (140M) as published, or ``nano`` for a CPU, with changes."""
        if name not in PRESETS:
            raise WeightsError(f"no preset {name}: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


_BASE: dict[str, Any] = {
    "vocab_size": 256_000, "hidden_size": 768, "intermediate_size": 1152, "num_layers": 22, "num_heads": 12,
    "rope_theta": 160_000.0, "local_rope_theta": 160_000.0, "attention_out_dropout": 0.1,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "base": _BASE,
    "small": {**_BASE, "hidden_size": 384, "num_heads": 6},
    "nano": {
        "vocab_size": 8192, "hidden_size": 192, "intermediate_size": 384, "num_layers": 4, "num_heads": 6,
        "max_context": 1024,
    },
}  # fmt: skip

FIXED: dict[str, Any] = {
    "model_type": "modernbert",
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
}
"""Values of every mmBERT, the only ones that this package computes; ``config.json`` may leave them out."""

IDS = {f"{role}_token_id": f"{role}_id" for role in ("pad", "eos", "bos", "unk", "mask")}

_OURS = {
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "local_attention": "window",
    "max_position_embeddings": "max_context", "norm_eps": "norm_eps", "embedding_dropout": "embed_dropout",
    "attention_out_dropout": "attention_out_dropout", "mlp_dropout": "mlp_dropout",
    "initializer_range": "initializer_range", "initializer_cutoff_factor": "initializer_cutoff",
    "tie_word_embeddings": "tied", **IDS,
}  # fmt: skip
"""Keys of ``config.json`` and the fields that mean the same, with the same defaults."""


def config_from_hf(values: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Return the shape of ModernBERT's ``config.json``, old form (``global_rope_theta``) or new (``rope_parameters``).

    Defaults are those of ``transformers``. Raises WeightsError for values that this package would compute differently.
    """
    # Refused rather than ignored: a bias or another activation would change every number without an error.
    for key, value in FIXED.items():
        if values.get(key, value) != value:
            raise WeightsError(f"{where}: {key} is {values[key]!r}, only {value!r} is supported: this is not an mmBERT")
    if "model_type" not in values:
        raise WeightsError(f"{where}: no model_type: not the config.json of a model")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        # ``type is``: true is an int to isinstance.
        if type(values.get(key)) is not int:
            raise WeightsError(f"{where}: {key} is missing or not a whole number")
    heads = max(1, values["num_attention_heads"])
    window = values.get("local_attention", 128)
    stated = [("head_dim", values["hidden_size"] // heads)]
    stated += [("sliding_window", window // 2)] if isinstance(window, int) else []
    for key, derived in stated:  # transformers 5 writes neither, but obeys them
        if values.get(key) not in (None, derived):
            raise WeightsError(f"{where}: {key} is {values[key]!r}, the other keys make it {derived}: not supported")
    ropes = read_rope(values, values.get("max_position_embeddings", 8192), where)
    whole, local = (ropes[kind] for kind in LAYER_TYPES)
    try:
        # ids may be null; all other keys are passed on, so that pydantic names what is wrong with them
        known = {key: value for key, value in values.items() if key not in IDS or isinstance(value, int)}
        fields = {ours: known[key] for key, ours in _OURS.items() if key in known}
        return ModelConfig(
            **fields, global_every=_global_every(values, where), rope_theta=whole.theta, rope_scaling=whole.scaling,
            local_rope_theta=local.theta, local_rope_scaling=local.scaling,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{where}: {'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}") from error


def _global_every(values: dict[str, Any], where: str) -> int:
    """Return the distance between global layers, from the list of layer types or the older single number."""
    layers, types, stated = (
        values["num_hidden_layers"],
        values.get("layer_types"),
        values.get("global_attn_every_n_layers", 3),
    )
    if not isinstance(stated, int) or stated < 1:
        raise WeightsError(f"{where}: global_attn_every_n_layers is {stated!r}, not a whole number from 1 on")
    if types is None:
        return stated
    if isinstance(types, list) and len(types) == layers:  # never build a list as long as a config claims
        second = types.index("full_attention", 1) if "full_attention" in types[1:] else layers
        for every in (stated, second):  # the stated one first: a single global layer fits several
            if types == _layer_types(layers, every):
                return int(every)
    raise WeightsError(f"{where}: layer_types is not full_attention in every n-th layer from the first on")


def _layer_types(layers: int, every: int) -> list[str]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]


def config_to_hf(
    config: ModelConfig, architecture: str = "ModernBertForMaskedLM", dtype: str = "float32"
) -> dict[str, Any]:
    """Return ``config.json`` for transformers 4 and 5.

    transformers 5 reads ``rope_parameters``, ``layer_types`` and ``dtype``; transformers 4 and servers read the rest,
    and without it they fail, or silently take 10,000 for the theta of local layers.
    ``cls_token_id`` is <bos>, the first token of a sequence (the released file says <eos>; nothing reads it).
    """
    values = {
        **FIXED,
        **{key: getattr(config, ours) for key, ours in _OURS.items()},
        "attention_dropout": 0.0, "classifier_dropout": 0.0, "classifier_pooling": "mean",
        "cls_token_id": config.bos_id, "sep_token_id": config.eos_id, "deterministic_flash_attn": False,
        "dtype": dtype, "torch_dtype": dtype, "gradient_checkpointing": False, "layer_norm_eps": config.norm_eps,
        "global_attn_every_n_layers": config.global_every, "position_embedding_type": "sans_pos",
        "layer_types": _layer_types(config.num_layers, config.global_every),
        **write_rope({kind: config.rope(local=kind == "sliding_attention") for kind in LAYER_TYPES}),
        "repad_logits_with_grad": False, "sparse_pred_ignore_index": -100, "sparse_prediction": False,
    }  # fmt: skip
    return {"architectures": [architecture], **dict(sorted(values.items()))}
