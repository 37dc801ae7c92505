"""Two commands at once in one folder: one does the work, the other ends with one line, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmbert.locks import lock_folder

RECIPE = """
name: race
sources: {{text: {{kind: jsonl, path: {folder}/text}}}}
cleaning: {{holdout: 0.1, max_repetition: 1}}
tokenizer: {{vocab_size: 512}}
model: {{hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2}}
phases: {{only: {{tokens: 2048, context: 64, batch: 1024, micro_batch: 512, mask_rate: 0.3, rope_theta: 10_000,
  peak_lr: 1e-3, data: {{temperature: 0.7, max_epochs: null}}}}}}
runtime: {{threads: 1, device: cpu}}
"""
COMMANDS = (("data", "prepare"), ("run",), ("pretrain",))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for language in ("eng_Latn", "fra_Latn", "swh_Latn", "fin_Latn", "deu_Latn", "spa_Latn", "ita_Latn", "por_Latn"):
        lines = [
            json.dumps({"text": f"{language} sentence number {n}, of words {n * 7} and {n * 13}."}) for n in range(4000)
        ]
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{language}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "race.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def start(command: tuple[str, ...], recipe: Path, out: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "mmbert", *command, str(recipe), "--out", str(out)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=recipe.parent)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, standard error) of a process."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_preparations_leave_what_one_leaves(recipe: Path, tmp_path: Path) -> None:
    code, said = end(start(("data", "prepare"), recipe, tmp_path / "alone"))
    assert code == 0, said
    both = [start(("data", "prepare"), recipe, tmp_path / "both") for _ in range(2)]
    ends = [end(process) for process in both]
    for code, said in ends:
        assert code == 0 or (code == 2 and "is being written by process" in said), said
    assert 0 in [code for code, _ in ends]
    assert files(tmp_path / "both") == files(tmp_path / "alone")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_in_use_is_one_line(command: tuple[str, ...], recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "used"
    place = folder / "only" if command == ("pretrain",) else folder
    if command == ("pretrain",):
        code, said = end(start(("data", "prepare"), recipe, folder / "data"))
        assert code == 0, said
    with lock_folder(place):
        before = files(place)
        code, said = end(start(command, recipe, folder))
        assert files(place) == before
    assert code == 2, said
    assert "is being written by process" in said
    assert "Traceback" not in said
