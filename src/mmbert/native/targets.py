"""Instruction sets that the kernels are written for, and which of them this processor has.

``MMBERT_NATIVE`` forces one by name, so that a processor can run the kernels of a lesser one, or ``0`` none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.errors import ConfigError
from mmbert.files import environment

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
"""Of all targets; each compiles what its instructions allow."""


@dataclass(frozen=True)
class Target:
    """An instruction set.

    name      as in ``MMBERT_NATIVE``
    needs     names of ``torch.cpu.get_capabilities`` that it cannot do without
    flags     of the compiler
    more      names of further capabilities, and flags that are added where it has them (of -march, the last one counts)
    measured  whether its speed is known
    """

    name: str
    needs: tuple[str, ...]
    flags: tuple[str, ...]
    more: tuple[tuple[str, str], ...]
    measured: bool = True

    def missing(self) -> str | None:
        """Return the name of what this processor lacks for it, or None."""
        able = torch.cpu.get_capabilities()
        return next((name for name in reversed(self.needs) if not able.get(name)), None)

    def extensions(self) -> tuple[str, ...]:
        """Return the names of the further instructions that are used here."""
        able = torch.cpu.get_capabilities()
        return tuple(name for name, _ in self.more if able.get(name))

    def all_flags(self) -> tuple[str, ...]:
        """Return the compiler's flags here; not ``-march=native``, since machines share home folders."""
        return ("-std=gnu11", "-O3", *self.flags, *(dict(self.more)[name] for name in self.extensions()))


_AVX512 = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")

TARGETS = (
    Target(
        "neon",
        ("neon",),
        ("-march=armv8-a",),
        # processors with bf16 have the dot products of int8 too
        (("dot", "-march=armv8.2-a+dotprod"), ("bf16", "-march=armv8.2-a+dotprod+bf16")),
        measured=False,
    ),
    Target(
        "amx",
        (*_AVX512, "avx512_bf16", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"),
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
        (),
    ),
    Target(
        "avx512",
        _AVX512,
        ("-march=x86-64-v4",),
        (("avx512_bf16", "-mavx512bf16"), ("avx512_vnni", "-mavx512vnni")),
    ),
    Target("avx2", ("avx2", "fma3"), ("-march=x86-64-v3",), (("avx_vnni", "-mavxvnni"),)),
)
"""Of each kind of processor, the better first."""


def choose() -> Target | str:
    """Return the target of the kernels here, or why there is none. Raises ConfigError for an unknown one."""
    asked = environment("MMBERT_NATIVE")
    if asked == "0":
        return "the native kernels are switched off"
    names = [target.name for target in TARGETS]
    if asked and asked not in names:
        raise ConfigError(f"MMBERT_NATIVE is {asked!r}: it is one of {', '.join(names)}, or 0 for no native kernels")
    lacking = {target.name: target.missing() for target in TARGETS if asked in (None, "", target.name)}
    fitting = [target for target in TARGETS if target.name in lacking and not lacking[target.name]]
    return fitting[0] if fitting else f"the processor has no {[*lacking.values()][-1]}"
