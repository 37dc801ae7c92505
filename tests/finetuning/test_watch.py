"""What is told of a run while it trains."""

from __future__ import annotations

import logging

import pytest
from transformers import TrainerState

from mmbert.finetuning.watch import SAID, Progress


@pytest.mark.parametrize(("languages", "end"), [(SAID - 1, "l10 0.5000"), (SAID + 40, "l10 0.5000, 41 more")])
def test_an_evaluation_in_many_languages_is_one_short_line(
    caplog: pytest.LogCaptureFixture, languages: int, end: str
) -> None:
    metrics = {"eval_score": 0.25, "eval_runtime": 3.0, **{f"eval_l{number}": 0.5 for number in range(languages)}}
    with caplog.at_level(logging.INFO):
        Progress("run").on_evaluate(None, TrainerState(global_step=7, is_world_process_zero=True), None, metrics)
    assert caplog.messages[0].startswith("step 7: score 0.2500, l0 0.5000, ")
    assert caplog.messages[0].endswith(end)
    assert "runtime" not in caplog.messages[0]
