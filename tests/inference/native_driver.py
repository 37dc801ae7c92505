"""Kernels in a process of their own: built with sanitizers, or for another processor and run by an emulator."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmbert.inference.native.kernel import Kernels
from mmbert.inference.native.layer import KINDS, _Layer, _Matrix, _Rows
from mmbert.native import fused
from mmbert.native.attention import Batch, Grad
from mmbert.native.softmax import Scores
from mmbert.native.targets import SOURCES, Target

DRIVER = Path(__file__).with_name("native_driver.c")


def compile_driver(compiler: str, flags: Sequence[str], folder: Path) -> Path:
    """Return the program. The kernels are part of it."""
    made = folder / "driver"
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES[0].parent}", *flags, "-pthread"]
    result = subprocess.run([*command, str(DRIVER), "-o", str(made)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return made


class DrivenKernels(Kernels):
    """A target's functions, each call of which is a run of ``command``."""

    def __init__(self, target: Target, command: Sequence[str], folder: Path, *, sanitized: bool) -> None:
        self.target, self.command, self.folder, self.sanitized = target, command, folder, sanitized
        lanes, bf16_dot, self.columns, self.int8_zero, *largest, tiles = map(int, self._run().split())
        self.group = lanes * (2 if tiles else 1)
        self.bf16_dot, self.int8_largest, self.tiles = bool(bf16_dot), tuple(largest), bool(tiles)
        self.run_attention, self.run_layer = self._attention, self._layer

    def _run(self, *files: Path) -> str:
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # it leaves its buffers to the system
        ran = subprocess.run([*self.command, *map(str, files)], capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def _call(self, given: bytes, to: int, size: int) -> None:
        """Run the driver on ``given`` and copy what it wrote to an address."""
        given_file, written = self.folder / "given", self.folder / "written"
        given_file.write_bytes(given)
        self._run(given_file, written)
        result = written.read_bytes()
        assert len(result) == size
        ctypes.memmove(to, result, size)

    def _attention(self, reference: Any) -> None:
        b: Batch = reference._obj
        units = torch.frombuffer(bytearray(ctypes.string_at(b.units, 32 * b.count)), dtype=torch.int64).view(-1, 4)
        tokens = int(units[:, 1].max())
        numbers, angles = tokens * b.heads * b.head_dim * (2 if b.bf16 else 4), 2 * tokens * b.head_dim
        buffers = (
            _buffer(b.qkv, 3 * numbers), _buffer(None, numbers), _buffer(b.cos, angles), _buffer(b.sin, angles),
            _buffer(b.units, 32 * b.count), _buffer(None, b.threads * b.room),
        )  # fmt: skip
        last = struct.pack("7q", b.room, b.count, b.heads, b.threads, b.half, b.head_dim, b.bf16)
        self._call(struct.pack("q", 0) + b"".join(buffers) + last, b.out, numbers)

    def _layer(self, reference: Any) -> None:
        r: _Rows = reference._obj
        layer = _Layer.from_address(r.layer)
        number = 2 if self.bf16_dot and KINDS[layer.kind] != "fp32" else 4
        width, numbers = layer.qkv.rows, r.tokens * layer.qkv.rows
        size = 4 * numbers if r.attended else 3 * number * numbers
        parts = (
            *(_matrix(matrix, KINDS[layer.kind]) for matrix in (layer.qkv, layer.out, layer.wide, layer.narrow)),
            _buffer(layer.attn_norm, 4 * width) if layer.attn_norm else _NULL, _buffer(layer.mlp_norm, 4 * width),
            struct.pack("fi", layer.eps, layer.kind), _buffer(r.x, 4 * numbers),
            _buffer(r.attended, number * numbers) if r.attended else _NULL,
            _buffer(None, size), _buffer(None, r.threads * r.room),
            struct.pack("4q", r.room, r.tokens, r.block, r.threads),
        )  # fmt: skip
        self._call(struct.pack("q", 1) + b"".join(parts), r.to, size)


FUNCTIONS = (
    "norm_forward", "norm_backward", "geglu_forward", "geglu_backward", "attend", "attend_backward", "softmax_gradient",
)  # fmt: skip


class DrivenFunctions:
    """The functions that training calls, each call of which is a run of the driver."""

    def __init__(self, kernels: DrivenKernels) -> None:
        self.kernels = kernels

    def __getattr__(self, name: str) -> Callable[[Any, Any], None]:
        return partial(self._call, FUNCTIONS.index(name))

    def _call(self, function: int, reference: Any, _threads: Any = None) -> None:
        given = reference._obj
        names = [name for name, kind in given._fields_ if kind is ctypes.c_void_p]
        sizes = {name: _size(given, name) for name in names if getattr(given, name)}
        last = bytes(given)[8 * len(names) :]
        parts = [_buffer(getattr(given, name), sizes[name]) if name in sizes else _NULL for name in names]
        head, tail = struct.pack("3q", 2, function, len(names)), struct.pack("q", len(last)) + last
        files = self.kernels.folder / "given", self.kernels.folder / "written"
        files[0].write_bytes(head + b"".join(parts) + tail)
        self.kernels._run(*files)
        written = files[1].read_bytes()
        assert len(written) == sum(sizes.values())
        for name, size in sizes.items():
            ctypes.memmove(getattr(given, name), written[:size], size)
            written = written[size:]


def _size(given: Any, name: str) -> int:
    """Return the bytes of a buffer of what training calls."""
    number = 2 if given.bf16 else 4
    if isinstance(given, Batch | Grad):
        return _attention_size(given, name, number)
    if isinstance(given, fused._GeGLU):
        return int(given.rows * given.width * number * (2 if name in ("x", "x_grad") else 1))
    if isinstance(given, Scores):
        sizes = {"found": 12 * given.rows, "labels": 8 * given.rows, "scratch": given.threads * given.room}
        return int(sizes.get(name, given.rows * given.width * number if name == "scores" else 4 * given.width))
    rows = {"weight": 1, "weight_grad": -(-given.rows // given.piece)}.get(name, given.rows)
    if name == "moments":
        return int(8 * rows)
    return int(rows * given.width * (number if name in ("added", "normed", "normed_grad", "added_grad") else 4))


def _attention_size(given: Batch | Grad, name: str, number: int) -> int:
    row, last = given.heads * given.head_dim, 4 if isinstance(given, Batch) else 2
    listed = 8 * last * given.count
    borders = given.units if isinstance(given, Batch) else given.documents
    tokens = max(struct.unpack(f"{listed // 8}q", ctypes.string_at(borders, listed))[1::last])
    sizes = {
        "softmax": 8 * tokens * given.heads, "scratch": given.threads * given.room,
        **dict.fromkeys(("units", "documents"), listed),
        **dict.fromkeys(("cos", "sin"), 2 * tokens * given.head_dim),
        **dict.fromkeys(("qkv", "qkv_grad"), 3 * tokens * row * number),
    }  # fmt: skip
    return int(sizes.get(name, tokens * row * number))


_NULL = struct.pack("2q", -1, 0)


def _buffer(address: int | None, size: int) -> bytes:
    """A buffer as the driver reads it; ``None``: one that is written first."""
    return struct.pack("2q", size, address is not None) + (ctypes.string_at(address, size) if address else b"")


def _matrix(m: _Matrix, precision: str) -> bytes:
    size = m.rows * m.columns * {"int8": 1, "bf16": 2, "fp32": 4}[precision]
    columns = [_buffer(part, 4 * m.columns) if precision == "int8" else _NULL for part in (m.scale, m.first)]
    return b"".join([_buffer(m.weight, size), *columns, struct.pack("2q", m.rows, m.columns)])
