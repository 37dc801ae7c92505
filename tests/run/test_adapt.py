"""The recipe ``adapt`` in seconds, on Django's own translations: a model of three languages learns two more."""

from __future__ import annotations

import gettext
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmbert import MaskedLM, Recipe, recipe_names, run
from mmbert.errors import TokenizerError, TrainingError, WeightsError
from mmbert.evaluation.results import read_models
from mmbert.files import read_json
from mmbert.pipeline import RunResult, merge_phases
from mmbert.reporting.adaptation import adaptation_groups
from mmbert.reporting.record import read_record
from mmbert.surgery.average import average
from mmbert.training.pretrain import pretrain
from ties_in_memory import ties

ADAPT = recipe_names.RECIPES / "adapt.yaml"
KNOWN = {"deu_Latn": "de", "spa_Latn": "es", "fra_Latn": "fr"}
NEW = {"ell_Grek": "el", "kat_Geor": "ka"}
START = """
name: start
sources: {{known: {{kind: jsonl, path: {folder}/known}}}}
cleaning: {{holdout: 0.2, max_repetition: 1}}
tokenizer: {{vocab_size: 600, sample_characters: 200k}}
model: {{hidden_size: 32, intermediate_size: 32, num_layers: 4, num_heads: 2, window: 16, initializer_range: 0.1}}
phases:
  only:
    tokens: 40_960
    data: {{temperature: 0.7, max_epochs: null}}
    context: 128
    rope_theta: 20_000
    local_rope_theta: 5_000
    mask_rate: 0.2
    batch: 1024
    micro_batch: 512
    peak_lr: 1e-2
    decay: {{}}
evaluation: {{context: 64, tokens_per_language: 1500}}
runtime: {{threads: 1}}
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("text")
    spec = find_spec("django")
    assert spec is not None
    assert spec.origin is not None
    for part, languages in (("known", KNOWN), ("new", NEW)):
        for code, locale in languages.items():
            messages: list[str] = []
            for place in ("conf", "contrib/admin"):
                path = Path(spec.origin).parent / place / "locale" / locale / "LC_MESSAGES" / "django.mo"
                with path.open("rb") as file:
                    messages += [str(found) for found in gettext.GNUTranslations(file)._catalog.values()]  # type: ignore[attr-defined]
            lines = ["\n".join(messages[start : start + 8]) for start in range(0, len(messages), 8)]
            _write(folder / part / f"{code}.jsonl", lines)
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


def _write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"id": f"{number}", "text": text}, ensure_ascii=False) for number, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def start(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = text / "start.yaml"
    path.write_text(START.format(folder=text))
    return run(Recipe.load(path), out=tmp_path_factory.mktemp("runs") / "start").model


@pytest.fixture(scope="module")
def recipe(text: Path, start: Path) -> Recipe:
    return Recipe.load(ADAPT, _changes(text, start))


def _changes(text: Path, start: Path) -> list[str]:
    phase = ["tokens=16384", "warmup=2048", "batch=1024", "micro_batch=512", "context=64", "peak_lr=4e-3"]
    return [
        f"start={start}",
        f"sources.new.path={text}/new",
        f"sources.keep.path={text}/known",
        "cleaning={holdout: 0.2, max_repetition: 1}",
        *(f"phases.teach.{change}" for change in phase),
        "phases.teach.data.max_epochs=null",
        "evaluation.context=64",
        "evaluation.tokens_per_language=1500",
        "runtime.threads=1",
    ]


@pytest.fixture(scope="module")
def adaptation(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(recipe, out=tmp_path_factory.mktemp("runs") / "adapt")


def test_the_run_keeps_the_resolved_recipe(recipe: Recipe, start: Path, adaptation: RunResult) -> None:
    assert (recipe.model, recipe.tokenizer) == (None, None)
    resolved = Recipe.load(adaptation.folder / "recipe.yaml")
    theirs = MaskedLM.load(start).config
    assert resolved.shape.hidden_size == 32
    assert resolved.shape.vocab_size == theirs.vocab_size
    assert resolved.tokenizer == str(start)
    phase = resolved.phases["teach"]
    assert (phase.rope_theta, phase.local_rope_theta) == (20_000, 5_000)


def test_the_model_is_as_the_start_but_for_its_weights(start: Path, adaptation: RunResult) -> None:
    theirs, ours = MaskedLM.load(start).config, MaskedLM.load(adaptation.model).config
    assert ours == theirs  # also the longest sequence, which is more than the context taught with
    assert (adaptation.model / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()


def test_new_languages_gain(adaptation: RunResult) -> None:
    models = read_models(adaptation.folder / "evaluation")
    assert set(models) == {"start", "teach", "merged"}
    new, kept = adaptation_groups(read_record(adaptation.folder))
    assert (set(new.languages), set(kept.languages)) == (set(NEW), set(KNOWN))
    assert all(change > 0.05 for change in new.changes.values())
    assert new.change("teach") > 0.1


def test_report_and_card_show_before_and_after(adaptation: RunResult) -> None:
    card = (adaptation.model / "README.md").read_text(encoding="utf-8")
    page = adaptation.report.read_text(encoding="utf-8")
    for text in (card, page):
        assert "Before and after" in text
        assert "kat_Geor" in text
        assert "2 new languages" in text
    assert "base_model" not in card  # a folder here means nothing elsewhere
    assert "annealed" not in card


def test_the_average_is_the_formula(adaptation: RunResult) -> None:
    weights = {"teach": 0.5, "start": 0.5}
    found, begun, after = (
        _flat(adaptation.model),
        _flat(adaptation.folder / "start"),
        _flat(adaptation.folder / "teach" / "final"),
    )
    for name, tensor in found.items():
        assert torch.equal(tensor, average([after[name], begun[name]], list(weights.values()))), name
        assert not torch.equal(after[name], begun[name]), name
    report = read_json(adaptation.folder / "merge" / "report.json")
    assert report["total"]["distance"][1] == 0  # the start from itself


def test_ties_with_the_start_is_the_formula(text: Path, start: Path, adaptation: RunResult, tmp_path: Path) -> None:
    change = "merge={method: ties, base: start, phases: {teach: 1}, density: 0.4, scale: 0.7, trim: tensor}"
    recipe = Recipe.load(ADAPT, [*_changes(text, start), change])
    merge_phases(recipe, adaptation.folder, tmp_path / "out")
    found, begun, after = (
        _flat(tmp_path / "out"),
        _flat(adaptation.folder / "start"),
        _flat(adaptation.folder / "teach/final"),
    )
    for name, tensor in found.items():
        expected = ties(begun[name], [after[name]], density=0.4, scale=0.7)
        assert torch.equal(tensor, expected), name
        assert int((tensor != begun[name]).sum()) <= 0.4 * tensor.numel() + 1
    (adaptation.folder / "merge" / "inputs.json").unlink()  # of the other merge


def _flat(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def test_the_copy_of_the_start_is_the_start(start: Path, adaptation: RunResult) -> None:
    ours, theirs = _flat(adaptation.folder / "start"), _flat(start)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_refused(text: Path, start: Path, adaptation: RunResult, tmp_path: Path) -> None:
    changes = _changes(text, start)

    def refused(kind: type[Exception], says: str, *more: str) -> None:
        with pytest.raises(kind, match=says) as caught:
            run(Recipe.load(ADAPT, [*changes, *more]), out=tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refused(WeightsError, "start: no such model folder: ./gone", "start=./gone")
    refused(WeightsError, "config.json", f"start={text}")
    model = "{hidden_size: 64, intermediate_size: 32, num_layers: 4, num_heads: 2, window: 16}"
    refused(WeightsError, "has hidden_size 32, the recipe's model 64: leave `model` out", f"model={model}")


def test_another_tokenizer_is_refused(text: Path, start: Path, adaptation: RunResult, tmp_path: Path) -> None:
    changes = [*_changes(text, start), "tokenizer={vocab_size: 512, sample_characters: 50k}"]
    with pytest.raises(TokenizerError, match=r"is not that of its start .*: leave `tokenizer` out") as caught:
        run(Recipe.load(ADAPT, changes), out=tmp_path / "trained")
    assert "\n" not in str(caught.value)
    # shards made with another tokenizer, named by a recipe that has the start's
    foreign = [*_changes(text, start), f"shards={tmp_path / 'trained' / 'data'}"]
    theirs = (tmp_path / "trained" / "data" / "tokenizer" / "tokenizer.json").read_bytes()
    with pytest.raises(TokenizerError, match=r"the shards in .* were made with tokenizer"):
        run(Recipe.load(ADAPT, foreign), out=tmp_path / "foreign")
    assert (tmp_path / "trained" / "data" / "tokenizer" / "tokenizer.json").read_bytes() == theirs
    with pytest.raises(TokenizerError, match="were made with tokenizer"):
        pretrain(Recipe.load(ADAPT, foreign), tmp_path / "foreign", tmp_path / "trained" / "data")
    with pytest.raises(TrainingError, match="final is not there, and the merge needs it"):
        merge_phases(Recipe.load(ADAPT, foreign), tmp_path / "foreign", tmp_path / "foreign" / "final")


def test_nothing_is_done_twice(recipe: Recipe, adaptation: RunResult) -> None:
    def state() -> dict[str, int]:
        files = (path for path in adaptation.folder.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".tokens"))
        return {str(path): path.stat().st_mtime_ns for path in files if "final" not in path.parent.name}

    before = state()
    assert run(recipe, out=adaptation.folder).evaluation.losses == adaptation.evaluation.losses
    assert state() == before
