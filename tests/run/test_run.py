"""The whole recipe, in seconds: every stage runs, leaves what it promises, and is not run twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmbert import MaskedLM, Recipe, Tokenizer, run
from mmbert.evaluation.results import MERGED, read_models
from mmbert.files import read_json
from mmbert.pipeline import RunResult

RECIPE = """
name: little
sources: {{words: {{kind: jsonl, path: {folder}/text}}}}
cleaning: {{holdout: 0.1, max_repetition: 1}}
tokenizer: {{vocab_size: 600, sample_characters: 200k}}
model: {{hidden_size: 32, intermediate_size: 32, num_layers: 4, num_heads: 2, window: 16, initializer_range: 0.1}}
phases:
  pretrain: &phase
    tokens: 8192
    data: {{languages: 1, temperature: 0.7, max_epochs: null}}
    context: 64
    mask_rate: 0.3
    batch: 1024
    micro_batch: 512
    peak_lr: 1e-2
  extend: {{<<: *phase, follows: pretrain, data: {{languages: 2, temperature: 0.5, max_epochs: null}}}}
  decay_all: &decay
    <<: *phase
    follows: extend
    mask_rate: 0.15
    data: {{temperature: 0.3, max_epochs: null}}
    decay: {{floor: 0.02}}
  decay_eng: {{<<: *decay, data: {{languages: 2, temperature: 0.3, max_epochs: null, fixed: {{eng: 0.7}}}}}}
merge: {{base: extend, phases: {{decay_all: 1, decay_eng: 1}}}}
evaluation: {{context: 64, tokens_per_language: 1000, parallel: {folder}/parallel, pairs_per_language: 20}}
runtime: {{checkpoint_every: 4096, threads: 1}}
"""

WORDS = {
    language: line.split()
    for language, line in {
        "eng_Latn": "the cat sat on a warm red mat and saw the old dog run far from home at night",
        "swh_Latn": "paka alikaa juu ya mkeka mwekundu na kuona mbwa mzee akikimbia mbali na nyumbani usiku",
        "ell_Grek": "η γάτα κάθισε πάνω στο κόκκινο χαλί και είδε τον γέρο σκύλο να τρέχει μακριά",
    }.items()
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    folder = tmp_path_factory.mktemp("little")
    chance = random.Random(0)
    for number, (language, words) in enumerate(WORDS.items()):
        rows = [{"id": f"{n}", "text": " ".join(chance.choices(words, k=40))} for n in range(150 - 40 * number)]
        _write(folder / "text" / f"{language}.jsonl", rows)
        pairs = [{"id": f"{n}", "text": words[n], "english": WORDS["eng_Latn"][n]} for n in range(13)]
        _write(folder / "parallel" / language / "test.jsonl", pairs)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(folder=folder))
    threads = torch.get_num_threads()
    yield Recipe.load(path)
    torch.set_num_threads(threads)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(recipe, out=tmp_path_factory.mktemp("runs") / "little")


def test_every_stage_leaves_its_files(recipe: Recipe, finished: RunResult) -> None:
    folder = finished.folder
    assert Recipe.load(folder / "recipe.yaml") == recipe
    assert list(read_models(folder / "evaluation")) != []
    assert set(read_models(folder / "evaluation")) == {*recipe.phases, MERGED}
    assert {"precision", "versions"} <= set(read_json(folder / "environment.json"))
    drawn = read_json(folder / "mixture.json")
    assert [len({stream["language"] for stream in drawn[phase]}) for phase in recipe.phases] == [1, 2, 3, 2]
    assert finished.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (finished.model / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_it_learned(finished: RunResult) -> None:
    """Far below a model that gives every token the same probability, in the languages of every phase."""
    for language, loss in finished.evaluation.losses.items():
        if language != "ell_Grek":  # seen in one of the decays alone
            assert loss.nats / loss.tokens < 5.0, language


def test_finished_stages_are_skipped(recipe: Recipe, finished: RunResult) -> None:
    def state() -> dict[str, int]:
        files = (path for path in finished.folder.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".tokens"))
        return {str(path): path.stat().st_mtime_ns for path in files}

    before = state()
    again = run(recipe, out=finished.folder)
    assert again.evaluation == finished.evaluation
    assert state() == before


def test_the_final_folder_loads_elsewhere(finished: RunResult) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    text = "the cat sat on a warm <mask> mat"
    model, tokenizer = MaskedLM.load(finished.model).eval(), Tokenizer.load(finished.model)
    theirs = AutoModelForMaskedLM.from_pretrained(finished.model).eval()
    inputs = AutoTokenizer.from_pretrained(finished.model)(text, return_tensors="pt")
    packed = tokenizer.pack([text], specials=True).to("cpu")
    assert inputs["input_ids"][0].tolist() == packed.ids.tolist()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(**inputs).logits[0], model.logits(packed), atol=1e-4, rtol=1e-4)
        mean = model.encode(packed).mean(0)
    vector = SentenceTransformer(str(finished.model), device="cpu").encode(text, convert_to_tensor=True)
    torch.testing.assert_close(vector, mean, atol=1e-4, rtol=1e-4)


def test_the_order_of_phases_is_their_tree(recipe: Recipe) -> None:
    assert recipe.order() == ["pretrain", "extend", "decay_all", "decay_eng"]
