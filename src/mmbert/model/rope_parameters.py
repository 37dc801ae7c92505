"""RoPE's part of ``config.json``: the base of each kind of layer, and its scaling to longer texts. Imports no torch.

transformers 5 reads ``rope_parameters``, a table for each kind of layer. transformers 4 reads ``global_rope_theta`` and
``local_rope_theta``, and from ``rope_scaling`` one scaling for all layers; version 5 copies that one into both tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from mmbert.errors import WeightsError
from mmbert.rope_scaling import RopeScaling, RopeType

LAYER_TYPES = {
    "full_attention": ("global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_theta", 10_000.0),
}
"""Kind of layer -> the older key of its RoPE base, and the default of the base in transformers 4 and 5."""


class Rope(NamedTuple):
    """RoPE of one kind of layers."""

    theta: float
    scaling: RopeScaling | None = None


def read_rope(values: dict[str, Any], max_context: int, where: str) -> dict[str, Rope]:
    """Return base and scaling by kind of layer, from both forms of ``config.json``.

    Raises WeightsError for what this package does not compute, and for tables that readers take differently.
    """
    parameters, flat = _tables(values, where)
    shared = flat.get("rope_scaling", {})
    scaling_for_all = _scaling(shared, max_context, f"{where}: rope_scaling")
    ropes = {}
    for kind, (older, default) in LAYER_TYPES.items():
        own = parameters.get(kind, {})
        # New form, then old keys, then transformers' defaults, which are not those of ModelConfig.
        theta = own.get("rope_theta", values.get(older, default))
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 0:
            raise WeightsError(f"{where}: {older} is {theta!r}, not a number above 0")
        # Some versions read a table for all layers and others ignore it, so it may only repeat what the others say.
        for name, table in flat.items():
            if table.get("rope_theta", theta) != theta:
                raise WeightsError(
                    f"{where}: {name} says rope_theta {table['rope_theta']} for all layers, {older} is {theta:g}: "
                    f"write the base of each kind of layer into rope_parameters"
                )
        scaling = _scaling(own, max_context, f"{where}: rope_parameters: {kind}")
        if scaling and scaling_for_all and scaling != scaling_for_all:
            raise WeightsError(
                f"{where}: rope_scaling and rope_parameters: {kind} scale RoPE differently: leave one of them out"
            )
        ropes[kind] = Rope(float(theta), scaling or scaling_for_all)
    return ropes


def write_rope(ropes: dict[str, Rope]) -> dict[str, Any]:
    """Return the keys of ``config.json`` for transformers 4 and 5; ``ropes`` by kind of layer.

    A scaling that the two kinds do not share can be said to version 5 only: version 4 has one for all layers.
    """
    values: dict[str, Any] = {older: ropes[kind].theta for kind, (older, _) in LAYER_TYPES.items()}
    tables = {kind: rope.scaling.to_hf() if rope.scaling else {"rope_type": "default"} for kind, rope in ropes.items()}
    values["rope_parameters"] = {kind: {**tables[kind], "rope_theta": rope.theta} for kind, rope in ropes.items()}
    first, second = tables.values()
    if first == second and first["rope_type"] != "default":
        values["rope_scaling"] = first
    return values


def _tables(values: dict[str, Any], where: str) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return RoPE's tables by kind of layer, and by name those for all layers.

    Raises WeightsError for a scaling where no version of transformers reads it.
    """
    parameters: dict[str, dict[str, Any]] = {}
    flat: dict[str, dict[str, Any]] = {}
    for name in ("rope_parameters", "rope_scaling"):
        table = values.get(name) or {}
        if not isinstance(table, dict) or not all(isinstance(table.get(kind) or {}, dict) for kind in LAYER_TYPES):
            raise WeightsError(f"{where}: {name} is not a table of kinds of layers")
        inner = {kind: table[kind] for kind in LAYER_TYPES if table.get(kind)}
        outer = {key: value for key, value in table.items() if key not in LAYER_TYPES}
        if outer:
            flat[name] = outer
        if name == "rope_parameters":
            parameters = inner
            ignored, cure = [outer], "write it for each kind of layer, or as rope_scaling"
        else:
            flat |= {f"{name}.{kind}": rope for kind, rope in inner.items()}
            ignored, cure = list(inner.values()), "write rope_scaling for all layers, or rope_parameters for each kind"
        for rope in ignored:
            if _scaling(rope, 1, f"{where}: {name}"):
                raise WeightsError(f"{where}: {name}: transformers does not read this scaled RoPE here: {cure}")
    return parameters, flat


_OTHER_KEYS = {"rope_theta", "rope_type", "type", "partial_rotary_factor", "truncate", "finetuned"}


def _scaling(rope: dict[str, Any], max_context: int, where: str) -> RopeScaling | None:
    """Return the scaling of a table, None for one that changes nothing; transformers 4 writes ``type`` as well."""
    stated = {str(rope[key]) for key in ("rope_type", "type") if rope.get(key) is not None}
    types = stated - {"default"}
    fields = {key: value for key, value in rope.items() if key in RopeScaling.model_fields and value is not None}
    changed = [key for key in ("factor", "attention_factor") if fields.get(key, 1) != 1]
    told = ", ".join(f"{key} {rope[key]}" for key in ("rope_type", "type", "factor") if key in rope) or str(rope)
    if rope.get("partial_rotary_factor") not in (None, 1) or len(stated) > 1 or types - set(get_args(RopeType)):
        raise WeightsError(f"{where}: scaled RoPE ({told}) is not supported: vectors would differ")
    if not types:
        if changed:
            raise WeightsError(f"{where}: scaled RoPE ({told}) without a rope_type of {', '.join(get_args(RopeType))}")
        return None
    # At most one is left: two that differ were refused above.
    fields["rope_type"] = types.pop()
    if rope.get("truncate", True) is not True:
        raise WeightsError(f"{where}: truncate: transformers 4 and 5 read it differently, only true is supported")
    unknown = sorted(set(rope) - set(RopeScaling.model_fields) - _OTHER_KEYS)
    if unknown:
        raise WeightsError(f"{where}: scaled RoPE ({told}) with unknown keys: {', '.join(unknown)}")
    original = fields.setdefault("original_max_position_embeddings", max_context)
    if "factor" in rope and rope["factor"] is None and isinstance(original, int) and original > 0:
        fields["factor"] = max_context / original  # a null factor is this ratio, in transformers too
    if fields["rope_type"] in ("linear", "dynamic"):  # not read by linear; dynamic takes max_position_embeddings
        fields["original_max_position_embeddings"] = max_context
    if fields.get("factor") == 1 and not changed:
        return None  # equal to the default up to the longest text
    try:
        return RopeScaling(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "table"
        raise WeightsError(f"{where}: scaled RoPE ({told}): {field}: {first['msg']}") from error
