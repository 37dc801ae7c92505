"""A suite's ``tune``: models are tuned for embeddings once, before all tasks, and the tables say so."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from little_tasks import write_all, write_rows
from typer.testing import CliRunner

import mmbert
from mmbert.cli.main import app
from mmbert.errors import ConfigError, DataError
from mmbert.evaluation import tuning_chain
from mmbert.evaluation.published import published
from mmbert.evaluation.suite import Suite
from mmbert.files import read_json
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, RESULT
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.inference.load import hash_folder
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe_names import RECIPES
from mmbert.reporting.scores import write_scores
from mmbert.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model, as small as can be."""
    place = tmp_path_factory.mktemp("models") / "little"
    torch.manual_seed(1)
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        max_context=128,
    )  # fmt: skip
    MaskedLM(shape).save(place)
    tokenizer.save(place, max_tokens=128)
    return place


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    """A suite and, in a folder beside its own, the recipe of ``tune``; a run of six steps with three checkpoints."""
    write_all(tmp_path / "data")
    pairs = [{"query": f"goal {n} {n}", "positive": f"swh goal {n} {n}"} for n in range(24)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "dev.jsonl", pairs[:6])
    train = {"path": str(tmp_path / "pairs.jsonl")}
    training = {"batch": 4, "max_steps": 6, "eval_every": 1 / 3, "device": "cpu", "max_tokens": 32, "keep": 3}
    recipe = {
        "name": "embed", "task": "embed", "model": "jhu-clsp/mmBERT-base", "training": training,
        "data": {"train": train, "dev": {"path": str(tmp_path / "dev.jsonl")}}, "embed": {"mini_batch": None},
    }  # fmt: skip
    for name in ("evaluate", "finetune"):
        (tmp_path / name).mkdir()
    (tmp_path / "finetune" / "small.yaml").write_text(json.dumps(recipe))
    path = tmp_path / "evaluate" / "mine.yaml"
    tasks = {"tatoeba": {"languages": ["swh_Latn"]}}
    path.write_text(json.dumps({"name": "mine", "data": str(tmp_path / "data"), "tune": "../finetune/small.yaml",
                                "tasks": tasks}))  # fmt: skip
    return path


def tuned_folders(out: Path) -> list[Path]:
    return sorted(out.glob("*/models/embed-*"))


def test_a_model_is_tuned_once_and_the_tables_say_so(
    folder: Path, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    suite = Suite.load(suite_file)
    (column,) = mmbert.evaluate(folder, suite, out=out).columns
    (made,) = tuned_folders(out)
    assert made.parents[1].name == hash_folder(folder), "kept with the model that it was made of"
    assert column.weights == hash_folder(made / FINAL)
    assert column.title.endswith("little (tuned by small.yaml first)")
    assert not (made / CHECKPOINTS).exists()
    assert mmbert.Embedder.load(made / FINAL).loaded.tuned
    result = mmbert.evaluate(folder, suite, out=out, baselines=["characters"])
    text = write_scores(result, tmp_path / "tables").read_text()
    assert "little (tuned by small.yaml first) | characters |" in text
    assert "little: tuned by small.yaml first.\n" in text
    assert read_json(tmp_path / "tables" / "scores.json")["columns"][0]["tuned"] == "tuned by small.yaml first"
    monkeypatch.setattr(tuning_chain, "finetune", None)  # calling it would fail
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert mmbert.evaluate(tmp_path / "elsewhere", suite, out=out).columns[0].tasks == column.tasks


def test_another_recipe_or_other_rows_are_another_model(folder: Path, suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mmbert.evaluate(folder, Suite.load(suite_file), out=out)
    changed = Suite.load(suite_file, ["tune_changes.training.learning_rate=1e-3", "tune_changes.name=other"])
    result = mmbert.evaluate(folder, changed, out=out)
    assert len(list(out.glob("*/models/*"))) == 2
    recipe = FinetuneRecipe.load(next(out.glob("*/models/other-*")) / "recipe.yaml")
    assert recipe.training.learning_rate == 1e-3
    said = 'tuned by small.yaml first, with {"training": {"learning_rate": 0.001}, "name": "other"}.'
    assert said in write_scores(result, tmp_path / "tables").read_text()
    write_rows(tmp_path / "pairs.jsonl", [{"query": f"bird {n}", "positive": f"ndege {n}"} for n in range(24)])
    mmbert.evaluate(folder, Suite.load(suite_file), out=out)
    assert len(tuned_folders(out)) == 2


def test_tuning_that_was_stopped_goes_on(
    folder: Path, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = Suite.load(suite_file)
    (whole,) = mmbert.evaluate(folder, suite, out=tmp_path / "whole").columns
    real = tuning_chain.finetune

    def stopped(recipe: Any, *, out: Path) -> Any:
        real(recipe, out=out)
        (out / RESULT).unlink()
        shutil.rmtree(out / FINAL)
        shutil.rmtree(max((out / CHECKPOINTS).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])))
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning_chain, "finetune", stopped)
    with pytest.raises(KeyboardInterrupt):
        mmbert.evaluate(folder, suite, out=tmp_path / "out")
    (begun,) = tuned_folders(tmp_path / "out")
    assert [path.name for path in (begun / CHECKPOINTS).glob("checkpoint-*")]
    monkeypatch.setattr(tuning_chain, "finetune", real)
    moved = shutil.copytree(folder, tmp_path / "moved")  # the same model, by another path
    (column,) = mmbert.evaluate(moved, suite, out=tmp_path / "out").columns
    assert tuned_folders(tmp_path / "out") == [begun]
    assert column.weights == whole.weights, "as if it had not been stopped"
    assert column.tasks == whole.tasks


