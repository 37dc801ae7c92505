"""The dry run as a command, and the figures of docs/scaling.md, which are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli.main import app
from mmbert.data.prepare import prepare_data, prepare_text
from mmbert.errors import ConfigError
from mmbert.estimate.dry_run import DryRun, dry_run
from mmbert.estimate.hardware import Machine
from mmbert.estimate.speed import better_micro_batch
from mmbert.files import write_json
from mmbert.model.config import ModelConfig, config_to_hf
from mmbert.recipe import Recipe
from mmbert.recipe_names import RECIPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def plan(name: str, *overrides: str, machine: Machine | None = None) -> DryRun:
    return dry_run(Recipe.load(RECIPES / f"{name}.yaml", overrides), folder=RECIPES, machine=machine)


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["pretrain", str(RECIPES / "mmbert-base.yaml"), "--dry-run", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_command_says_on_what_and_what_binds() -> None:
    text = command(
        "--device", "h200", "--devices", "8", "--nodes", "64", "--utilisation", "memory=0.9", "--length", "700"
    )
    assert "speed on 64 x 8 x H200 SXM, ddp" in text
    assert "memory 0.9" in text
    assert "documents of 700 tokens" in " ".join(text.split())
    assert "pretrain: 81% idle: 96 micro-batches for 512 devices; set micro_batch to 3,072." in text
    assert "extend, decay_all, decay_cont, decay_eng: 25% idle" in text
    assert "loader" in text
    assert "3.69 GB every" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_device_that_is_too_small_is_told() -> None:
    assert "L4: 22 GiB; too little for pretrain" in command("--device", "l4", "--devices", "1")
    assert "too little" not in command("--device", "l4", "--devices", "1", "runtime.gradient_checkpointing=true")


def test_bad_hardware_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no device h101: choose one of"):
        command("--device", "h101")
    with pytest.raises(ConfigError, match="did you mean memory"):
        command("--utilisation", "memroy=0.5")
    with pytest.raises(ConfigError, match="length"):
        command("--length", "0")


def rows(text: str) -> list[list[str]]:
    """Cells of the page's tables."""
    return [[cell.strip(" *") for cell in line.strip(" |").split("|")] for line in text.splitlines() if "|" in line]


@pytest.mark.parametrize("name", ["mmbert-base", "mmbert-small"])
def test_the_page_has_the_figures_of_eight(name: str) -> None:
    made, short = plan(name), name.removeprefix("mmbert-")
    table = PAGE[PAGE.index(f"| {short} | micro-batch") :].split("\n\n")[0]
    for each, row in zip(made.phases, rows(table)[2:-1], strict=False):
        assert row[1:5] == [
            f"{each.phase.micro_batch:,}", f"{each.memory.total / 2**30:.1f}",
            f"{each.tokens_per_second / 1e6:.2f}M", f"{100 * each.mfu:.0f} %",
        ]  # fmt: skip
        assert float(row[5]) == pytest.approx(each.days, rel=0.01)
    assert rows(table)[-1][5] == f"{made.days:.1f}"


@pytest.mark.parametrize("name", ["mmbert-base", "mmbert-small"])
def test_the_page_has_the_figures_of_512(name: str) -> None:
    recipe, machine, short = Recipe.load(RECIPES / f"{name}.yaml"), Machine.named("h100", 8, 64), name[7:]
    sizes = {phase: better_micro_batch(spec, 512) for phase, spec in recipe.phases.items()}
    made = plan(name, *(f"phases.{phase}.micro_batch={size}" for phase, size in sizes.items()), machine=machine)
    page = {row[0]: row[1:] for row in rows(PAGE[PAGE.index("| 512 x H100 |") :].split("\n\n")[0])}
    for each in made.phases:
        step, row = each.step, page[f"{short}, {'a decay' if each.phase.decay else each.name}"]
        assert row == [
            f"{each.memory.total / 2**30:.1f}", f"{each.tokens_per_second / 1e6:.1f}M", f"{100 * each.mfu:.0f} %",
            f"{each.days:.2f}", *(f"{1000 * t:.0f}" for t in (step.device, step.launches, step.loader)),
        ]  # fmt: skip
    assert page[f"{short}, all phases"][3] == f"{made.days:.2f}"


def test_the_recipe_for_32k_continues_a_released_shape(tmp_path: Path) -> None:
    config = ModelConfig.preset("base")
    write_json(tmp_path / "config.json", config_to_hf(config))
    text = [f"sources.{name}.path={tmp_path}" for name in ("long", "short")]
    recipe = Recipe.load(RECIPES / "extend-32k.yaml", [f"start={tmp_path}", *text])
    (each,) = dry_run(recipe, folder=RECIPES).phases
    yarn = each.phase.rotary["rope_scaling"]
    assert (yarn.rope_type, yarn.factor * yarn.original_max_position_embeddings) == ("yarn", each.phase.context)
    assert each.phase.rope_theta == config.rope_theta
    assert each.memory.total < 75 * 2**30, "fits an H100"
    shorter = Recipe.load(RECIPES / "extend-32k.yaml", [f"start={tmp_path}", *text, "phases.extend.context=8192"])
    assert each.tokens_per_second < 0.75 * dry_run(shorter, folder=RECIPES).phases[0].tokens_per_second


def test_sizes_of_prepared_data_are_read(tmp_path: Path) -> None:
    """The recipe ``adapt`` has no counts: the shards have them, and before there are any the text."""
    for source, codes in (("new", ["fao_Latn"]), ("keep", ["deu_Latn", "fra_Latn"])):
        for number, code in enumerate(codes, 1):
            rows = [
                json.dumps({"text": f"{code} says the words of text {place} again."}) for place in range(60 * number)
            ]
            (tmp_path / source).mkdir(exist_ok=True)
            (tmp_path / source / f"{code}.jsonl").write_text("\n".join(rows) + "\n")
    changes = [
        "start=null", *(f"sources.{name}.path={tmp_path / name}" for name in ("new", "keep")), "merge=null",
        "tokenizer={vocab_size: 512, sample_characters: 10k}", "cleaning={holdout: 0, max_repetition: 1}",
        "model={hidden_size: 32, intermediate_size: 32, num_layers: 2, num_heads: 2}",
        "phases.teach.data.max_epochs=null", "evaluation.kept=[]",
    ]  # fmt: skip
    command = ["pretrain", str(RECIPES / "adapt.yaml"), "--dry-run", *changes, "--data", str(tmp_path / "data")]

    def mixture() -> str:
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0
        return " ".join(done.stdout[done.stdout.index("teach: ") :].split())

    assert "sizes are not known: run `mmbert data prepare`" in mixture()
    recipe = Recipe.load(RECIPES / "adapt.yaml", changes)
    prepare_text(recipe, tmp_path / "data")
    said = mixture()
    assert "keep 50 % 5.00M -" in said
    assert "deu_Latn" in said
    assert f"shares are of the characters in {tmp_path / 'data'}" in said
    manifest, _ = prepare_data(recipe, tmp_path / "data")
    said = mixture()
    tokens = manifest.sizes()["new", "fao_Latn"]
    assert f"new 50 % 5.00M {5e6 / tokens:.2f}" in said, "half of 10M tokens"
    assert f"fao_Latn 50 % 5.00M {5e6 / tokens:.2f}" in said
    assert "sizes and epochs are of the shards in" in said
