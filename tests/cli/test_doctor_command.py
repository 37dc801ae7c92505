"""``mmbert doctor`` and ``mmbert pretrain --dry-run`` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmbert import recipe_names
from mmbert.cli.main import app
from mmbert.errors import ConfigError

BASE = recipe_names.RECIPES / "mmbert-base.yaml"


def mmbert(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_doctor_names_versions_and_choices() -> None:
    found = dict(line.split(maxsplit=1) for line in mmbert("doctor").splitlines())
    assert found["torch"] == torch.__version__
    assert found["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert found["precision"].startswith(("bf16:", "fp32:"))
    assert {"mmbert", "python", "attention", "threads", "int8", "extra"} <= set(found)


def test_doctor_prints_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schema = json.loads(mmbert("doctor", "--schema"))
    assert "mask_rate" in schema["$defs"]["Phase"]["properties"]
    assert schema["$defs"]["Phase"]["properties"]["mask_rate"]["description"]
    with pytest.raises(ConfigError, match=r"given: recipe\): mmbert doctor --schema > recipe\.schema\.json"):
        mmbert("doctor", "--schema", "recipe")
    assert not list(tmp_path.iterdir())


def test_dry_run_takes_hardware_and_overrides() -> None:
    hardware = ("--device", "b200", "--nodes", "8", "--utilisation", "matrices=0.7")
    text = mmbert("pretrain", str(BASE), "phases.pretrain.tokens=1T", "--dry-run", *hardware)
    assert "speed on 8 x 8 x B200" in text
    assert "matrices 0.7" in text
    assert "306,939,648" in text
    assert "1.70T" in text
    with pytest.raises(ConfigError, match="matrices is 2, and must be in"):
        mmbert("pretrain", str(BASE), "--dry-run", "--utilisation", "matrices=2")
