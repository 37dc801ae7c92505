"""What a run's folder fixes: the recipe and the precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmbert import cpu
from mmbert.errors import TrainingError
from mmbert.files import read_json, write_json
from mmbert.recipe import Evaluation, Merge, Recipe, Runtime
from mmbert.training.distributed import Mesh
from mmbert.training.run_folder import choose_precision, open_run, recipe_hash, settle_environment

AVERAGE = Merge(method="average", phases={"p": 1.0})


def make_recipe(**values: object) -> Recipe:
    phase = {
        "tokens": 1000, "data": {"temperature": 0.5, "languages": ["fra", "eng"]}, "context": 16, "mask_rate": 0.3,
        "batch": 100, "micro_batch": 100, "peak_lr": 1e-3, **values,
    }  # fmt: skip
    model = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1}
    return Recipe.model_validate({"name": "r", "tokenizer": "none", "phases": {"p": phase}, "model": model})


def test_the_recipe_is_written_first_and_compared_later(tmp_path: Path) -> None:
    open_run(make_recipe(), tmp_path)
    assert Recipe.load(tmp_path / "recipe.yaml") == make_recipe()
    open_run(make_recipe(), tmp_path)
    for change, message in (
        ({"batch": 200}, "phases.p.batch is 200, was 100"),
        ({"warmup": 10}, "phases.p.warmup is 10, was 0"),
        ({"decay": {}}, "phases.p.decay is {"),
        (
            {"data": {"temperature": 0.5, "languages": ["fra"]}},
            'phases.p.data.languages is ["fra"], was ["fra", "eng"]',
        ),
    ):
        with pytest.raises(TrainingError) as caught:
            open_run(make_recipe(**change), tmp_path)
        assert message in str(caught.value)
        assert "put it back, or give another --out" in str(caught.value)
    many = {"batch": 200, "warmup": 10, "mask_rate": 0.1, "peak_lr": 1.0, "context": 20}
    with pytest.raises(TrainingError, match="and 2 more"):
        open_run(make_recipe(**many), tmp_path)


def test_what_follows_training_may_change(tmp_path: Path) -> None:
    recipe = make_recipe()
    other = recipe.model_copy(
        update={"runtime": Runtime(threads=1), "evaluation": Evaluation(mask_rate=0.3), "merge": AVERAGE}
    )
    assert recipe_hash(recipe) == recipe_hash(other)
    open_run(recipe, tmp_path)
    open_run(other, tmp_path)
    assert Recipe.load(tmp_path / "recipe.yaml") == other


def test_hash_is_of_what_training_depends_on() -> None:
    recipe = make_recipe()
    assert recipe_hash(recipe) != recipe_hash(make_recipe(mask_rate=0.31))


@pytest.mark.parametrize(("found", "wanted"), [("avx512_bf16", "bf16"), (None, "fp32")])
def test_precision_follows_a_rule(found: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "bf16_instructions", lambda: found)
    assert choose_precision(torch.device("mps"), 8) == "fp16"
    assert choose_precision(torch.device("cpu"), 32) == "fp32"
    assert choose_precision(torch.device("cpu"), 768) == wanted


def test_environment_is_kept_and_the_precision_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert settle_environment(Runtime(precision="bf16"), 8, Mesh(), tmp_path) == "bf16"
    first = read_json(tmp_path / "environment.json")
    assert {"versions", "platform", "device", "threads", "commit", "commands", "precision"} <= first.keys()
    assert settle_environment(Runtime(), 8, Mesh(), tmp_path) == "bf16"
    assert read_json(tmp_path / "environment.json") == first
    assert not caplog.records
    assert settle_environment(Runtime(precision="fp32"), 8, Mesh(), tmp_path) == "fp32"
    assert "began in bf16 and goes on in fp32" in caplog.text
    write_json(tmp_path / "environment.json", {**first, "versions": {"torch": "1.0"}})
    settle_environment(Runtime(), 8, Mesh(), tmp_path)
    assert "began with other versions" in caplog.text
