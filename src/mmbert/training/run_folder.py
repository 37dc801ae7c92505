"""The folder of a run: what is run (``recipe.yaml``) and on what (``environment.json``), written before the first step.

A run resumes only with the recipe it began with, except ``runtime``, which changes no sample.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmbert import cpu
from mmbert.device import native_half
from mmbert.files import read_json, write_json
from mmbert.recipe import Precision, Recipe, Runtime
from mmbert.recipe_file import refuse_changes
from mmbert.training.distributed import Mesh
from mmbert.version import __version__

log = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
_LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors")
_BF16_WIDTH = 64
"""Narrower products gain nothing from bf16 (AVX-512: 32 wide 1.2x, 64 wide 1.8x, 128 wide 2.3x)."""


def open_run(recipe: Recipe, folder: Path) -> None:
    """Write ``folder/recipe.yaml``, or compare it with the recipe.

    What the trained weights do not depend on (``runtime``, ``merge``, ``evaluation``) may change, and is written anew.
    Raises TrainingError naming the other keys that have changed since the run began.
    """
    path = folder / RECIPE
    if not path.is_file():
        recipe.save(path)
        return
    begun = Recipe.load(path)
    # Compared key by key, not by hash, so that the error names what changed.
    refuse_changes(folder, _fixed(begun), _fixed(recipe))
    if begun != recipe:
        recipe.save(path)


def recipe_hash(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits of all that must not change during a run."""
    # Sorted keys: the order of a YAML file means nothing.
    text = json.dumps(_fixed(recipe), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions(libraries: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Return the versions of mmbert, Python and libraries; ``none`` for one that is not installed."""
    # From the packages' metadata: importing a library only to ask for its version would take seconds.
    installed = {"mmbert": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "none"
    return {**installed, "torch": torch.__version__}  # with the build, such as 2.13.0+cu130, which some metadata lack


def describe(device: torch.device, libraries: Sequence[str] = _LIBRARIES) -> dict[str, Any]:
    """Return versions, platform, device, cores and threads, as JSON."""
    return {
        "versions": versions(libraries),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def settle_environment(runtime: Runtime, width: int, mesh: Mesh, folder: Path) -> Precision:
    """Write ``folder/environment.json`` and return the precision of this run, ``fp32``, ``bf16`` or ``fp16``.

    With ``precision: auto`` a run keeps the one it began with, so that resuming gives the same numbers. Entries that
    are there already stay.
    """
    path = folder / ENVIRONMENT
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    before = known.get("precision")
    precision = runtime.precision if runtime.precision != "auto" else before or choose_precision(mesh.device, width)
    if before not in (None, precision):
        log.warning("%s began in %s and goes on in %s, as runtime.precision says", folder, before, precision)
    if "versions" in known and known["versions"] != versions():
        log.warning(
            "%s began with other versions (%s): results may differ in the last digits", folder, known["versions"]
        )
    if mesh.main:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        here = {**describe(mesh.device), "processes": mesh.world, "commit": _commit(), "commands": [command]}
        write_json(path, {**here, **known, "precision": precision})
    return precision


def choose_precision(device: torch.device, width: int) -> Precision:
    """Return bf16 where products of this width are faster in it: on GPUs and CPUs with such instructions.

    On GPUs with tensor cores but no bf16 it is fp16.

    A rule, not a stop watch: the same machine always gives the same answer. ``width`` is the hidden size.
    """
    if device.type != "cpu":
        return native_half(device) or "fp32"
    return "bf16" if width >= _BF16_WIDTH and cpu.bf16_instructions() else "fp32"


def _cpu_name() -> str:
    """Return the processor's own name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree, ``-dirty`` if it was changed; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        # A time limit, since git may hang on a network disk that does not answer.
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _fixed(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"runtime", "merge", "evaluation"})
