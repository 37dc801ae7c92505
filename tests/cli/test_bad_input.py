"""Whatever a user gets wrong is one line on stderr (what, where, what to do) and exit code 2."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert.cli.main import main

Command = Callable[..., str]

RECIPE = """
name: little
sources: {{words: {{kind: jsonl, path: {folder}/text}}}}
cleaning: {{holdout: 0.2}}
tokenizer: {{vocab_size: 600, sample_characters: 100k}}
model: {{hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2}}
phases:
  only:
    tokens: 2048
    data: {{temperature: 0.7, max_epochs: null}}
    context: 64
    mask_rate: 0.3
    batch: 1024
    micro_batch: 1024
    peak_lr: 1e-3
evaluation: {{context: 64, tokens_per_language: 200, pairs_per_language: 0}}
runtime: {{checkpoint_every: 1024}}
"""

PROVERBS = {
    "eng_Latn": "A stitch in time saves nine. The early bird catches the worm. {} ways lead to Rome.",
    "swh_Latn": "Haraka haraka haina baraka. Haba na haba hujaza kibaba. Akili ni mali. Njia {} huenda Roma.",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for language, text in PROVERBS.items():
        with gzip.open(_text(tmp_path, language), "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"id": str(n), "text": text.format(n)}) + "\n" for n in range(60))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def _text(folder: Path, language: str) -> Path:
    (folder / "text").mkdir(exist_ok=True)
    return folder / "text" / f"{language}.jsonl.gz"


@pytest.fixture
def mmbert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str | Path) -> str:
        """Run a command that must fail; returns its last line."""
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 2, said
        assert said.out == ""
        assert "Traceback" not in said.err
        return said.err.strip().splitlines()[-1]

    return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def call(*arguments: str | Path) -> None:
        """Run a command that must succeed."""
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        capsys.readouterr()

    return call


def test_unknown_key(recipe: Path, mmbert: Command) -> None:
    line = mmbert("run", recipe, "phases.only.peak_rl=1")
    assert line == f"mmbert: {recipe}: unknown key phases.only.peak_rl: did you mean peak_lr?"


def test_missing_recipe(tmp_path: Path, mmbert: Command) -> None:
    assert "no such recipe" in mmbert("run", tmp_path / "recipe.yaml")


def test_unknown_language(recipe: Path, mmbert: Command, tmp_path: Path) -> None:
    line = mmbert("run", recipe, "phases.only.data.languages=[eng_Latn, fra_Latx]", "--out", tmp_path / "out")
    assert "fra_Latx" in line


def test_missing_file(recipe: Path, mmbert: Command, tmp_path: Path) -> None:
    line = mmbert("run", recipe, "sources.words.path=nowhere", "--out", tmp_path / "out")
    assert "nowhere" in line


def test_empty_corpus(recipe: Path, mmbert: Command, tmp_path: Path) -> None:
    for language in PROVERBS:
        with gzip.open(_text(tmp_path, language), "wt") as file:
            file.write('{"text": "short"}\n')
    line = mmbert("run", recipe, "--out", tmp_path / "out")
    assert "words" in line
    assert "2" in line, "how many were dropped and why"


def test_corrupt_gzip(recipe: Path, mmbert: Command, tmp_path: Path) -> None:
    path = _text(tmp_path, "eng_Latn")
    path.write_bytes(path.read_bytes()[:-20])
    assert "eng_Latn.jsonl.gz" in mmbert("run", recipe, "--out", tmp_path / "out")


def test_invalid_utf8(recipe: Path, mmbert: Command, tmp_path: Path) -> None:
    with gzip.open(_text(tmp_path, "eng_Latn"), "ab") as file:
        file.write(b'{"text": "caf\xe9 au lait, s\'il vous plait"}\n')
    line = mmbert("run", recipe, "--out", tmp_path / "out")
    assert "eng_Latn.jsonl.gz:61" in line
    assert "UTF-8" in line


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_shard(recipe: Path, mmbert: Command, tmp_path: Path, run: Callable[..., None], damage: str) -> None:
    out = tmp_path / "out"
    run("data", "prepare", recipe, "--out", out / "data")
    shard = next((out / "data" / "shards").rglob("*.tokens"))
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        del content[-4:]
    else:
        content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    line = mmbert("pretrain", recipe, "--out", out)
    assert shard.name in line
    assert "mmbert data prepare" in line


def test_shards_of_another_tokenizer(recipe: Path, mmbert: Command, tmp_path: Path, run: Callable[..., None]) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    run("data", "prepare", recipe, "--out", out / "data")
    run("data", "prepare", recipe, "tokenizer.prefix_space=true", "--out", other)
    shutil.rmtree(out / "data" / "tokenizer")
    shutil.copytree(other / "tokenizer", out / "data" / "tokenizer")
    assert "tokenizer" in mmbert("pretrain", recipe, "--out", out)


def test_recipe_changed_before_resume(recipe: Path, mmbert: Command, tmp_path: Path, run: Callable[..., None]) -> None:
    out = tmp_path / "out"
    run("run", recipe, "--out", out)
    line = mmbert("run", recipe, "phases.only.mask_rate=0.2", "--out", out)
    assert "phases.only.mask_rate" in line
    assert "--out" in line
