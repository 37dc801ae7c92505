"""One base model with many LoRA adapters, each of which is a model of its own to its users.

The classifiers, taggers and embedders of :func:`load_adapters` share one encoder
(:mod:`mmbert.inference.adapted_layers`), so that ten of them need the memory of one; ``mmbert serve --adapter`` also
computes their texts in common batches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mmbert.errors import ConfigError
from mmbert.inference.load import Loaded, activation, load, max_tokens, options_with, with_head
from mmbert.inference.pick_device import pick_device
from mmbert.inference.precision import DTYPES, choose, without_kernels
from mmbert.inference.sentence_transformers_folder import read_options
from mmbert.model.adapter import Adapter, read_adapter
from mmbert.model.weights import load_state, model_folder, take_encoder


def load_adapters(
    base: str | Path, adapters: Mapping[str, str | Path], *, device: str = "auto", precision: str = "auto"
) -> tuple[Loaded, dict[str, Loaded]]:
    """Return the base and, by name, its adapters, which share the base's encoder.

    base       folder or hub name of a model
    adapters   folders or hub names of adapters of peft for that base, by the names that they get
    precision  auto, fp32 or bf16
    Raises WeightsError for an adapter of another base, or one that changes what the others share, and ConfigError for
    a device or precision for which there are no such layers.
    """
    where = pick_device(device)
    if where.type != "cpu":
        raise ConfigError(f"adapters that share an encoder are for CPUs: on {where} load each merged, as a model")
    used = choose(where)[0] if precision == "auto" else precision
    if used not in DTYPES:
        raise ConfigError(f"adapters share an encoder in fp32 or bf16, not in {used}: load each merged for that")
    used = without_kernels(used, asked=precision)  # torch multiplies: bf16 without instructions for it is slow
    own = {name: read_adapter(model_folder(place)) for name, place in adapters.items()}
    loaded = load(base, device="cpu", precision=used, adapters=list(own.values()))
    return loaded, {name: _with(loaded, adapter, number) for number, (name, adapter) in enumerate(own.items())}


def _with(base: Loaded, adapter: Adapter, number: int) -> Loaded:
    """Return the model of one adapter: the shared encoder, bound to it, and a head of its own."""
    encoder = copy.copy(base.encoder)  # shares all modules
    encoder.adapter = number
    state = load_state(base.place)
    take_encoder(state)
    in_head = {name: change for name, change in adapter.low_rank.items() if not name.startswith("layers.")}
    replace(adapter, low_rank=in_head).merge(state)
    values, options = adapter.config(base.values), options_with(adapter, read_options(base.folder))
    stated = vars(options) | {
        "after": tuple(module.eval().requires_grad_(False) for module in options.after),
        "activation": activation(values, options),
        "max_tokens": max_tokens(base.config, options, adapter.folder),
    }
    return with_head(replace(base, folder=adapter.folder, encoder=encoder, **stated), values, state)
