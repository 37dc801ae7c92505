"""Machines to estimate for: the figures that their makers publish, and the part of them that programs reach.

Figures of GPUs are those of the data sheets: dense products (the sheets' "with sparsity" halved), decimal units, links
in one direction (the sheets add both up). No program reaches a data sheet's peak; :class:`Utilisation` says which part
of it to count on. No GPU was measured for these parts, and every estimate prints them; set them from one measured run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Literal

from mmbert.errors import ConfigError

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Utilisation:
    """The part of each published figure that programs reach, each in (0, 1]."""

    matrices: float = 0.8
    """Of the peak, in matrix products. An assumption: large bf16 products on GPUs come to 70 to 80 %."""
    attention: float = 0.35
    """Of the peak, in attention. FlashAttention-2 on an H100: 35 % (arXiv 2407.08608, abstract); on an A100 50 to
    73 % (arXiv 2307.08691, abstract)."""
    memory: float = 0.8
    """Of the memory's bandwidth, in element-wise passes. An assumption."""
    links: float = 0.8
    """Of the bandwidth between devices, and between device and host. An assumption."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 < getattr(self, each.name) <= 1:
                raise ConfigError(f"--utilisation: {each.name} is {getattr(self, each.name):g}, and must be in (0, 1]")

    def changed(self, changes: Sequence[str]) -> Utilisation:
        """Return a copy with changes such as ``matrices=0.6``. Raises ConfigError for a part that does not exist."""
        names = [each.name for each in fields(self)]
        values: dict[str, float] = {}
        for name, _, value in (change.partition("=") for change in changes):
            if name not in names:
                near = get_close_matches(name, names, 1)
                raise ConfigError(f"--utilisation: no part {name}: did you mean {' or '.join(near or names)}?")
            try:
                values[name] = float(value)
            except ValueError as error:
                raise ConfigError(f"--utilisation: {name}={value} is not NAME=NUMBER, such as matrices=0.6") from error
        return replace(self, **values)


@dataclass(frozen=True)
class Device:
    """One GPU, or one core of a CPU."""

    title: str
    kind: Literal["cuda", "cpu"]
    bf16: float
    """FLOP/s of dense bf16 products, summed in fp32."""
    fp32: float
    """FLOP/s in fp32 (on GPUs outside the tensor cores, which is torch's default)."""
    memory: float | None
    """Bytes; None: the machine's, not the device's."""
    bandwidth: float
    """Bytes/s of its memory."""
    link: float | None
    """Bytes/s, one way, to the other devices of the node."""
    network: float | None
    """Bytes/s, one way, of each device's share of the node's network adapters; None: the maker sells no such node."""
    host: float | None
    """Bytes/s, one way, to the host's memory; None: it is the host's memory."""
    utilisation: Utilisation = Utilisation()
    tile: int = 128
    """Queries that attention takes together: all of them see all keys that one of them sees."""


DEVICES = {
    # NVIDIA A100 80GB SXM data sheet (312 TFLOPS bf16, 19.5 fp32, 2,039 GB/s, NVLink 600 GB/s, PCIe Gen4 64 GB/s);
    # DGX A100 data sheet: 8 x 200 Gb/s HDR InfiniBand
    "a100": Device("A100 80GB SXM", "cuda", 312 * TERA, 19.5 * TERA, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, 32 * GB,
                   Utilisation(attention=0.5)),
    # NVIDIA H100 data sheet, SXM (1,979 TFLOPS bf16 with sparsity, 67 fp32, 3.35 TB/s, NVLink 900 GB/s, PCIe Gen5
    # 128 GB/s); DGX H100 data sheet: 8 x 400 Gb/s ConnectX-7
    "h100": Device("H100 SXM", "cuda", 989.5 * TERA, 67 * TERA, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 64 * GB),
    # NVIDIA H200 data sheet, SXM (as the H100 but for 141 GB at 4.8 TB/s); DGX H200 data sheet: 8 x 400 Gb/s
    "h200": Device("H200 SXM", "cuda", 989.5 * TERA, 67 * TERA, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 64 * GB),
    # NVIDIA DGX B200 and HGX B200 data sheets, of 8 GPUs (36 PFLOPS bf16 with sparsity, 600 TFLOPS fp32, 1,440 GB at
    # 64 TB/s, NVLink 1.8 TB/s a GPU, 8 x 400 Gb/s ConnectX-7, PCIe Gen5)
    "b200": Device("B200", "cuda", 2250 * TERA, 75 * TERA, 180 * GB, 8000 * GB, 900 * GB, 50 * GB, 64 * GB),
    # NVIDIA L4 data sheet (242 TFLOPS bf16 with sparsity, 30.3 fp32, 24 GB at 300 GB/s, PCIe Gen4 64 GB/s, no NVLink)
    "l4": Device("L4", "cuda", 121 * TERA, 30.3 * TERA, 24 * GB, 300 * GB, 32 * GB, None, 32 * GB),
    # NVIDIA Ada architecture white paper, table of the RTX 4090 (165.2 TFLOPS bf16 with fp32 sums, 82.6 fp32, 24 GB at
    # 1,008 GB/s; PCIe Gen4, no NVLink)
    "rtx4090": Device("RTX 4090", "cuda", 165.2 * TERA, 82.6 * TERA, 24 * GB, 1008 * GB, 32 * GB, None, 32 * GB),
    # Measured, not published: one core of an AMD EPYC (Zen 4, AVX-512 bf16), large products with oneDNN (bf16) and MKL
    # (fp32), a copy in memory (read and written bytes), torch's attention in fp32 over 256 tokens: 61 GFLOP/s
    "cpu": Device("one core, EPYC Zen 4", "cpu", 218e9, 101e9, None, 19 * GB, None, None, None,
                  Utilisation(matrices=1.0, attention=0.6, memory=1.0, links=1.0), tile=64),
}  # fmt: skip
"""Devices by name."""


@dataclass(frozen=True)
class Machine:
    """Equal devices in equal nodes. The default is the published runs': 8 x H100 in one node."""

    device: Device = DEVICES["h100"]
    devices: int = 8
    """In each node."""
    nodes: int = 1
    utilisation: Utilisation | None = None
    """None: the device's."""
    network: float | None = None
    """Bytes/s, one way, that each device has to other nodes; None: the device's."""

    def __post_init__(self) -> None:
        title = self.device.title
        if self.devices < 1 or self.nodes < 1:
            raise ConfigError("--devices and --nodes must be at least 1")
        if self.nodes > 1 and (self.network or self.device.network) is None:
            raise ConfigError(f"--nodes: no node of {title} has a published network: give --network")
        if self.devices > 1 and (self.network or self.device.link) is None:
            raise ConfigError(f"--devices: no link of {title} is known: give --network, or --devices 1")

    @classmethod
    def named(
        cls, device: str, devices: int, nodes: int = 1, *, utilisation: Sequence[str] = (), network: float | None = None
    ) -> Machine:
        """Return devices by name, with changes of their utilisation. Raises ConfigError for an unknown name."""
        if device not in DEVICES:
            raise ConfigError(f"--device: no device {device}: choose one of {', '.join(DEVICES)}")
        hardware = DEVICES[device]
        return cls(hardware, devices, nodes, hardware.utilisation.changed(utilisation), network)

    @property
    def world(self) -> int:
        """Number of devices in all."""
        return self.devices * self.nodes

    @property
    def parts(self) -> Utilisation:
        """What is reached of the published figures."""
        return self.utilisation or self.device.utilisation

    def peak(self, precision: str) -> float:
        """Return the FLOP/s of one device in products of ``precision``."""
        return self.device.bf16 if precision == "bf16" else self.device.fp32

    @property
    def bus(self) -> float:
        """Bytes/s that a device can pass on in an all-reduce over all devices, as published.

        Between nodes as many rings run as there are adapters, and each carries a part: what leaves a node at a time is
        limited by all its adapters together, what leaves a device by its link.
        """
        inside = float("inf") if self.devices == 1 else self.device.link or self.network or 0.0
        across = float("inf") if self.nodes == 1 else self.devices * (self.network or self.device.network or 0.0)
        return min(inside, across)
