"""A run as a whole: resumed, recognised, swept, started from another task, on two processes, with every option on."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from little_sets import classes, write
from safetensors.torch import load_file

import mmbert
from little_trackio import stored_runs, trackio_folder
from mmbert.errors import ConfigError, TrainingError
from mmbert.finetuning.finetune import plan_trials
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.trainer_arguments import parameter_groups
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import SequenceClassifier

__all__ = ["trackio_folder"]

Make = Callable[..., FinetuneRecipe]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("lora", [False, True])
def test_a_stopped_run_goes_on_to_the_same_weights(lora: bool, recipe: Make, tmp_path: Path) -> None:
    wanted = recipe("classify", training__epochs=3, training__keep=5, sampling__stratified=True)
    if lora:
        wanted = wanted.changed({"training.lora": {"rank": 2}})
    whole = mmbert.finetune(wanted, out=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "final")
    (stopped / "result.json").unlink()
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-9")  # the end
    (stopped / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()  # cut off while written
    again = mmbert.finetune(wanted, out=stopped)
    # dropout draws from the generator whose state the trainer kept
    for name, value in weights(whole.folder).items():
        torch.testing.assert_close(weights(again.folder)[name], value, atol=1e-6, rtol=1e-5)
    assert again.metrics["dev"] == pytest.approx(whole.metrics["dev"])


def test_a_finished_run_is_recognised(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mmbert.finetune(recipe("classify"), out=tmp_path)
    monkeypatch.setattr("mmbert.finetuning.finetune._train", lambda *parts: pytest.fail("trained again"))
    assert mmbert.finetune(recipe("classify"), out=tmp_path) == first
    with pytest.raises(TrainingError, match=r"training\.epochs is 2\.0, was 1\.0"):
        mmbert.finetune(recipe("classify", training__epochs=2), out=tmp_path)


def test_a_sweep_keeps_the_best(recipe: Make, tmp_path: Path) -> None:
    wanted = recipe("classify", sweep__values={"training.learning_rate": [1e-6, 1e-2]}, sweep__seeds=[1, 2])
    wanted = wanted.changed({"training.epochs": 6})
    assert len(plan_trials(wanted)) == 4
    result = mmbert.finetune(wanted, out=tmp_path, sweep=True)
    assert [trial["chosen"] for trial in result.trials] == sorted((t["chosen"] for t in result.trials), reverse=True)
    assert result.trials[0]["changes"]["training.learning_rate"] == 1e-2
    assert result.chosen == result.trials[0]["chosen"] > result.trials[-1]["chosen"]
    assert mmbert.Classifier.load(result.folder)("Nia was happy").label in ("good", "bad")
    assert mmbert.finetune(wanted, out=tmp_path, sweep=True) == result


def test_a_sweep_needs_something_to_choose_by(recipe: Make, tmp_path: Path, sets: Path) -> None:
    bare = recipe("classify", data={"train": {"path": str(sets / "classify/train.jsonl")}}, sweep__seeds=[1, 2])
    with pytest.raises(ConfigError, match="chooses by dev"):
        mmbert.finetune(bare, out=tmp_path, sweep=True)
    with pytest.raises(ConfigError, match="nothing to sweep"):
        mmbert.finetune(recipe("classify"), out=tmp_path / "other", sweep=True)


def test_other_labels_take_the_encoder_and_the_same_ones_the_head(
    recipe: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    first = mmbert.finetune(recipe("pairs"), out=tmp_path / "nli")
    still = {"training__learning_rate": 1e-30, "training__max_steps": 1}
    mmbert.finetune(recipe("classify", model=str(first.folder), **still), out=tmp_path / "other")
    assert "the classifier (2 classes) is fresh" in caplog.text
    encoder = "model.layers.0.attn.Wqkv.weight"
    torch.testing.assert_close(weights(tmp_path / "other/final")[encoder], weights(first.folder)[encoder])
    mmbert.finetune(recipe("pairs", model=str(first.folder), **still), out=tmp_path / "same")
    assert "encoder and head taken over" in caplog.text
    same = weights(tmp_path / "same/final")["classifier.weight"]
    torch.testing.assert_close(same, weights(first.folder)["classifier.weight"])


def test_every_option_at_once(recipe: Make, tmp_path: Path) -> None:
    wanted = recipe(
        "classify", training__epochs=4, training__micro_batch=4, training__layer_decay=0.8, training__patience=1,
        training__gradient_checkpointing=True, training__weight_decay=0.01, training__schedule="cosine",
        training__head_learning_rate=1e-2, training__eval_every=0.5, training__metric="macro_f1",
        training__lora={"rank": 2}, classify__class_weights="balanced", classify__focal_gamma=2.0,
        sampling__temperature=0.5, sampling__final_temperature=0.0,
        data__dev=None, data__dev_share=0.25, data__path=None,
        data__train={"path": str(tmp_path / "train.jsonl"), "language_column": "lang"},
    )  # fmt: skip
    rows = [{**row, "lang": "eng_Latn" if index < 20 else "swh"} for index, row in enumerate(classes())]
    write(tmp_path / "train.jsonl", rows)
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    assert result.chosen == max(line["eval_macro_f1"] for line in result.history if "eval_macro_f1" in line)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["task"] == "classify"


def test_early_stopping_has_no_say_on_the_test_rows(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    write(tmp_path / "rows.jsonl", list(classes()))
    rows = {"path": str(tmp_path / "rows.jsonl"), "language": "eng_Latn"}
    wanted = recipe(
        "classify", training__epochs=1, training__patience=1,
        data__path=None, data__train=rows, data__dev=rows, data__test=rows,
    )  # fmt: skip
    result = mmbert.finetune(wanted, out=tmp_path / "run")
    assert {"dev", "test"} <= set(result.metrics)
    assert "early stopping" not in caplog.text  # that it misses the metric of dev


class Steps(transformers.TrainerCallback):  # type: ignore[misc]
    """Counts what it is told of."""

    def __init__(self) -> None:
        self.steps, self.evaluations = 0, 0

    def on_step_end(self, *parts: object, **more: object) -> None:
        self.steps += 1

    def on_evaluate(self, *parts: object, **more: object) -> None:
        self.evaluations += 1


@pytest.mark.parametrize("name", ["tag", "answer", "choose"])
def test_callbacks_are_called(name: str, recipe: Make, tmp_path: Path) -> None:
    steps = Steps()
    mmbert.finetune(recipe(name, training__max_steps=2), out=tmp_path, callbacks=[steps])
    assert (steps.steps, steps.evaluations) == (2, 1)


def test_callbacks_are_called_at_every_step(recipe: Make, tmp_path: Path) -> None:
    steps = Steps()
    mmbert.finetune(recipe("classify"), out=tmp_path, callbacks=[steps])
    assert (steps.steps, steps.evaluations) == (3, 1)


def test_an_upload_without_login_is_refused_before_training(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    steps = Steps()
    with pytest.raises(ConfigError, match="cannot upload to me/mine: nobody is logged in"):
        mmbert.finetune(recipe("classify", training__push_to_hub="me/mine"), out=tmp_path, callbacks=[steps])
    assert steps.steps == 0


def test_curves_in_a_tracker(recipe: Make, tmp_path: Path, trackio_folder: Path) -> None:
    mmbert.finetune(recipe("classify", training__tracker="trackio"), out=tmp_path / "mine")
    ((name, lines),) = stored_runs(trackio_folder, "mmbert").items()
    assert name.startswith("mine-")
    assert {"train/loss", "train/learning_rate"} <= lines[0][1].keys()
    assert [step for step, line in lines if "eval/accuracy" in line] == [3]
    # What is sent where is no part of what was trained.
    assert mmbert.finetune(recipe("classify"), out=tmp_path / "mine").metrics


def test_rates_fall_from_the_head_down(heads: Path, recipe: Make) -> None:
    task = SequenceClassifier(Encoder.load(heads / "masks"), 2, pooling="mean")
    wanted = recipe("classify", training__layer_decay=0.5, training__weight_decay=0.1).training
    rates = {}
    for group in parameter_groups(task, wanted, 2):
        for parameter in group["params"]:
            name = next(name for name, value in task.named_parameters() if value is parameter)
            rates[name] = group["lr"]
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
    assert rates["classifier.weight"] == rates["head.dense.weight"] == 1e-3
    assert rates["model.layers.1.mlp.Wi.weight"] == rates["model.final_norm.weight"] == 5e-4
    assert rates["model.layers.0.mlp.Wi.weight"] == 2.5e-4
    assert rates["model.embeddings.tok_embeddings.weight"] == 1.25e-4
    assert rates.keys() == {name for name, _ in task.named_parameters()}


def test_wrong_options_are_named(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.metric 'bleu' is none of accuracy"):
        mmbert.finetune(recipe("classify", training__metric="bleu"), out=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"training\.metric 'f1' is none of accuracy"):
        mmbert.finetune(recipe("pairs", training__metric="f1"), out=tmp_path / "d")
    with pytest.raises(ConfigError, match="not a multiple"):
        mmbert.finetune(recipe("classify", training__micro_batch=3), out=tmp_path / "b")
    with pytest.raises(ConfigError, match="class_weights names no label: fine"):
        mmbert.finetune(recipe("classify", classify__class_weights={"fine": 2.0}), out=tmp_path / "c")
    with pytest.raises(ConfigError, match=r"unknown key training\.rate"):
        recipe("classify", training__rate=1)


def test_fp16_is_for_gpus(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.precision fp16 is for GPUs"):
        mmbert.finetune(recipe("classify", training__precision="fp16", training__device="cpu"), out=tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_fine_tunes_as_the_cpu_does(precision: str, recipe: Make, tmp_path: Path) -> None:
    on_cpu = recipe("classify", training__device="cpu", training__precision="fp32", training__dropout=0.0)
    on_gpu = recipe("classify", training__device="cuda", training__precision=precision, training__dropout=0.0)
    one, two = mmbert.finetune(on_cpu, out=tmp_path / "cpu"), mmbert.finetune(on_gpu, out=tmp_path / "gpu")
    for name, value in weights(one.folder).items():
        assert (weights(two.folder)[name] - value).abs().max() < 0.05, name


@pytest.mark.distributed
def test_two_processes_train_as_one(recipe: Make, tmp_path: Path) -> None:
    """Twice half a batch of sentences whose numbers of words differ: the loss is divided by all of them."""
    plain = {"training__dropout": 0.0, "training__max_grad_norm": 1e9}
    alone = mmbert.finetune(recipe("tag", **plain), out=tmp_path / "one")
    recipe("tag", **plain).save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    command += ["-m", "mmbert", "finetune", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("model ") == 1
    for name, value in weights(alone.folder).items():
        torch.testing.assert_close(weights(tmp_path / "two/final")[name], value, atol=1e-5, rtol=1e-4)
    kept = json.loads((tmp_path / "two" / "result.json").read_text())
    assert kept["metrics"]["dev"]["f1"] == pytest.approx(alone.metrics["dev"]["f1"])
