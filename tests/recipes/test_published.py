"""The shipped recipes are the published run: its figures are written here once more, from the paper and its files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from mmbert import languages
from mmbert.errors import ConfigError
from mmbert.estimate.dry_run import DryRun, dry_run
from mmbert.estimate.hardware import Machine
from mmbert.estimate.print_estimate import print_estimate
from mmbert.recipe import Recipe
from mmbert.recipe_names import RECIPES
from mmbert.recipe_schema import editor_schema

SHIPPED = sorted(RECIPES.glob("*.yaml"))
PUBLISHED_COLUMN = {"pretrain": "pretrain", "extend": "ext", "decay_all": "decay-all", "decay_cont": "decay-mid",
                    "decay_eng": "decay-eng"}  # fmt: skip


def recipe_schema() -> dict[str, Any]:
    return editor_schema(Recipe.model_json_schema())


@cache
def plan(name: str) -> DryRun:
    return dry_run(Recipe.load(RECIPES / f"mmbert-{name}.yaml"), folder=RECIPES)


def published_counts(column: str) -> dict[str, int]:
    lines = [line for line in (RECIPES / "languages" / "counts.tsv").read_text().splitlines() if line[0] != "#"]
    return {row["language"]: int(row[column]) for row in csv.DictReader(lines, delimiter="\t") if int(row[column])}


def test_there_is_something_to_test() -> None:
    assert {path.name for path in SHIPPED} >= {"mmbert-base.yaml", "mmbert-small.yaml"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_fits_the_schema(path: Path) -> None:
    assert Recipe.load(path).name == path.stem
    values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(recipe_schema()).validate(values)


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    validator = jsonschema.Draft7Validator(recipe_schema())
    validator.check_schema(recipe_schema())
    values = YAML(typ="safe", pure=True).load((RECIPES / "mmbert-base.yaml").read_text(encoding="utf-8"))
    values["phases"]["extend"]["mask_ratee"] = 0.2
    assert not validator.is_valid(values)
    assert not validator.is_valid({"extends": "mmbert-base.yaml", "phases": {"extend": {"tokens": "many"}}})
    assert validator.is_valid({"extends": "other.yaml", "phases": {"extend": {"tokens": "5B"}, "decay_eng": None}})
    assert not validator.is_valid({"name": "x"})


@pytest.mark.parametrize(("count", "column"), [(60, "pretrain"), (109, "ext"), (1833, "decay-all")])
def test_language_lists(count: int, column: str) -> None:
    lines = (RECIPES / "languages" / f"{count}.txt").read_text().splitlines()
    codes = [line for line in lines if not line.startswith("#")]
    assert len(codes) == len(set(codes)) == count + 1
    assert set(codes) == set(published_counts(column))
    assert "code" in codes
    assert "eng" in codes
    for code in codes:
        assert languages.normalise(code) == code  # none is renamed, so that the lists match the data's names


def test_the_lists_contain_one_another() -> None:
    sets = [set(published_counts(column)) for column in ("pretrain", "ext", "decay-all")]
    assert sets[0] < sets[1] < sets[2]
    assert set(published_counts("decay-eng")) == set(published_counts("decay-mid")) == sets[1]
    assert {"fao", "tir"} <= sets[2] - sets[1]


@pytest.mark.parametrize(
    ("name", "encoder", "without", "with_head"),
    [("base", 306_939_648, 110_331_648, 307_786_240), ("small", 140_493_696, 42_189_696, 140_897_536)],
)
def test_parameters(name: str, encoder: int, without: int, with_head: int) -> None:
    counted = plan(name).parameters
    assert (counted.encoder, counted.without_embeddings, counted.masked_lm) == (encoder, without, with_head)


@pytest.mark.parametrize("name", ["base", "small"])
def test_three_trillion_tokens(name: str) -> None:
    assert plan(name).tokens == 3_000_000_000_000


def test_base_schedule() -> None:
    expected = {  # tokens, context, theta, mask, first and last rate, tokens a step, languages with code, exponent
        "pretrain": (2.3e12, 1024, 1e4, 0.30, 8e-4, 8e-4, 4_718_592, 61, 0.7),
        "extend": (6e11, 8192, 1.6e5, 0.15, 8e-4, 8e-4, 37_748_736, 110, 0.5),
        "decay_all": (1e11, 8192, 1.6e5, 0.05, 8e-4, 1.6e-5, 37_748_736, 1834, 0.3),
        "decay_cont": (1e11, 8192, 1.6e5, 0.05, 8e-4, 1.6e-5, 37_748_736, 110, 0.3),
        "decay_eng": (1e11, 8192, 1.6e5, 0.05, 8e-4, 1.6e-5, 37_748_736, 110, 0.3),
    }
    for each in plan("base").phases:
        phase, values = each.phase, expected.pop(each.name)
        assert (phase.tokens, phase.context, phase.rope_theta, phase.mask_rate) == values[:4]
        assert each.learning_rates == pytest.approx(values[4:6])
        assert (phase.batch, len(phase.data.languages), phase.data.temperature) == values[6:]  # type: ignore[arg-type]
        assert phase.local_rope_theta in (None, phase.rope_theta)
    assert not expected
    assert {phase.phase.follows for phase in plan("base").phases if phase.name.startswith("decay")} == {"extend"}


def test_small_differs_where_the_paper_says() -> None:
    phases = plan("small").recipe.phases
    assert plan("small").recipe.order()[:3] == ["pretrain", "pretrain_low", "extend"]
    low, first = phases["pretrain_low"], phases["pretrain"]
    assert (first.tokens, first.peak_lr, first.mask_rate, first.warmup) == (1.2e12, 8e-4, 0.30, 4e9)
    assert (low.tokens, low.peak_lr, low.mask_rate, low.warmup) == (1.1e12, 4e-4, 0.20, 0)
    assert low.data == first.data
    seeds = {name: plan("small").recipe.seed_of(name) for name in phases}
    assert {name for name, seed in seeds.items() if seed == 21} == {"pretrain", "pretrain_low"}
    assert {seed for name, seed in seeds.items() if name not in ("pretrain", "pretrain_low")} == {12345}
    assert plan("small").recipe.optimizer.weight_decay * 4e-4 == pytest.approx(4e-5)
    for each in plan("small").phases:
        if each.name.startswith("decay"):
            assert each.phase.decay is not None
            assert each.phase.decay.shape == "linear"
            assert each.learning_rates == pytest.approx((4e-4, 1.6e-5))
            assert each.phase.data == plan("base").recipe.phases[each.name].data
    merge, of_base = plan("small").recipe.merge, plan("base").recipe.merge
    assert merge is not None
    assert of_base is not None
    assert (merge.method, list(merge.phases), merge.base) == ("average", ["decay_all"], None)
    assert merge.fading < 1 < merge.checkpoints
    assert (of_base.method, of_base.base) == ("ties", "extend")
    assert set(of_base.phases) == {"decay_all", "decay_cont", "decay_eng"}


@pytest.mark.parametrize(
    ("name", "steps", "ends"),
    [
        ("base", 2312, [0.91, 2.73, 5.45, 9.09, 13.64, 19.09, 25.45, 32.73, 40.91, 50.00, 60.00]),
        ("small", 3853, [1.52, 4.55, 9.09, 15.15, 22.73, 31.82, 42.42, 54.55, 68.18, 83.33, 100.00]),
    ],
)
def test_batch_warmup(name: str, steps: int, ends: list[float]) -> None:
    stages = plan(name).phases[0].stages
    assert [stage.batch for stage in stages] == [393_216 * size for size in range(1, 13)]
    assert [stage.begin / 1e9 for stage in stages[1:]] == pytest.approx(ends, abs=0.011)
    assert all(abs(stage.steps - steps) <= 1 for stage in stages[:-1])


def test_steps() -> None:
    # 2,312 steps of each of 11 sizes in the first 60B; then whole batches; the last step is smaller
    steps = {each.name: sum(stage.steps for stage in each.stages) for each in plan("base").phases}
    full = (2.3e12 - 60e9) / 4_718_592
    assert abs(steps["pretrain"] - (11 * 2312 + full)) < 2
    assert (steps["extend"], steps["decay_all"]) == (15_895, 2_650)


def test_budgets_are_those_of_table_1() -> None:
    table = {
        "pretrain": {
            "dclm": 600.0, "starcoder": 100.6, "arxiv": 27.8, "pes2o": 8.4, "stackexchange": 18.6,
            "stackexchange_dolmino": 1.4, "tulu_flan": 15.3, "math_dolmino": 11.2, "books": 4.3, "wikipedia": 4.7,
        },
        "extend": {
            "dclm": 10.0, "dclm_dolmino": 40.0, "starcoder": 17.2, "arxiv": 5.4, "pes2o": 3.2, "stackexchange": 3.0,
            "stackexchange_dolmino": 2.8, "tulu_flan": 3.1, "math_dolmino": 4.3, "books": 3.9, "wikipedia": 1.2,
        },
        "decay_cont": {
            "dclm_dolmino": 2.0, "starcoder": 0.5, "code_prolong": 2.8, "arxiv": 3.3, "tulu_flan": 1.0,
            "math_dolmino": 0.5, "books": 2.2, "textbooks_prolong": 3.1, "wikipedia": 9.5,
        },
    }  # fmt: skip
    crawl = {"pretrain": 1196.6, "extend": 506.7, "decay_cont": 78.5}
    for name, expected in table.items():
        budgets = plan("base").recipe.phases[name].data.mixture
        assert budgets is not None
        billions = {source: budget.tokens / 1e9 for source, budget in budgets.items()}
        assert sum(billions.pop(source, 0.0) for source in ("fineweb2", "fineweb2_hq")) == pytest.approx(crawl[name])
        assert billions == pytest.approx(expected)


def test_no_language_is_drawn_from_two_crawls() -> None:
    for each in plan("base").phases:
        assert each.mixture is not None
        crawled = [s.language for s in each.mixture.streams if s.source.startswith("fineweb2")]
        assert len(crawled) == len(set(crawled)) == len(each.languages) - 2  # all but English and code
        better = [s.language for s in each.mixture.streams if s.source == "fineweb2_hq"]
        assert len(better) == (0 if each.name == "pretrain" else 20)


@pytest.mark.parametrize("name", PUBLISHED_COLUMN)
def test_shares_of_languages_are_the_published_ones(name: str) -> None:
    each = next(phase for phase in plan("base").phases if phase.name == name)
    counts = published_counts(PUBLISHED_COLUMN[name])
    total = sum(counts.values())
    shares = {drawn.name: drawn.share for drawn in each.languages}
    assert set(shares) == set(counts)
    assert sum(shares.values()) == pytest.approx(1)
    for language, count in counts.items():
        assert shares[language] == pytest.approx(count / total, rel=0.015, abs=1e-7), language
    epochs = [drawn.epochs for drawn in each.languages if drawn.epochs is not None]
    assert len(epochs) == len(counts)
    assert max(epochs) < 5


def test_days_beside_the_published_ones() -> None:
    base, small = plan("base"), plan("small")
    # 6 x 110M weights x 3T tokens, and 3 decays, are a floor; attention and the 256k head come on top
    assert 6 * 110_331_648 * 3.2e12 < sum(each.flops for each in base.phases) < 3 * 6 * 110_331_648 * 3.2e12
    for each, days in ((base, 40), (small, 10)):
        assert each.published == (days, pytest.approx(each.days))  # the default machine is the published one
        assert days / 2 < each.days < days * 2
    faster = dry_run(base.recipe, folder=RECIPES, machine=Machine(devices=16))
    assert faster.days == pytest.approx(base.days / 2, rel=0.02)
    assert faster.published == base.published


def test_a_recipe_without_counts_is_planned_without_a_mixture() -> None:
    overrides = ["phases.extend.data.mixture=null", "model.vocab_size=null", "tokenizer={vocab_size: 4096}"]
    made = dry_run(Recipe.load(RECIPES / "mmbert-base.yaml", overrides), folder=RECIPES)
    assert made.config.vocab_size == 4096
    assert made.phases[1].mixture is None
    assert "data prepare" in made.phases[1].note
    with pytest.raises(ConfigError, match=r"set model\.vocab_size"):
        dry_run(Recipe.load(RECIPES / "mmbert-base.yaml", ["model.vocab_size=null"]), folder=RECIPES)


def test_what_is_printed() -> None:
    paper = io.StringIO()
    print_estimate(plan("base"), Console(width=120, file=paper), languages=4)
    text = paper.getvalue()
    for part in ("306,939,648", "110,331,648", "307,786,240", "500,150", "393,216", "3.00T", "1,833 languages"):
        assert part in text, part
    assert "... 1,828 more" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_dry_run_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mmbert.recipe import Recipe; from mmbert.estimate.dry_run import dry_run\n"
        f"dry_run(Recipe.load(Path({str(RECIPES)!r}) / 'mmbert-small.yaml'), folder=Path({str(RECIPES)!r}))\n"
        "import json; print(json.dumps([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
