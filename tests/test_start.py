"""What a recipe takes over from the model that it starts from, looked up in its ``config.json`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import ConfigError, WeightsError
from mmbert.estimate.dry_run import dry_run
from mmbert.model.config import ModelConfig, config_to_hf
from mmbert.recipe import Recipe
from mmbert.recipe_file import write_recipe
from mmbert.rope_scaling import RopeScaling
from mmbert.start_model import resolve

YARN = RopeScaling(rope_type="yarn", factor=4, original_max_position_embeddings=128)
SHAPE = ModelConfig(
    vocab_size=777, hidden_size=48, intermediate_size=64, num_layers=5, num_heads=4, global_every=2, window=32,
    rope_theta=160_000.0, local_rope_theta=10_000.0, max_context=512, rope_scaling=YARN,
    norm_eps=1e-6, attention_out_dropout=0.1,
)  # fmt: skip
PHASE = "tokens: 1M, context: 64, mask_rate: 0.3, batch: 4096, micro_batch: 2048, peak_lr: 1e-3"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_hf(SHAPE)))
    return folder


def load(start: Path | str, *changes: str) -> Recipe:
    path = Path(start).parent / "r.yaml" if Path(start).parent.is_dir() else Path("r.yaml")
    path.write_text(f"name: r\nstart: {start}\nphases: {{teach: {{{PHASE}, data: {{temperature: 1}}}}}}\n")
    return Recipe.load(path, changes)


def test_shape_tokenizer_and_angles_are_the_starts(start: Path) -> None:
    recipe = resolve(load(start))
    shape = recipe.shape.model_dump()
    expected = {name: value for name, value in SHAPE.model_dump().items() if name in shape}
    assert {name: shape[name] for name in expected} == expected
    assert (shape["max_context"], shape["attention_out_dropout"]) == (512, 0.1)
    assert recipe.tokenizer == recipe.vocabulary == str(start)
    assert (recipe.phases["teach"].rope_theta, recipe.phases["teach"].local_rope_theta) == (160_000, 10_000)
    assert (recipe.phases["teach"].rope, recipe.phases["teach"].local_rope) == (SHAPE.rope_scaling, None)
    assert recipe.phases["teach"].context == 64


def test_resolving_twice_or_after_saving_changes_nothing(start: Path, tmp_path: Path) -> None:
    recipe = resolve(load(start))
    assert resolve(recipe) == recipe
    recipe.save(tmp_path / "saved.yaml")
    assert resolve(Recipe.load(tmp_path / "saved.yaml")) == Recipe.load(tmp_path / "saved.yaml") == recipe


def test_what_a_recipe_says_itself_counts(start: Path) -> None:
    phase = resolve(load(start, "phases.teach.rope_theta=40_000")).phases["teach"]
    assert (phase.rope_theta, phase.local_rope_theta) == (40_000, None)
    phase = resolve(load(start, "phases.teach.local_rope_theta=5_000")).phases["teach"]
    assert (phase.rope_theta, phase.local_rope_theta) == (160_000, 5_000)
    assert resolve(load(start, "phases.teach.rope=null")).phases["teach"].rope is None
    phase = resolve(load(start, "phases.teach.local_rope={type: linear, factor: 2, original: 512}")).phases["teach"]
    assert phase.rope is None, "a phase with a scaling of its own takes none from the start"
    fields = ["hidden_size", "num_heads", "intermediate_size", "num_layers", "global_every", "window", "norm_eps"]
    own = ", ".join(f"{field}: {getattr(SHAPE, field)}" for field in fields)
    recipe = resolve(load(start, f"model={{{own}, mlp_dropout: 0.3}}", "tokenizer=elsewhere"))
    assert (recipe.shape.mlp_dropout, recipe.shape.vocab_size, recipe.shape.max_context) == (0.3, 777, 512)
    assert recipe.tokenizer == "elsewhere"
    with pytest.raises(WeightsError, match=r"model has num_layers 5, the recipe's model 3: leave `model` out"):
        resolve(load(start, f"model={{{own.replace('num_layers: 5', 'num_layers: 3')}}}"))


def test_without_a_start_model_and_tokenizer_are_needed(start: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer is missing: only a recipe with `start` may leave it out"):
        load(start, "start=null")
    with pytest.raises(ConfigError, match="model is missing: only a recipe with `start` may leave it out"):
        load(start, "start=null", "tokenizer=x")
    recipe = load(start, "start=null", "tokenizer=x", "model={hidden_size: 8, num_heads: 2, num_layers: 1, "
                  "intermediate_size: 8}")  # fmt: skip
    assert resolve(recipe) is recipe
    assert recipe.phases["teach"].rope_theta == 10_000


def test_the_model_of_an_unresolved_recipe(start: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model of r is that of its start: mmbert\.start_model\.resolve"):
        _ = load(start).shape


def test_a_dry_run_reads_the_config_alone(start: Path) -> None:
    plan = dry_run(load(start))
    assert plan.parameters.encoder > 0
    assert plan.config.num_layers == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not a model folder"),
        ("[1]", "not a JSON object"),
        ('{"model_type": "bert"}', "this is not an mmBERT"),
        ('{"model_type": "modernbert"}', "hidden_size is missing"),
    ],
)
def test_folders_that_are_no_start(start: Path, content: str | None, says: str) -> None:
    (start / "config.json").unlink()
    if content is not None:
        (start / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=says) as caught:
        resolve(load(start))
    assert "\n" not in str(caught.value)


def test_a_start_that_is_not_there(start: Path) -> None:
    for name in (f"{start}/gone", "./gone", "gone", "a/b/c"):
        with pytest.raises(WeightsError, match="start: no such model folder"):
            resolve(load(start, f"start={name}"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["merge={method: ties, base: start, phases: {teach: 1, start: 1}}"], "start is both base and merged"),
        (["merge={method: ties, base: begin, phases: {teach: 1}}"], "merge names no phase: begin"),
        (["evaluation.kept=[web]"], "evaluation.kept names no source: web"),
        (
            ["start=null", "tokenizer=x", "model={hidden_size: 8, num_heads: 2, num_layers: 1, intermediate_size: 8}",
             "merge={method: average, phases: {teach: 1, start: 1}}"],
            "merge names start, but the recipe has none",
        ),
    ],
)  # fmt: skip
def test_what_merges_may_name(start: Path, changes: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(start, *changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_phase_is_called_start(start: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = load(start).model_dump(mode="json")
    values["phases"]["start"] = values["phases"].pop("teach")
    write_recipe(tmp_path / "bad.yaml", values)
    with pytest.raises(ConfigError, match=r"phases\.start: this name is that of the model of `start`"):
        Recipe.load(tmp_path / "bad.yaml")
