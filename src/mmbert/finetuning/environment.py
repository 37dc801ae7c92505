"""What a fine-tuning run depends on beside its recipe: versions and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from mmbert.version import __version__

_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "sentence-transformers", "peft", "tokenizers", "numpy")


def describe() -> dict[str, Any]:
    """Versions, device and threads, as JSON."""
    versions = {"mmbert": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
