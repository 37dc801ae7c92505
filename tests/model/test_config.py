"""config.json in both dialects, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmbert.errors import WeightsError
from mmbert.model.config import ModelConfig, config_from_hf, config_to_hf
from mmbert.model.rope_parameters import LAYER_TYPES

RELEASED = json.loads("""
{"_name_or_path":"mmBERT-base","architectures":["ModernBertForMaskedLM"],"attention_bias":false,
"attention_dropout":0.0,"bos_token_id":2,"classifier_activation":"gelu","classifier_bias":false,
"classifier_dropout":0.0,"classifier_pooling":"mean","cls_token_id":1,"decoder_bias":true,
"deterministic_flash_attn":false,"embedding_dropout":0.0,"eos_token_id":1,"global_attn_every_n_layers":3,
"global_rope_theta":160000,"gradient_checkpointing":false,"hidden_activation":"gelu","hidden_size":384,
"initializer_cutoff_factor":2.0,"initializer_range":0.02,"intermediate_size":1152,"layer_norm_eps":1e-05,
"local_attention":128,"local_rope_theta":160000,"max_position_embeddings":8192,"mlp_bias":false,
"mlp_dropout":0.0,"model_type":"modernbert","norm_bias":false,"norm_eps":1e-05,"num_attention_heads":6,
"num_hidden_layers":22,"pad_token_id":0,"position_embedding_type":"sans_pos","sep_token_id":1,
"tie_word_embeddings":true,"torch_dtype":"float32","transformers_version":"4.47.0.dev0","vocab_size":256000}
""")
"""As released for mmBERT-small, in the old form."""


def test_released_config_is_the_preset() -> None:
    assert config_from_hf(RELEASED) == ModelConfig.preset("small", attention_out_dropout=0.0)


def test_thetas_come_from_either_form_and_default_as_in_transformers() -> None:
    old = {**RELEASED, "global_rope_theta": 1000, "local_rope_theta": 2000}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 3000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 4000.0},
        }
    }
    bare = {key: value for key, value in RELEASED.items() if "theta" not in key}
    found = [config_from_hf(values) for values in (old, {**bare, **new}, {**old, **new}, bare)]
    assert [(c.rope_theta, c.local_rope_theta) for c in found] == [
        (1000, 2000),
        (3000, 4000),
        (3000, 4000),
        (160_000, 10_000),
    ]


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("layers", [1, 2, 7])
def test_round_trip_in_each_dialect(every: int, layers: int) -> None:
    config = ModelConfig.preset(
        "nano", num_layers=layers, global_every=every, rope_theta=5.0, window=64, embed_dropout=0.1, mlp_dropout=0.2,
        attention_out_dropout=0.3, norm_eps=1e-6, pad_id=9, eos_id=8, bos_id=7, unk_id=6, mask_id=5,
        initializer_range=0.03, initializer_cutoff=3.0,
    )  # fmt: skip
    written = json.loads(json.dumps(config_to_hf(config)))
    assert config_from_hf(written) == config
    old_only = {k: v for k, v in written.items() if k not in ("rope_parameters", "layer_types", "dtype")}
    assert config_from_hf(old_only) == config
    read = config_from_hf({k: v for k, v in written.items() if "theta" not in k and k != "global_attn_every_n_layers"})
    assert [read.is_global(i) for i in range(layers)] == [config.is_global(i) for i in range(layers)]
    assert (read.rope_theta, read.local_rope_theta) == (5.0, 10_000.0)


def test_written_config_holds_the_keys_of_both_dialects() -> None:
    written = config_to_hf(ModelConfig.preset("base"))
    assert RELEASED.keys() - written.keys() == {"_name_or_path", "transformers_version"}
    assert {"rope_parameters", "layer_types", "dtype", "mask_token_id"} <= written.keys()
    assert written["architectures"] == ["ModernBertForMaskedLM"]
    assert written["layer_types"].count("full_attention") == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"norm_bias": True}, "norm_bias"),
        ({"classifier_bias": True}, "classifier_bias"),
        ({"decoder_bias": False}, "decoder_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"classifier_activation": "relu"}, "classifier_activation"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"num_attention_heads": 7}, "7 heads"),
        ({"norm_eps": "small"}, "norm_eps"),
        ({"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 20}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "yarn"),
        ({"rope_scaling": {"type": "linear"}}, "linear"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError) as error:
        config_from_hf({**RELEASED, **change}, "some/config.json")
    assert named in str(error.value)
    assert str(error.value).startswith("some/config.json: ")
    assert "\n" not in str(error.value)


def test_a_config_without_its_shape_is_refused() -> None:
    for key in ("model_type", "hidden_size", "vocab_size", "num_hidden_layers"):
        with pytest.raises(WeightsError, match=key):
            config_from_hf({k: v for k, v in RELEASED.items() if k != key})
    with pytest.raises(WeightsError, match="no preset giant: choose one of base, small, nano"):
        ModelConfig.preset("giant")


SCALED = {"rope_theta": 160_000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("scaling", ["longrope", "proportional", "axial"])
def test_unknown_scalings_are_refused_wherever_they_are_written(key: str, scaling: str) -> None:
    rope = {key: scaling, **SCALED}
    for change in (
        {"rope_scaling": rope},
        {"rope_parameters": rope},
        {"rope_parameters": {"full_attention": rope}},
        {"rope_parameters": {"sliding_attention": {**rope, "rope_theta": 10_000.0}}},
        {"rope_parameters": {kind: {"rope_type": "default"} for kind in LAYER_TYPES}, "rope_scaling": rope},
        {"rope_scaling": {"full_attention": rope}},
    ):
        with pytest.raises(WeightsError, match=f"some/config.json: rope_.*scaled RoPE .*{scaling}"):
            config_from_hf({**RELEASED, **change}, "some/config.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_parameters": {**SCALED, **YARN}}, "does not read this scaled RoPE here: write it for each kind"),
        ({"rope_scaling": {"full_attention": YARN}}, "does not read this scaled RoPE here: write rope_scaling for all"),
        ({"rope_parameters": {"full_attention": {"type": "yarn", **YARN, "rope_type": "default"}}}, "not supported"),
        ({"rope_parameters": {"full_attention": SCALED}}, "without a rope_type of linear, dynamic, yarn, llama3"),
        ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 9}}, "factor: Field required"),
        ({"rope_scaling": {**YARN, "factor": 0.5}}, "factor: Input should be greater than or equal to 1"),
        ({"rope_scaling": {**YARN, "truncate": False}}, "truncate: transformers 4 and 5 read it differently"),
        ({"rope_scaling": {**YARN, "long_factor": [1.0]}}, "unknown keys: long_factor"),
        ({"rope_scaling": {**YARN, "partial_rotary_factor": 0.5}}, "not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3 needs low_freq_factor"),
        (
            {"rope_scaling": YARN, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}},
            "scale RoPE differently: leave one of them out",
        ),
    ],
)
def test_a_scaling_that_readers_take_differently_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=named) as error:
        config_from_hf({**RELEASED, **change}, "some/config.json")
    assert "\n" not in str(error.value)


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": YARN,
    "yarn, old": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "finetuned": True},
    "yarn, ratio": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 2048},
    "yarn, all": {**YARN, "attention_factor": 1.2, "beta_fast": 16.0, "beta_slow": 2.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_scalings_are_read_in_both_forms_and_written_for_both_versions(name: str) -> None:
    rope = SCALINGS[name]
    both = config_from_hf({**RELEASED, "rope_scaling": rope})
    assert both.rope_scaling == both.local_rope_scaling
    assert both.rope_scaling is not None
    assert both.longest_text == (4 * 8192 if name == "dynamic" else 8192)
    newer = {kind: {**rope, "rope_theta": 160_000.0} for kind in LAYER_TYPES}
    assert config_from_hf({**RELEASED, "rope_parameters": newer}) == both
    one = config_from_hf({**RELEASED, "rope_parameters": {"full_attention": rope}})
    assert (one.rope_scaling, one.local_rope_scaling) == (both.rope_scaling, None)
    for config in (both, one):
        written = config_to_hf(config)
        assert config_from_hf(written) == config
        assert ("rope_scaling" in written) == (config is both)


@pytest.mark.parametrize(
    "rope", [{"type": "default"}, {"rope_type": "linear", "factor": 1.0}, {"type": "yarn", "factor": 1}]
)
def test_a_factor_of_one_changes_nothing(rope: dict[str, Any]) -> None:
    plain = config_from_hf(RELEASED)
    for change in (
        {"rope_scaling": rope},
        {"rope_parameters": rope},
        {"rope_parameters": {"full_attention": rope, "sliding_attention": rope}},
        {"rope_scaling": {**rope, "rope_theta": plain.rope_theta}},
    ):
        assert config_from_hf({**RELEASED, **change}) == plain
    warmer = config_from_hf({**RELEASED, "rope_scaling": {"type": "yarn", "factor": 1.0, "attention_factor": 1.2}})
    assert warmer.rope_scaling is not None  # the scores change, at every length


def test_one_base_for_all_layers_must_be_that_of_each() -> None:
    with pytest.raises(WeightsError, match=r"rope_parameters says rope_theta 5\.0 for all layers"):
        config_from_hf({**RELEASED, "rope_parameters": {"rope_theta": 5.0}})
    with pytest.raises(WeightsError, match="rope_parameters is not a table"):
        config_from_hf({**RELEASED, "rope_parameters": [1]})
    for key in ("head_dim", "sliding_window"):
        with pytest.raises(WeightsError, match=f"{key} is 7"):
            config_from_hf({**RELEASED, key: 7})
        assert config_from_hf({**RELEASED, key: 64}) == config_from_hf(RELEASED)
    with pytest.raises(WeightsError, match="vocab_size"):
        config_from_hf({**RELEASED, "vocab_size": True})
