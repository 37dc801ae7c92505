"""What it takes to embed many texts: time, money and disk, by arithmetic alone (``mmbert estimate``).

Devices do not depend on each other: N of them are N times as fast. One does, for a token, one after another,

    matrices     products of the layers, forward            FLOPs / (peak x utilisation.matrices)
    attention    as in :mod:`mmbert.estimate.speed`
    elementwise  norms, RoPE, GeGLU, residual, casts        bytes / (bandwidth x utilisation.memory)

while the host starts the operations (``launches``) and tokenises. A rate that was measured replaces all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mmbert.errors import ConfigError, WeightsError
from mmbert.estimate.hardware import Machine
from mmbert.estimate.speed import LAUNCH, attention_seconds
from mmbert.estimate.traffic import LAYER_LAUNCHES, Traffic
from mmbert.hub import HubFailed, hub_file
from mmbert.model.config import PRESETS, ModelConfig, config_from_hf
from mmbert.model.count import flops_per_token
from mmbert.model.folder import read_config, read_object

TOKENIZED = 400e3
"""Tokens per second that one core tokenises: Gemma 2's tokenizer, texts of 198 tokens in 507 languages, an AMD EPYC
(``python benchmarks/tokenizing.py``)."""
BATCH = {"cuda": 32_768, "cpu": 2048}
"""Tokens of a batch, as in ``mmbert.inference.batching.token_budget``."""
ROW = 10
"""Bytes of a row of an index beside its codes (``mmbert.search.residuals.row_type``)."""


@dataclass(frozen=True)
class TokenTime:
    """Seconds of one device for one token."""

    matrices: float
    attention: float
    elementwise: float
    launches: float
    """On the host, while the device works."""

    @property
    def parts(self) -> dict[str, float]:
        """What the device does, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:-1]}

    @property
    def seconds(self) -> float:
        """Of the slower of both."""
        return max(sum(self.parts.values()), self.launches)


@dataclass(frozen=True)
class EmbeddingEstimate:
    """So many texts of ``length`` tokens, embedded by equal devices.

    machine     one device
    rate        tokens per second of one device, measured; None: computed
    price       dollars of a device for an hour; None: not known
    dimensions  of a vector; None: all of the model
    Raises ConfigError for what cannot be.
    """

    config: ModelConfig
    machine: Machine
    devices: int
    texts: float
    length: float
    rate: float | None = None
    price: float | None = None
    dimensions: int | None = None

    def __post_init__(self) -> None:
        for name in ("devices", "texts", "length", "rate", "price", "dimensions"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name} is {value:g}: give a number above 0")
        if self.length > self.config.max_context:
            longest = self.config.max_context
            raise ConfigError(f"--length is {self.length:g}: the model reads {longest:,} tokens of a text at most")
        if self.width > self.config.hidden_size:
            raise ConfigError(f"--dimensions is {self.width}: the model's vectors have {self.config.hidden_size}")

    @property
    def tokens(self) -> float:
        return self.texts * self.length

    @property
    def times(self) -> TokenTime:
        """Computed from the published figures of the device."""
        device, parts = self.machine.device, self.machine.parts
        config = self.config.model_copy(update={"attention_out_dropout": 0.0})  # training alone drops
        traffic = Traffic(config, "bf16", device.kind)
        # a pass is one batch: the gathered rows of the embedding and its norm are among the ends
        moved = config.num_layers * traffic.layer()[0] + traffic.ends()[0]
        return TokenTime(
            matrices=flops_per_token(config, self.length).matrices / (device.bf16 * parts.matrices),
            attention=attention_seconds(config, self.length, self.machine, traffic),
            elementwise=float(moved) / (device.bandwidth * parts.memory),
            launches=LAUNCH * LAYER_LAUNCHES[0] * config.num_layers / BATCH[device.kind],
        )

    @property
    def tokens_per_second(self) -> float:
        """Of one device. On a CPU the cores that compute also tokenise."""
        if self.rate is not None:
            return self.rate
        return 1 / (self.times.seconds + (1 / TOKENIZED if self.machine.device.kind == "cpu" else 0.0))

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second / self.devices

    @property
    def dollars(self) -> float:
        """Raises ConfigError without a price."""
        if self.price is None:
            raise ConfigError("no price: give --price, dollars of a device for an hour")
        return self.seconds / 3600 * self.devices * self.price

    @property
    def tokenizing_cores(self) -> float:
        """Cores of the hosts that tokenise as fast as all devices embed."""
        return self.tokens_per_second * self.devices / TOKENIZED

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self.dimensions or self.config.hidden_size

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of one vector by form. Rows are those of a search index, whose centroids are left out."""
        bits, row = -(-self.width // 8), self.width + ROW
        return {
            "float32": 4 * self.width,
            "float16": 2 * self.width,
            "float16 rows": 2 * self.width + ROW,
            "int8 rows": row,
            "binary": bits,
            "binary, and int8 rows for re-ranking": bits + row,
        }


def shape_of(model: str) -> ModelConfig:
    """Return the shape of a model folder, of one on the hub (only ``config.json`` is read), or a published one.

    Raises WeightsError if there is none.
    """
    folder = Path(model)
    if folder.is_dir():
        return config_from_hf(read_config(folder), str(folder / "config.json"))
    if model in PRESETS:
        return ModelConfig.preset(model)
    if len(folder.parts) != 2:
        names = ", ".join(PRESETS)
        raise WeightsError(f"no model {model}: give a folder, a hub name such as jhu-clsp/mmBERT-base, or {names}")
    try:
        path = hub_file(model, "config.json")
    except HubFailed as error:
        raise WeightsError(f"no folder {model} here, and the hub did not give its config.json: {error}") from error
    return config_from_hf(read_object(path), model)
