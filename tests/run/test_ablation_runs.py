"""The ablations (docs/results/ablations): what makes their runs comparable, and a run of each kind in little."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from little_shards import write_shards
from mmbert.data.pack import Cursor
from mmbert.data.steps import Steps
from mmbert.errors import ConfigError
from mmbert.files import read_json
from mmbert.recipe import Recipe
from mmbert.training import checkpoint

ABLATIONS = Path(__file__).parents[2] / "docs" / "results" / "ablations"
MODULES = ("configurations", "exposure", "comparison", "plots", "run", "summary")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """Import the scripts as they import each other, and forget them: their names are common ones."""
    sys.path.insert(0, str(ABLATIONS))
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    pytest.importorskip("scipy")
    imported = {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(ABLATIONS))
    threads = torch.get_num_threads()
    yield type("Scripts", (), imported)
    torch.set_num_threads(threads)
    for name in MODULES:
        del sys.modules[name]
    sys.modules.update(kept)


# Recipes


@pytest.mark.parametrize("steps", [None, 10, 24, 341])
def test_all_configurations_train_on_equally_many_tokens(scripts: Any, steps: int | None) -> None:
    made = {name: scripts.configurations.recipe(name, 1, [], steps) for name in scripts.configurations.CONFIGURATIONS}
    whole = 3418 if steps is None else steps
    for name, recipe in made.items():
        # Of whole steps: a step that is cut would make a phase longer than it says.
        assert all(phase.tokens % phase.batch == 0 for phase in recipe.phases.values()), name
        assert scripts.configurations.tokens_of(recipe) == whole * 4096, name


def test_configurations_differ_only_in_what_they_are_about(scripts: Any) -> None:
    def rest(name: str) -> dict[str, Any]:
        values = scripts.configurations.recipe(name, 1, []).model_dump(mode="json")
        for phase in values["phases"].values():
            del phase["data"], phase["mask_rate"]
        return {key: value for key, value in values.items() if key != "name"}

    names = [name for name in scripts.configurations.CONFIGURATIONS if name != "ties"]
    assert all(rest(name) == rest("annealed") for name in names)
    made = {name: scripts.configurations.recipe(name, 1, []) for name in scripts.configurations.CONFIGURATIONS}
    assert len({scripts.configurations.identity(recipe) for recipe in made.values()}) == len(made)
    masks = {name: [phase.mask_rate for phase in recipe.phases.values()][:3] for name, recipe in made.items()}
    assert masks["annealed"] == masks["all-0.3"] == masks["ties"] == [0.30, 0.25, 0.20]
    assert (masks["mask-20"], masks["mask-30"]) == ([0.2] * 3, [0.3] * 3)
    assert masks["mask-rising"] == masks["annealed"][::-1]
    temperatures = {name: [phase.data.temperature for phase in recipe.phases.values()] for name, recipe in made.items()}
    assert temperatures["annealed"] == temperatures["mask-30"] == [0.7, 0.5, 0.3]
    assert temperatures["all-0.3"] == [0.3] * 3
    assert temperatures["all-0.5"] == temperatures["stages-0.5"] == [0.5] * 3
    languages = {name: [phase.data.languages for phase in recipe.phases.values()][:3] for name, recipe in made.items()}
    assert languages["annealed"] == languages["stages-0.5"] == [12, 80, "all"]
    assert languages["all-0.3"] == languages["all-0.5"] == ["all"] * 3


def test_where_all_languages_come_first_the_cap_holds_for_the_run(scripts: Any) -> None:
    for name in ("all-0.5", "all-0.3"):
        phases = scripts.configurations.recipe(name, 1, []).phases.values()
        epochs = [phase.data.max_epochs for phase in phases]
        assert sum(epochs) == pytest.approx(5)
        assert np.ptp([each / phase.tokens for each, phase in zip(epochs, phases, strict=True)]) < 1e-12


def test_only_equal_prefixes_are_shared(scripts: Any) -> None:
    made = {name: scripts.configurations.recipe(name, 1, []) for name in scripts.configurations.CONFIGURATIONS}

    def alike(phase: str) -> set[str]:
        wanted = scripts.configurations.lineage(made["annealed"], phase)
        return {name for name, recipe in made.items() if scripts.configurations.lineage(recipe, phase) == wanted}

    assert alike("pretrain") == {"annealed", "mask-30", "ties"}
    assert alike("extend") == {"annealed", "ties"}
    assert alike("decay_all") == {"annealed"}
    other = scripts.configurations.recipe("annealed", 2, [])
    assert scripts.configurations.lineage(other, "pretrain") not in {
        scripts.configurations.lineage(recipe, "pretrain") for recipe in made.values()
    }


# Exposure

TINY = """
name: tiny
tokenizer: {vocab_size: 512}
model: {hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1}
sources: {words: {kind: jsonl, path: x}}
phases:
  only: {tokens: 8192, data: {temperature: 0.3, max_epochs: 9}, context: 32, mask_rate: 0.3, batch: 512,
         micro_batch: 128, peak_lr: 1.0e-3}
