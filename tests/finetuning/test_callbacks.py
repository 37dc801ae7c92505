"""What is told of a run while it trains."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from mmbert.finetuning.callbacks import Patience, Progress
from mmbert.finetuning.figures import summarise


def test_an_evaluation_in_many_languages_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    codes = [f"{'abcdefghijklmnopqrstuvwxyz'[number % 26]}{number // 26}x_Latn".replace("0x", "ax").replace("1x", "bx")
             for number in range(37)]  # fmt: skip
    metrics = {"eval_score": 0.25, "eval_runtime": 3.0}
    metrics |= {f"eval_{code}_mean_accuracy": 0.5 + number / 100 for number, code in enumerate(codes)}
    with caplog.at_level(logging.INFO):
        state = TrainerState(global_step=7, max_steps=9, is_world_process_zero=True)
        Progress("run").on_evaluate(None, state, None, metrics)
    mean = "mean_accuracy 0.6800 (mean of 37 languages, worst aax_Latn 0.5000)"
    assert caplog.messages == [f"step 7 of 9, dev: score 0.2500, {mean}"]


def test_figures_of_few_languages_and_too_many_names() -> None:
    two = {"loss": 1.5, "eng_Latn_accuracy": 0.5, "swh_Latn_accuracy": 0.25}
    assert summarise(two) == "loss 1.5000, eng_Latn_accuracy 0.5000, swh_Latn_accuracy 0.2500"
    assert summarise({f"n{number}": 1.0 for number in range(15)}).endswith("n7 1.0000, 7 more")


def test_what_is_measured_on_test_is_no_step_of_training(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        state = TrainerState(global_step=7, max_steps=9, is_world_process_zero=True)
        Progress("run").on_evaluate(None, state, None, {"test_accuracy": 0.5, "epoch": 1.0})
    assert not caplog.messages


def test_early_stopping_says_why(caplog: pytest.LogCaptureFixture) -> None:
    state = TrainerState(global_step=9, max_steps=30, best_metric=0.75, is_world_process_zero=True)
    args = SimpleNamespace(metric_for_best_model="eval_accuracy", greater_is_better=True)
    stop, control = Patience(2), TrainerControl()
    with caplog.at_level(logging.INFO):
        stop.on_evaluate(args, state, control, {"eval_accuracy": 0.5})
        assert not control.should_training_stop
        stop.on_evaluate(args, state, control, {"eval_accuracy": 0.75})
    assert control.should_training_stop
    assert caplog.messages == [
        "stopped at step 9 of 30: accuracy has not risen above 0.7500 in the last 2 evaluations (training.patience)"
    ]
