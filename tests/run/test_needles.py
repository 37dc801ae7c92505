"""The needle test of docs/results/long-context: what its texts and its masked copies must hold."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbert.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "long-context"


@pytest.fixture(scope="module")
def script() -> Any:
    """Import the script under a name of its own."""
    spec = importlib.util.spec_from_file_location("needle_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_quoting_text_says_each_passage_twice(script: Any) -> None:
    words = [f"w{number}" for number in range(50_000)]
    for seed in range(20):
        lines = script.quoting(words, script.LONG, 3, np.random.default_rng(seed)).split("\n")
        twice = {line for line in lines if lines.count(line) == 2}
        assert len(twice) == 3
        assert all(script.PASSAGE <= len(line) + 1 < script.PASSAGE + 7 for line in twice)
        rest = " ".join(line for line in lines if line not in twice).split()
        assert [int(word[1:]) for word in rest] == list(range(int(rest[0][1:]), int(rest[0][1:]) + len(rest)))


@pytest.mark.parametrize("clue", [True, False])
def test_the_masked_tokens_are_those_of_the_clue(
    script: Any, clue: bool, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "LANGUAGES", ("eng_Latn", "fra_Latn"))
    rng = np.random.default_rng(0)
    for language in script.LANGUAGES:
        with gzip.open(tmp_path / f"{language}.jsonl.gz", "wt") as file:
            for _ in range(40):
                file.write(json.dumps({"text": " ".join(map(str, rng.integers(0, 10**6, 60)))}) + "\n")
    distance = 448
    mask = script.load(heads / "masks", precision="plain").tokenizer.mask_id
    for packed in script.needles(heads / "masks", tmp_path, distance, clue=clue):
        assert np.diff(packed.offsets).tolist() == [script.WHOLE] * script.NEEDLES
        assert (packed.ids[packed.targets] == mask).all()
        assert (packed.ids == mask).sum() == len(packed.targets) > script.NEEDLES
        same = packed.ids[packed.targets - distance] == packed.labels
        assert same.all() if clue else same.mean() < 0.5


def test_the_extension_is_the_recipe_in_small() -> None:
    small, recipe = Recipe.load(FOLDER / "extended.yaml").phases["extend"], Recipe.load("extend-32k").phases["extend"]
    assert small.rope is not None
    assert recipe.rope is not None
    assert (small.rope.rope_type, small.rope.factor) == (recipe.rope.rope_type, recipe.rope.factor)
    assert (small.data, small.mask_rate, small.decay) == (recipe.data, recipe.mask_rate, recipe.decay)
    assert small.context == small.rope.factor * small.rope.original_max_position_embeddings
