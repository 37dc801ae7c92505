"""What a run would do is told without training, and faults are named as the run names them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from little_sentences import adaptation, examples, write_rows
from little_sets import write
from test_read_examples import BAD
from test_recipes import RECIPES, SETS, WITH_ROWS

import mmbert
from mmbert.errors import ConfigError, DataError, TrainingError, WeightsError
from mmbert.finetuning.dry_run import dry_run, show
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.model.config import ModelConfig


@pytest.fixture
def sentence_sets(tmp_path: Path) -> dict[str, Path]:
    rows = examples(40)
    scored = [{**row, "negative": row["negative"][0], "score": 3.5} for row in rows]
    translated = [{"text": row["query"], "english": row["positive"]} for row in rows]
    write_rows(tmp_path / "test.jsonl", translated)
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{row['query']}\n" for row in rows))
    return {
        "distil-classify": lines,
        "distil-tag": lines,
        "embed": write_rows(tmp_path / "plain.jsonl", rows),
        "rerank": tmp_path / "plain.jsonl",
        "splade": tmp_path / "plain.jsonl",
        "embed-distil": write_rows(tmp_path / "scored.jsonl", scored),
        "embed-bitext": write_rows(tmp_path / "train.jsonl", translated),
        "colbert": write_rows(tmp_path / "taught.jsonl", adaptation(rows)),
    }


@pytest.mark.parametrize("path", WITH_ROWS, ids=lambda path: path.stem)
def test_every_recipe_on_own_files(
    path: Path, heads: Path, sets: Path, sentence_sets: dict[str, Path], tmp_path: Path
) -> None:
    own = sets / SETS[path.stem] / "train.jsonl" if path.stem in SETS else sentence_sets[path.stem]
    changes = [f"model={heads / 'masks'}", f"data.train.path={own}"]
    if SETS.get(path.stem) == "choose":
        changes.append("choose.first_label=0")
    if path.stem == "embed-bitext":
        changes[1] = f"data.path={tmp_path}"
    if path.stem == "regression":
        changes.append("data.columns.text_pair=null")
    if path.stem.startswith("distil-"):
        changes.append(f"teacher.model={heads / ('tags' if path.stem == 'distil-tag' else 'classes')}")
    lines = dict(dry_run(FinetuneRecipe.load(path, changes), tmp_path / "run"))
    total = 40 if path.stem not in SETS else 16 if path.stem == "qa" else 24
    dev = int(lines["dev"].split()[0])
    share = 4 if path.stem.startswith("distil-") else 2
    assert dev == share, "a tenth, or 5 % where the recipe's share is too small for so few"
    assert int(lines["train"].split()[0]) == total - dev
    assert "not read" not in str(lines)
    if path.stem == "distil-classify":
        assert lines["student"].startswith("2 layers of 256, fresh, ")
        assert lines["teacher"] == f"{heads / 'classes'}, 2 labels; its logits are computed first"
    assert not (tmp_path / "run").exists()
    assert show(list(lines.items())).startswith("task    ")


@pytest.mark.parametrize("fault", list(BAD))
def test_faults_are_those_of_the_run(fault: str, recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    name, rows, said = BAD[fault]
    path = write(tmp_path / "dev.jsonl", rows)
    with pytest.raises(DataError, match=rf"dev\.jsonl{said}"):
        dry_run(recipe(name, data__dev={"path": str(path)}), tmp_path / "run")


def test_what_else_is_wrong(recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.metric 'bleu' is none of accuracy"):
        dry_run(recipe("classify", training__metric="bleu"), tmp_path)
    with pytest.raises(WeightsError, match=r"no such model folder: \./nowhere"):
        dry_run(recipe("classify", model="./nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="not a model folder"):
        dry_run(recipe("classify", model=str(tmp_path / "empty")), tmp_path)
    recipe("classify", training__epochs=3).save(tmp_path / "recipe.yaml")
    with pytest.raises(TrainingError, match=r"begun with another recipe: training\.epochs is 1\.0, was 3\.0"):
        dry_run(recipe("classify"), tmp_path)


def test_nothing_of_the_hub_is_fetched(tmp_path: Path) -> None:
    lines = dry_run(FinetuneRecipe.load(RECIPES / "classify.yaml"), tmp_path)
    assert dict(lines)["model"] == "jhu-clsp/mmBERT-small of the hub: not read in a dry run"
    assert dict(lines)["train"] == "Davlan/sib200 ({language}) of the hub: not read in a dry run"


def test_the_plan_is_what_the_run_does(recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    wanted = recipe("classify", training__epochs=2)
    lines = dict(dry_run(wanted, tmp_path / "run"))
    assert lines["labels"] == "bad 12, good 12"
    assert lines["steps"].startswith("6 (2 epochs of 3, batches of 8)")
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    assert max(line["step"] for line in result.history) == 6


@pytest.mark.parametrize(("rate", "width", "warned"), [(2e-5, 128, True), (1e-3, 128, False), (2e-5, 768, False)])
def test_a_small_model_at_a_rate_of_large_ones(
    rate: float, width: int, warned: bool, recipe: Callable[..., FinetuneRecipe], caplog: pytest.LogCaptureFixture
) -> None:
    from mmbert.finetuning.dry_run import warn_small_model

    config = ModelConfig(
        vocab_size=256_000 if width == 768 else 4096, hidden_size=width, intermediate_size=2 * width, num_layers=4,
        num_heads=4,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "mmbert"):
        warn_small_model(recipe("classify", training__learning_rate=rate).training, config)
    assert ("may learn next to nothing" in caplog.text) == warned


def test_the_command_needs_no_torch(recipe: Callable[..., FinetuneRecipe], tmp_path: Path) -> None:
    recipe("classify").save(tmp_path / "recipe.yaml")
    code = (
        "import sys; from mmbert.cli.main import app; app(standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "finetune", str(tmp_path / "recipe.yaml"), "--dry-run"]
    found: Any = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "labels  bad 12, good 12" in found.stdout
