"""``mmbert doctor``: what this machine has and what would be used; and the schema of a recipe, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch


def doctor(
    schema: Annotated[
        Path | None, typer.Option(help="Write the JSON schema of recipes to this file (- for stdout), and stop.")
    ] = None,
) -> None:
    """Versions, device, attention and precision that a run would use here. Mends nothing."""
    if schema is not None:
        _write_schema(schema)
        return
    for name, value in _findings():
        typer.echo(f"{name:<14}{value}")


def _write_schema(path: Path) -> None:
    from mmbert.files import write_text
    from mmbert.recipe import Recipe
    from mmbert.recipe_file import editor_schema

    text = json.dumps(editor_schema(Recipe.model_json_schema()), indent=2, ensure_ascii=False) + "\n"
    if path == Path("-"):
        typer.echo(text, nl=False)
    else:
        write_text(path, text)


def _findings() -> list[tuple[str, str]]:
    """What is here, in the order printed."""
    import platform

    import torch

    from mmbert.training.folder import versions

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    found = list(versions().items())
    found.append(("platform", platform.platform()))
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        name = f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB"
        found.append(("device", f"cuda: {torch.cuda.device_count()} x {name}"))
    else:
        found.append(("device", f"cpu: {torch.get_num_threads()} threads (no CUDA device, or a torch without CUDA)"))
    found += [("precision", _precision(device)), ("attention", _attention(device)), ("extras", _extras())]
    return found


def _precision(device: torch.device) -> str:
    """What ``precision: auto`` chooses, and why."""
    from mmbert.model.config import PRESETS
    from mmbert.training.folder import choose_precision

    chosen = {choose_precision(device, int(preset["hidden_size"])) for preset in PRESETS.values()}
    if device.type == "cuda":
        return "bf16: matrix products run on the tensor cores in it; weights stay fp32"
    if "bf16" in chosen:
        return "bf16: this processor multiplies it in hardware (narrow models: fp32); weights stay fp32"
    return "fp32: this processor has no bf16 instructions (AVX-512 BF16 or AMX)"


def _attention(device: torch.device) -> str:
    """Which of the two implementations runs."""
    if device.type != "cuda":
        return "torch's scaled_dot_product_attention: documents of one length per call, local layers in blocks"
    try:
        from torch.nn.attention import varlen  # noqa: F401  (absent from some builds)
    except ImportError:
        return "this torch has no varlen_attn: set runtime.precision=fp32, or install torch 2.11 or newer"
    return "varlen_attn (flash attention with a window) in bf16; blocks in fp32"


def _extras() -> str:
    """Which optional dependencies are installed."""
    from importlib.util import find_spec

    packages = {
        "data": ("pyarrow",),
        "catalogs": ("django", "babel", "pycountry"),
        "train": ("tensorboard",),
        "report": ("jinja2", "altair", "vl_convert"),
    }
    has = {name: all(find_spec(package) for package in needed) for name, needed in packages.items()}
    missing = [name for name, there in has.items() if not there]
    installed = ", ".join(name for name, there in has.items() if there) or "none"
    return installed + (f"; missing: pip install 'mmbert[{','.join(missing)}]'" if missing else "")