def test_models_that_are_tuned_and_no_tune(
    folder: Path, suite_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    suite = Suite.load(suite_file)
    plain = mmbert.evaluate(folder, suite, out=out, tune=False)
    assert not tuned_folders(out)
    assert plain.columns[0].title.endswith("little")
    (made,) = mmbert.evaluate(folder, suite, out=out, baselines=["untrained"]).columns[:1]
    assert len(tuned_folders(out)) == 2, "the baseline is tuned in the same way"
    (first,) = out.glob(f"{hash_folder(folder)}/models/embed-*")
    with caplog.at_level(logging.INFO):
        result = mmbert.evaluate(first / FINAL, suite, out=out)
    assert "is tuned for embeddings already" in caplog.text
    assert result.columns[0].weights == made.weights
    assert result.columns[0].title.endswith("final (tuned before)")
    assert "tuned for embeddings before, so not by small.yaml" in write_scores(result, tmp_path / "t").read_text()


def test_the_command(folder: Path, suite_file: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(folder), str(suite_file), "tune_changes.training.max_steps=2", "--out", "out"]
    with pytest.MonkeyPatch.context() as place:
        place.chdir(tmp_path)
        untuned = CliRunner().invoke(app, [*arguments, "--no-tune"], catch_exceptions=False)
        tuned = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "tuned by" not in untuned.stdout
    assert 'tuned by small.yaml first, with {"training": {"max_steps": 2}}.' in tuned.stdout


def test_faults(folder: Path, suite_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: tune: no such recipe: \.\./nowhere\.yaml"):
        Suite.load(suite_file, ["tune=../nowhere.yaml"])
    with pytest.raises(ConfigError, match=r"small\.yaml: unknown key training\.batches: did you mean batch"):
        Suite.load(suite_file, ["tune_changes.training.batches=2"]).tuning()
    with pytest.raises(ConfigError, match=r"^tune: .*ner\.yaml is of task tag: a suite tunes for embeddings"):
        mmbert.evaluate(folder, Suite.load(suite_file, [f"tune={RECIPES / 'finetune' / 'ner.yaml'}"]), out=tmp_path)
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(DataError, match=r"pairs\.jsonl"):
        mmbert.evaluate(folder, Suite.load(suite_file), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not tuned_folders(tmp_path / "out")


def test_a_suite_that_extends_another_keeps_its_tune(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    child = tmp_path / "deep" / "er" / "child.yaml"
    child.write_text("extends: ../../evaluate/mine.yaml\nname: child\n")
    tuning = Suite.load(child).tuning()
    assert tuning is not None
    assert tuning.name == "embed"


@pytest.mark.parametrize("name", ["mteb", "mteb-multilingual", "coir"])
def test_the_suites_of_mteb_follow_the_protocol_of_the_paper(name: str) -> None:
    suite = Suite.load(RECIPES / "evaluate" / f"{name}.yaml")
    tuning = suite.tuning()
    assert tuning is not None
    assert (tuning.task, tuning.training.learning_rate, tuning.training.epochs) == ("embed", 1e-4, 1)
    assert suite.published is not None
    assert published(suite.published)