"""


@dataclass(frozen=True)
class Numbers:
    """A tokenizer of which only the ids matter; its fingerprint is that of ``write_shards``."""

    vocab_size: int = 512
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4
    fingerprint: str = "0" * 16

    def token_texts(self) -> list[str]:
        return [str(index) for index in range(self.vocab_size)]


def test_exposure_is_what_the_micro_batches_hold(scripts: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    recipe = Recipe.load(tmp_path / "tiny.yaml")
    # Each language has ids of its own, so that every token of a micro-batch tells its language.
    first = {"fra_Latn": 100, "xho_Latn": 200, "ell_Grek": 300}
    parts = {"fra_Latn": [900, 333], "xho_Latn": [45, 71, 400], "ell_Grek": [260]}
    shards = write_shards(
        tmp_path / "shards",
        {("words", code): [[first[code] + i % 100 for i in range(n)] for n in parts[code]] for code in parts},
    )
    seen: Counter[str] = Counter()
    cursors, expected = [Cursor()], [Counter(seen)]
    for step in Steps(recipe, "only", shards, Numbers()).after(Cursor()):
        for packed in step.micro_batches:
            ids = packed.ids.clone()
            ids[packed.targets] = packed.labels
            seen.update({code: int(((ids >= start) & (ids < start + 100)).sum()) for code, start in first.items()})
        cursors.append(step.cursor_after)
        expected.append(Counter(seen))
    assert any(cursor.offset for cursor in cursors)  # within a draw too
    found = scripts.exposure.exposure(recipe, "only", shards, Numbers(), cursors)
    assert [{code: each[code] for code in first} for each in found] == [
        {code: each[code] for code in first} for each in expected
    ]
    assert scripts.exposure.exposure(recipe, "only", shards, Numbers(), cursors[5:6]) == found[5:6]


def test_bits_at_an_exposure_are_interpolated_for_the_language_itself(scripts: Any) -> None:
    curve = [
        {"tokens": 100, "sample": {"xho": [5.0, 10], "zul": [4.0, 0]}},
        {"tokens": 200, "sample": {"xho": [3.0, 30], "zul": [4.0, 0]}},
        {"tokens": 300, "sample": {"xho": [2.0, 30], "zul": [1.0, 8]}},
    ]
    at = scripts.comparison.at_exposure
    assert at(curve, "xho", 20) == pytest.approx((4.0, 150))
    assert at(curve, "xho", 30) == (3.0, 200)  # when it first had seen as much
    assert at(curve, "zul", 2) == pytest.approx((3.25, 225))
    assert (at(curve, "xho", 9), at(curve, "xho", 31), at(curve, "zul", 0)) == (None, None, None)


# Pairing


def _made_up(scripts: Any, name: str, seed: int, bits: dict[str, float]) -> dict[str, Any]:
    stages = scripts.configurations.STAGES
    languages = {code: [stages[int(code[1:]) % 3], value, 3.0, 1] for code, value in bits.items()}
    recipe = scripts.configurations.identity(scripts.configurations.recipe(name, seed, [], 24))
    return {
        "configuration": name, "seed": seed, "recipe": recipe, "text": "t", "heldout": "h", "precision": "fp32",
        "steps": 24, "tokens": 24 * 4096, "languages": languages, "curve": [], "before_merge": None,
    }  # fmt: skip


def _runs(scripts: Any, shift: float, seeds: tuple[int, ...] = (1, 2, 3)) -> dict[tuple[str, int], dict[str, Any]]:
    """Annealed with four seeds, and all-0.3 that is ``shift`` above, with its languages in another order."""
    runs = {}
    for seed in (1, 2, 3, 4):
        chance = random.Random(seed)
        base = {f"l{number}": 2 + number / 10 + chance.gauss(0, 0.2) for number in range(36)}
        runs["annealed", seed] = _made_up(scripts, "annealed", seed, base)
        if seed in seeds:
            codes = chance.sample(list(base), len(base))
            moved = {code: base[code] + shift + chance.gauss(0, 0.002) for code in codes}
            runs["all-0.3", seed] = _made_up(scripts, "all-0.3", seed, moved)
    return runs


def test_differences_pair_each_language_and_seed_with_itself(scripts: Any) -> None:
    # Languages are 3.5 apart and seeds 0.2: in any other pairing a shift of 0.01 would not be found.
    found = scripts.comparison.differences(_runs(scripts, 0.01))
    assert [each.tier for each in found] == list(scripts.configurations.STAGES)
    for each in found:
        assert each.seeds == (1, 2, 3)  # the fourth seed of annealed has no partner
        assert each.mean == pytest.approx(0.01, abs=0.002)
        assert (each.languages, each.better, each.verdict) == (12, 0, "worse")
    assert {each.verdict for each in scripts.comparison.differences(_runs(scripts, -0.01))} == {"better"}
    assert {each.verdict for each in scripts.comparison.differences(_runs(scripts, 0.0))} == {"no difference shown"}


def test_with_fewer_seeds_nothing_is_significant(scripts: Any) -> None:
    runs = _runs(scripts, 0.5, seeds=(1, 2))
    found = scripts.comparison.differences(runs)
    assert {each.verdict for each in found} == {"open"}
    assert max(each.p for each in found) < 0.05
    page = scripts.summary.page(runs, found, [], [])
    assert "**Incomplete: 5 of 24 runs are there.**" in page
    assert "`all-0.3` 3" in page
    assert scripts.comparison.differences(_runs(scripts, 0.5, seeds=(2,)))[0].p_seeds is None


def test_a_seed_that_was_lucky_in_all_languages_is_no_result(scripts: Any) -> None:
    runs = _runs(scripts, 0.0)
    for seed, luck in ((1, 0.10), (2, 0.01), (3, 0.05)):
        for row in runs["all-0.3", seed]["languages"].values():
            row[1] += luck
    found = scripts.comparison.differences(runs)
    assert all(each.p < 0.05 and each.verdict == "no difference shown" for each in found)


def test_other_languages_are_not_paired(scripts: Any) -> None:
    with pytest.raises(ValueError, match="zul"):
        scripts.comparison.paired([{"xho": 1.0, "zul": 2.0}], [{"xho": 1.0}])


def test_holm(scripts: Any) -> None:
    # By hand: 4 x 0.01, 3 x 0.02, then 2 x 0.02 and 0.3, which may not fall below what came before.
    assert scripts.comparison.holm([0.3, 0.01, 0.02, 0.02]) == pytest.approx([0.3, 0.04, 0.06, 0.06])
    assert scripts.comparison.holm([0.5, 0.6]) == [1.0, 1.0]


def test_runs_that_cannot_be_compared_are_named(scripts: Any, tmp_path: Path) -> None:
    for (name, seed), run in _runs(scripts, 0.1).items():
        scripts.run.write_run(run, tmp_path / f"{name}-{seed}.json")
    assert len(scripts.comparison.read_runs(tmp_path)) == 7
    path = tmp_path / "annealed-2.json"
    good = read_json(path)
    for key, value in (("heldout", "another"), ("recipe", "0" * 16), ("steps", 48)):
        path.write_text(json.dumps({**good, key: value}))
        with pytest.raises(ConfigError, match="annealed-2"):
            scripts.comparison.read_runs(tmp_path)


# Runs

ALPHABETS = {"eng_Latn": 0x61, "ell_Grek": 0x3B1, "rus_Cyrl": 0x430, "hye_Armn": 0x561, "kat_Geor": 0x10D0}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Text of random words in five languages, the first largest; two are drawn from the start and three from extend."""
    folder = tmp_path_factory.mktemp("text")
    chance = random.Random(5)
    for place, (code, first) in enumerate(ALPHABETS.items()):
        words = ["".join(chr(first + chance.randrange(24)) for _ in range(chance.randint(2, 7))) for _ in range(60)]
        for part, number in (("corpus", 60 - 8 * place), ("heldout", 6)):
            path = folder / part / f"{code}.jsonl"
            path.parent.mkdir(exist_ok=True)
            texts = [" ".join(chance.choices(words, k=90)) for _ in range(number)]
            rows = [json.dumps({"id": f"{part}-{code}-{n}", "text": text}) for n, text in enumerate(texts)]
            path.write_text("\n".join(rows) + "\n")
    return [
        f"sources.corpus.path={folder}/corpus", f"sources.corpus.heldout={folder}/heldout",
        "cleaning={max_repetition: 1}", "tokenizer={vocab_size: 512, sample_characters: 100k}",
        "model={hidden_size: 16, intermediate_size: 16, num_layers: 2, num_heads: 2, window: 16}",
        "phases.pretrain.data.languages=2", "phases.extend.data.languages=3",
        "evaluation={pairs_per_language: 0, context: 64, tokens_per_language: 500}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(scripts: Any, overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("work")
    found = {}
    shared = scripts.run.prepare(scripts.configurations.recipe("annealed", 0, overrides, 14), work)
    for name in ("annealed", "ties", "all-0.3"):
        recipe, folder = scripts.configurations.recipe(name, 1, overrides, 14), work / "seed-1" / name
        scripts.run.train(recipe, folder, shared)
        path = work / "runs" / f"{name}-1.json"
        scripts.run.write_run(scripts.run.measure(recipe, folder, shared), path)
        assert scripts.run.is_made(path, recipe, shared)
        assert not scripts.run.is_made(path, scripts.configurations.recipe(name, 2, overrides, 14), shared)
        found[name] = read_json(path)
    return work, found


def test_runs_leave_what_the_summary_reads(scripts: Any, made: tuple[Path, dict[str, Any]]) -> None:
    found = made[1]
    for name, run in found.items():
        assert run["tokens"] == 14 * 4096, name
        tiers = {code: row[0] for code, row in run["languages"].items()}
        assert Counter(tiers.values()) == {"pretrain": 2, "extend": 1, "decay_all": 2}
        # <bos>, <eos> and a few empty places are not text.
        assert 0.9 * run["tokens"] < sum(row[3] for row in run["languages"].values()) < run["tokens"]
        assert [point["tokens"] for point in run["curve"]] == sorted({point["tokens"] for point in run["curve"]})
        assert set(run["curve"][-1]["sample"]) == {code for code, tier in tiers.items() if tier == "decay_all"}
    assert {run["heldout"] for run in found.values()} == {found["annealed"]["heldout"]}
    for code, (bits, seen) in found["annealed"]["curve"][-1]["sample"].items():
        assert found["annealed"]["languages"][code][1] == pytest.approx(bits, abs=1e-3)
        assert found["annealed"]["languages"][code][3] == seen
    early, late = (found[name]["curve"][0]["sample"].values() for name in ("all-0.3", "annealed"))
    assert all(seen > 0 for _, seen in early)
    assert all(seen == 0 for _, seen in late)
    assert found["ties"]["before_merge"] != found["ties"]["tiers"]
    assert found["annealed"]["before_merge"] is None
    runs = {(name, 1): run for name, run in found.items()}
    rows = scripts.comparison.equal_exposure(runs, "annealed", "all-0.3")
    assert rows
    assert all(row.early_tokens < row.late_tokens for row in rows[:3])
    page = scripts.summary.page(runs, scripts.comparison.differences(runs), rows, ["tiers", "tokens", "exposure"])
    assert "| `annealed` | `all-0.3` | 1 |" in page


def test_a_borrowed_phase_is_the_same_as_a_trained_one(
    scripts: Any, overrides: list[str], made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    work = made[0]
    recipe = scripts.configurations.recipe("ties", 1, overrides, 14)
    shared = scripts.run.prepare(scripts.configurations.recipe("annealed", 0, overrides, 14), work)
    alone = tmp_path / "seed-1" / "ties"
    scripts.run.train(recipe, alone, shared)
    assert not scripts.run.borrow(recipe, "pretrain", alone)
    for phase in ("extend", "decay_all", "decay_eng"):
        ends = [checkpoint.latest(folder / phase) for folder in (alone, work / "seed-1" / "ties")]
        one, other = (load_file(end / "model.safetensors") for end in ends if end is not None)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    states = [
        checkpoint.read_state(checkpoint.latest(work / "seed-1" / name / "extend")) for name in ("ties", "annealed")
    ]
    assert states[0].recipe != states[1].recipe
    assert replace(states[0], recipe="", meters={}) == replace(states[1], recipe="", meters={})
