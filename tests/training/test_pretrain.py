"""Whole runs of a tiny model: phases, going on, and everything that must stop a run."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import write_recipe

from conftest import Trained
from mmbert.data.unigram import token_shares
from mmbert.errors import ConfigError, NotFinite, TrainingError, WeightsError
from mmbert.files import read_json, write_json
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import load_state
from mmbert.recipe import Recipe
from mmbert.rope_scaling import RopeScaling
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.cooccurrence_init import token_vectors
from mmbert.training.distributed import Mesh
from mmbert.training.phase_context import PhaseContext
from mmbert.training.pretrain import checkpoints_of, pretrain


def lines(phase: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (phase / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def untimed(phase: Path) -> list[dict[str, Any]]:
    times = {"tokens_per_second", "seconds", "save_s", "time"}
    return [{key: value for key, value in line.items() if key not in times} for line in lines(phase)]


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_state(one), load_state(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return tmp_path / "run"


def test_the_model_learns_and_the_files_are_there(trained: Trained) -> None:
    first, second = lines(trained.folder / "first"), lines(trained.folder / "second")
    assert first[0]["loss"] == pytest.approx(math.log(512), abs=0.3)
    assert second[-1]["loss"] < first[0]["loss"] - 0.5
    assert second[0]["loss"] < first[0]["loss"] - 0.5, "the second phase goes on from the first"
    assert [line["tokens"] for line in second] == [2048, 4096, 6144, 8192]
    assert [line["batch"] for line in first] == [512] * 4 + [1024] * 6
    assert all(abs(line["mask_rate"] - 0.3) < 0.05 for line in first)
    assert second[0]["learning_rate"] > second[-1]["learning_rate"] > 0.02 * 5e-3
    assert list((trained.folder / "first" / "tensorboard").glob("events.*"))
    environment = read_json(trained.folder / "environment.json")
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["precision"] == "fp32"  # 32 wide: bf16 gains nothing


def test_a_bias_of_the_tokens_shares_begins_at_their_entropy(trained: Trained, tmp_path: Path) -> None:
    changes = ["model.initializer_bias=unigram", "optimizer.decay_embeddings=false"]
    recipe, _ = write_recipe(trained.home, changes)
    pretrain(recipe, tmp_path, trained.data, phases=["first"])
    shares = token_shares(recipe, trained.data / "shards", 512)
    entropy = float(-(shares * np.log(shares)).sum())
    assert entropy < math.log(512) - 0.5
    assert lines(tmp_path / "first")[0]["loss"] == pytest.approx(entropy, abs=0.1)


def test_embeddings_of_counted_neighbours(trained: Trained, tmp_path: Path) -> None:
    changes = ["model.initializer_embeddings=cooccurrence", "optimizer.embedding_lr=1e-9"]
    recipe, _ = write_recipe(trained.home, changes)
    pretrain(recipe, tmp_path, trained.data, phases=["first"])
    table = MaskedLM.load(tmp_path / "first" / "final").model.embeddings.tok_embeddings.weight.detach().numpy()
    vectors = token_vectors(trained.data / "shards", *table.shape)
    known = np.linalg.norm(vectors, axis=1) > 0
    assert known.sum() > 150
    cosines = (table * vectors).sum(1)[known] / np.linalg.norm(table, axis=1)[known]
    assert cosines == pytest.approx(1, abs=1e-4)


def test_each_phase_has_its_own_angles_and_context(trained: Trained) -> None:
    first, second = (MaskedLM.load(trained.folder / name / "final").config for name in ("first", "second"))
    assert (first.rope_theta, first.local_rope_theta, first.max_context) == (10_000, 10_000, 64)
    assert (second.rope_theta, second.local_rope_theta, second.max_context) == (40_000, 40_000, 128)
    yarn = RopeScaling(rope_type="yarn", factor=2, original_max_position_embeddings=64)
    assert (first.rope_scaling, second.rope_scaling, second.local_rope_scaling) == (None, yarn, None)
    assert Tokenizer.load(trained.folder / "second" / "final").vocab_size == second.vocab_size


def test_last_checkpoint_is_the_final_model_and_counts_on(trained: Trained) -> None:
    for name, steps, total in (("first", 20, 20), ("second", 8, 28)):
        folder = trained.folder / name
        kept = checkpoint.checkpoints(folder)
        assert len(kept) == 3
        assert kept[-1].name == f"step-{steps:06d}"
        state = checkpoint.read_state(kept[-1])
        assert (state.finished, state.cursor.step, state.optimizer_step) == (True, steps, total)
        assert same_weights(kept[-1], folder / "final")
        assert checkpoints_of(folder) == [*kept[:-1], folder / "final"]
        assert not list(folder.glob("*.partial"))


def test_going_on_from_an_older_checkpoint_ends_in_the_same_bits(trained: Trained, copied: Path) -> None:
    for folder in (copied / "second", copied / "first" / "final", checkpoint.checkpoints(copied / "first")[-1]):
        shutil.rmtree(folder)
    pretrain(trained.recipe, copied, trained.data)
    for name in ("first", "second"):
        assert same_weights(copied / name / "final", trained.folder / name / "final")
        assert untimed(copied / name) == untimed(trained.folder / name)


def test_a_damaged_checkpoint_is_passed_over(trained: Trained, copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = checkpoint.checkpoints(copied / "second")[-1]
    weights = newest / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        pretrain(trained.recipe, copied, trained.data)
    assert "step-000008 is damaged (the checksum of optimizer.safetensors" in caplog.text
    assert same_weights(copied / "second" / "final", trained.folder / "second" / "final")
    assert checkpoint.damage(newest) is None


def test_finished_phases_are_not_trained_again_but_are_told(trained: Trained, copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("model.safetensors")}
    told: list[tuple[str, Path]] = []
    ends = pretrain(trained.recipe, copied, trained.data, after_phase=lambda name, path: told.append((name, path)))
    assert told == list(ends.items()) == [(name, copied / name / "final") for name in ("first", "second")]
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("model.safetensors")} == before


def test_final_folder_is_written_from_the_last_checkpoint(trained: Trained, copied: Path) -> None:
    shutil.rmtree(copied / "first" / "final")
    pretrain(trained.recipe, copied, trained.data, phases=["first"])
    assert same_weights(copied / "first" / "final", trained.folder / "first" / "final")


def test_a_damaged_final_model_is_written_again(
    trained: Trained, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied / "first" / "final" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    pretrain(trained.recipe, copied, trained.data)
    assert path.read_bytes() == whole
    assert "the checksum of model.safetensors does not match" in caplog.text


def test_a_changed_recipe_is_refused_by_the_keys_that_changed(trained: Trained, copied: Path) -> None:
    changes = ["phases.second.mask_rate=0.2", "model.mlp_dropout=0.0"]
    with pytest.raises(TrainingError) as caught:
        pretrain(write_recipe(trained.home, changes)[0], copied, trained.data)
    message = str(caught.value)
    assert "phases.second.mask_rate is 0.2, was 0.15" in message
    assert "model.mlp_dropout is 0.0, was 0.1" in message
    assert "another --out" in message
    (copied / "recipe.yaml").unlink()  # then the checkpoints still know
    with pytest.raises(TrainingError, match="made by another recipe"):
        pretrain(write_recipe(trained.home, changes)[0], copied, trained.data)


def test_runtime_may_change(trained: Trained, copied: Path) -> None:
    ends = pretrain(write_recipe(trained.home, ["runtime.log_every=7"])[0], copied, trained.data)
    assert list(ends) == ["first", "second"]
    assert Recipe.load(copied / "recipe.yaml").runtime.log_every == 7


def test_not_finite_stops_before_the_weights_move(trained: Trained, tmp_path: Path) -> None:
    recipe, _ = write_recipe(trained.home, ["phases.first.peak_lr=1e30", "phases.first.warmup=0"])
    with pytest.raises(NotFinite, match=r"in phase first at step 1 \(draw \d+, offset \d+\); no weight was changed"):
        pretrain(recipe, tmp_path, trained.data)
    assert not checkpoint.checkpoints(tmp_path / "first")


def test_a_phase_needs_what_it_follows(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="second follows first, which is not finished"):
        pretrain(trained.recipe, tmp_path, trained.data, phases=["second"])
    with pytest.raises(ConfigError, match="no phase third in small: it has first, second"):
        pretrain(trained.recipe, tmp_path, trained.data, phases=["third"])


def test_start_from_a_folder(trained: Trained, tmp_path: Path) -> None:
    start = f"start={trained.folder / 'first' / 'final'}"
    short = ["phases.second.tokens=2048", "phases.first.tokens=2048", "phases.first.warmup=0"]
    recipe, _ = write_recipe(trained.home, [start, "phases.second=null", *short[1:], "phases.first.batch_warmup=1024"])
    pretrain(recipe, tmp_path / "a", trained.data)
    assert lines(tmp_path / "a" / "first")[0]["loss"] < math.log(512) - 0.5
    with pytest.raises(WeightsError, match="has num_layers 3, the recipe's model 2"):
        pretrain(write_recipe(trained.home, [start, "model.num_layers=2"])[0], tmp_path / "b", trained.data)


def test_a_run_keeps_the_precision_it_began_with(trained: Trained, tmp_path: Path) -> None:
    recipe, _ = write_recipe(trained.home, ["phases.second=null", "phases.first.tokens=4096"])
    write_json(tmp_path / "environment.json", {"precision": "bf16", "note": "mine"})
    pretrain(recipe, tmp_path, trained.data)
    newest = checkpoint.latest(tmp_path / "first")
    assert newest is not None
    assert checkpoint.read_state(newest).precision == "bf16"
    assert read_json(tmp_path / "environment.json")["note"] == "mine"
    losses = [line["loss"] for line in lines(tmp_path / "first")]
    assert losses != [line["loss"] for line in lines(trained.folder / "first")][: len(losses)]
    assert losses == pytest.approx([line["loss"] for line in lines(trained.folder / "first")][: len(losses)], rel=0.02)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.vocab_size 300 is less than the tokenizer's"):
        pretrain(write_recipe(trained.home, ["model.vocab_size=300"])[0], tmp_path, trained.data)


def test_checkpoints_that_will_be_averaged_are_kept(trained: Trained) -> None:
    merge = ["merge.method=average", "merge.phases={second: 1}", "merge.checkpoints=9"]
    recipe, _ = write_recipe(trained.home, merge)
    tokenizer = Tokenizer.load(trained.data / "tokenizer")
    jobs = [PhaseContext(recipe, name, Path(), Path(), tokenizer, Mesh(), "fp32") for name in ("first", "second")]
    assert [ctx.keep for ctx in jobs] == [3, 9]


def test_the_callers_process_is_left_as_it_was(trained: Trained, copied: Path) -> None:
    shutil.rmtree(copied / "second")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(trained.recipe, copied, trained.data)
    assert torch.equal(torch.rand(3), expected)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
