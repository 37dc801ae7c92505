"""``benchmarks/gpu.py``, rehearsed on a CPU: every kind of part runs, and a table comes out whatever is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--rehearse"]
AROUND = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def rehearse(*options: str) -> list[str]:
    """The rows of the table, without its head."""
    result = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=True, env=AROUND)
    rows = [line for line in result.stdout.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| part | system | texts | tokens/s | ours is faster by | of the matrix peak |")
    assert "45 % of the matrix peak" in result.stdout
    return rows[2:]


@pytest.mark.slow
def test_a_rehearsal_measures_every_kind_of_part() -> None:
    rows = rehearse("--parts", "matrix", "train-8192", "small-512")
    assert "TFLOP/s" in rows[0]
    systems = [row.split(" | ")[1] for row in rows[1:]]
    peers = ["transformers sdpa", "transformers torch_varlen"]
    assert systems[:3] == ["ours", *peers]
    assert systems[3::2] == ["ours, fp32", *peers, "XLM-R base shape sdpa"]
    assert rows[1].split(" | ")[4] == "1.00x"
    assert all(row.split(" | ")[3] for row in rows), "a speed in every row"
    assert not any("Error" in row or "ended with" in row for row in rows)


def test_what_the_time_cuts_off_is_said() -> None:
    rows = rehearse("--parts", "matrix", "base-512", "--seconds", "1.2")
    assert "cut off after 1 s" in rows[0]
    assert "not begun: the time was over" in rows[1]


def test_a_table_comes_out_of_a_stopped_run() -> None:
    process = subprocess.Popen([*COMMAND, "--parts", "matrix"], stdout=subprocess.PIPE, text=True, env=AROUND)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "| matrix | | | | | | | cut off |" in said


@pytest.fixture
def attention_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_attention

    yield gpu_attention.VARLEN
    sys.modules.pop("gpu_attention")


def test_the_peers_flash_attention_is_that_of_sdpa(attention_of_torch: str) -> None:
    config = ModernBertConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        local_attention=8, pad_token_id=0,
    )  # fmt: skip
    plain = ModernBertModel._from_config(config, attn_implementation="sdpa").eval()
    other = ModernBertModel._from_config(config, attn_implementation=attention_of_torch).eval()
    other.load_state_dict(plain.state_dict())
    ids = torch.randint(1, 100, (3, 30))
    mask = torch.ones_like(ids)
    mask[1, 20:], mask[2, 3:] = 0, 0
    for given in (mask, None):
        with torch.no_grad():
            wanted, found = (model(input_ids=ids, attention_mask=given).last_hidden_state for model in (plain, other))
        kept = mask.bool() if given is not None else torch.ones_like(mask).bool()
        torch.testing.assert_close(found[kept], wanted[kept], atol=1e-5, rtol=1e-4)
