"""The runner: every kind on rows that the tests make, caches, resuming, baselines, chains of fine-tunings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from little_tasks import LANGUAGES, write_all, write_rows
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import mmbert
from mmbert.cli.main import app
from mmbert.errors import ConfigError, DataError, MMBertError, WeightsError
from mmbert.evaluation import ngram_baseline, systems, tuning_chain
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.summary import Figure, SuiteResult
from mmbert.evaluation.task import Task
from mmbert.files import read_checked_json, write_checked_json
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer

QUICK = {"max_steps": 2, "batch": 4, "max_tokens": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model, as small as can be."""
    place = tmp_path_factory.mktemp("models") / "little"
    torch.manual_seed(1)  # not the seed of fresh weights
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        max_context=128,
    )  # fmt: skip
    MaskedLM(shape).save(place)
    tokenizer.save(place, max_tokens=128)
    return place


def suite(data: Path, tasks: dict[str, Any], **more: Any) -> Suite:
    return Suite.model_validate({"name": "mine", "data": str(data), "tasks": tasks, "training": QUICK, **more})


ALL = {
    "sib200": {},
    "jsts": {},
    "masakhaner": {"train_languages": ["swh_Latn"], "per_language": False},
    "xquad": {"start": "jsquad"},
    "xcopa": {"start": "pretrained", "train": True, "per_language": True},
    "tatoeba": {},
    "loss": {},
}


@pytest.fixture(scope="module")
def judged(data: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SuiteResult, Path]:
    out = tmp_path_factory.mktemp("results")
    return mmbert.evaluate(folder, suite(data, ALL), out=out, baselines=["characters"]), out


def test_every_kind_is_scored(judged: tuple[SuiteResult, Path]) -> None:
    model, characters = judged[0].columns
    assert set(model.tasks) == set(ALL)
    assert set(characters.tasks) == set(ALL) - {"loss"}
    assert set(model.tasks["sib200"].languages) == set(LANGUAGES)
    assert model.tasks["sib200"].covered == (3, 199)
    for name, summary in model.tasks.items():
        mean = sum(figure.mean for figure in summary.languages.values()) / len(summary.languages)
        assert summary.figure.mean == pytest.approx(mean), name


def test_what_characters_tell(judged: tuple[SuiteResult, Path]) -> None:
    """The rows are made so that spelling is enough: the way from rows to scores is right."""
    tasks = judged[0].columns[1].tasks
    assert tasks["sib200"].figure.mean == 1
    assert tasks["masakhaner"].figure.mean == 1
    assert tasks["masakhaner"].others["span_f1"] == 1
    assert tasks["xcopa"].figure.mean == 1
    assert tasks["jsts"].figure.mean > 0.7
    assert tasks["tatoeba"].figure.mean > 0.9
    assert tasks["xquad"].figure.mean > 0.3


def test_character_unigrams_see_no_order() -> None:
    """What n-grams tell apart by order alone has the same unigrams."""
    sib200, pos = Task.load("sib200"), Task.load("masakhapos")
    texts = [{"text": text, "label": label} for text, label in (("abab", "x"), ("baba", "y")) for _ in range(4)]
    words = [{"tokens": ["on", "no"], "tags": ["ADP", "INTJ"]}] * 8
    assert ngram_baseline.fit(sib200, texts)(texts) == [row["label"] for row in texts]
    assert len(set(ngram_baseline.fit(sib200, texts, feature_set=ngram_baseline.UNIGRAMS)(texts))) == 1
    assert ngram_baseline.fit(pos, words)(words[:1])[0].labels == ["ADP", "INTJ"]
    assert len(set(ngram_baseline.fit(pos, words, feature_set=ngram_baseline.UNIGRAMS)(words[:1])[0].labels)) == 1


def test_a_model_learns(folder: Path, data: Path, tmp_path: Path) -> None:
    """Fine-tuned in one language, right in another: labels, heads and words are where they belong."""
    longer = {**QUICK, "max_steps": 40, "batch": 12, "learning_rate": 5e-3}
    tasks = {"sib200": {"languages": ["swh_Latn"]}, "masakhaner": {**ALL["masakhaner"], "languages": ["hau_Latn"]}}
    (model,) = mmbert.evaluate(folder, suite(data, tasks, training=longer), out=tmp_path).columns
    assert model.tasks["sib200"].figure.mean == 1
    assert model.tasks["masakhaner"].figure.mean > 0.9
    assert model.tasks["masakhaner"].others["span_f1"] > 0.9


def test_nothing_is_computed_again(
    judged: tuple[SuiteResult, Path], data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = judged
    monkeypatch.setattr(tuning_chain, "finetune", None)  # calling it would fail
    monkeypatch.setattr(systems, "predict", None)
    again = mmbert.evaluate(folder, suite(data, ALL), out=out, baselines=["characters"])
    assert again.columns == result.columns


def test_what_was_stopped_goes_on(
    judged: tuple[SuiteResult, Path], data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = judged
    (path,) = (out / result.columns[0].weights).glob("sib200@local-*.json")
    whole = read_checked_json(path)
    (run,) = whole["runs"].values()
    del run["scores"]["swh_Latn"]
    write_checked_json(path, whole)
    asked = []
    real = systems.predict

    def counted(task: Any, model: Path, rows: Any) -> Any:
        asked.append(rows[0]["language"])
        return real(task, model, rows)

    monkeypatch.setattr(systems, "predict", counted)
    again = mmbert.evaluate(folder, suite(data, {"sib200": {}}), out=out)
    assert asked == ["swh_Latn"]
    assert again.columns[0].tasks["sib200"].languages == result.columns[0].tasks["sib200"].languages


def test_another_protocol_is_another_run(judged: tuple[SuiteResult, Path], data: Path, folder: Path) -> None:
    result, out = judged
    (path,) = (out / result.columns[0].weights).glob("sib200@local-*.json")
    before = json.loads(path.read_text())["runs"]
    other = suite(data, {"sib200": {"languages": ["eng_Latn"], "training": {"max_steps": 1}}})
    mmbert.evaluate(folder, other, out=out)
    after = json.loads(path.read_text())["runs"]
    assert before.items() < after.items()
    assert len(after) == len(before) + 1


def test_other_rows_are_another_revision(data: Path, folder: Path, tmp_path: Path) -> None:
    mine = write_all(tmp_path / "data")
    tasks = {"tatoeba": {"languages": ["fao_Latn"]}}
    mmbert.evaluate(folder, suite(mine, tasks), out=tmp_path / "out")
    rows = [{"text": "a", "english": "b"}, {"text": "c", "english": "d"}]
    write_rows(mine / "tatoeba" / "fao_Latn" / "test.jsonl", rows)
    (column,) = mmbert.evaluate(folder, suite(mine, tasks), out=tmp_path / "out").columns
    assert column.tasks["tatoeba"].rows == {"fao_Latn": 2}
    assert len(list((tmp_path / "out" / column.weights).glob("tatoeba@*.json"))) == 2


def test_seeds_give_mean_and_spread(folder: Path, data: Path, tmp_path: Path) -> None:
    (column,) = mmbert.evaluate(
        folder, suite(data, {"jsts": {}}, seeds=[1, 2], grid={"learning_rate": [1e-5, 1e-2]}), out=tmp_path
    ).columns
    summary = column.tasks["jsts"]
    assert summary.seeds == (1, 2)
    assert summary.figure.spread is not None
    (path,) = (tmp_path / column.weights).glob("jsts@*.json")
    runs = json.loads(path.read_text())["runs"].values()
    means = {}
    for run in runs:
        rate = run["protocol"]["trained"]["training"]["learning_rate"]
        means.setdefault(rate, []).append(run["scores"]["jpn_Jpan"]["scores"]["spearman"])
    best = max(means, key=lambda rate: sum(means[rate]))
    assert summary.setting["learning_rate"] == best, "of a grid the best is shown"
    assert summary.figure == Figure.of(means[best])


def test_a_model_starts_from_another_task(judged: tuple[SuiteResult, Path]) -> None:
    result, out = judged
    tuned = {path.name.rpartition("-")[0] for path in (out / result.columns[0].weights / "models").iterdir()}
    assert "jsquad" in tuned
    assert "xquad" not in tuned, "scored as its start left it"


def test_untrained(folder: Path, data: Path, tmp_path: Path) -> None:
    tasks = {"tatoeba": {"languages": ["fao_Latn"]}}
    model, untrained = mmbert.evaluate(folder, suite(data, tasks), out=tmp_path, baselines=["untrained"]).columns
    assert untrained.name == "untrained"
    assert untrained.weights != model.weights
    fresh = MaskedLM.load(tmp_path / "untrained" / model.weights)
    assert fresh.config == MaskedLM.load(folder).config
    again = mmbert.evaluate(folder, suite(data, tasks), out=tmp_path, baselines=["untrained"]).columns[1]
    assert again.weights == untrained.weights


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"sib200": {"train_languages": ["fao_Latn"]}}, r"fao_Latn has no training rows .*eng_Latn, swh_Latn"),
        ({"sib200": {"languages": ["deu_Latn"]}}, r"deu_Latn has no test part .*eng_Latn, fao_Latn, swh_Latn"),
        ({"jcommonsenseqa": {}}, r"jcommonsenseqa is not there: set data=DIR"),
    ],
)
def test_missing_data(folder: Path, data: Path, tmp_path: Path, tasks: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        mmbert.evaluate(folder, suite(data, tasks), out=tmp_path)


@pytest.mark.parametrize(
    ("task", "language", "row", "said"),
    [
        ("sib200", "eng_Latn", {"text": "a ball"}, r"no column for 'label'"),
        ("sib200", "eng_Latn", {"text": " ", "label": "sports"}, r"column 'text' is empty"),
        ("xquad", "deu_Latn", {"question": "q", "context": "c", "answers": {"text": []}}, r"answers hold no text"),
        ("xcopa", "tha_Thai", {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 2},
         r"label 2 is no place among 2 choices"),
        ("masakhaner", "hau_Latn", {"tokens": ["a", "b"], "tags": ["O"]}, r"2 tokens and 1 tags"),
    ],
)  # fmt: skip
def test_malformed_rows(folder: Path, tmp_path: Path, task: str, language: str, row: dict[str, Any], said: str) -> None:
    data = write_all(tmp_path / "data")
    path = data / task / language / "test.jsonl"
    write_rows(path, [row])
    with pytest.raises(DataError, match=said) as caught:
        mmbert.evaluate(folder, suite(data, {task: ALL[task]}), out=tmp_path / "out")
    assert f"{path}:1" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "language", "rows", "said"),
    [
        ("tatoeba", "fao_Latn", [{"text": "a", "english": "b"}], r"1 sentences, and one finds its own translation"),
        ("jsts", "jpn_Jpan", [{"sentence1": "a", "sentence2": "b", "score": 1.0}] * 2,
         r"all 2 examples have the value 1\.0"),
        ("masakhaner", "hau_Latn", [{"tokens": ["a", "b"], "tags": ["O", "O"]}], r"none of the 1 texts has one"),
    ],
)  # fmt: skip
def test_an_evaluation_on_nothing_says_so(
    folder: Path, tmp_path: Path, task: str, language: str, rows: list[dict[str, Any]], said: str
) -> None:
    data = write_all(tmp_path / "data")
    write_rows(data / task / language / "test.jsonl", rows)
    tasks = {task: ALL[task] if task == "jsts" else {**ALL[task], "languages": [language]}}
    with pytest.raises(DataError, match=rf"^{task}: .*{said}"):
        mmbert.evaluate(folder, suite(data, tasks), out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob(f"{task}@*.json"))


def test_other_metrics_without_a_value_are_left_out(folder: Path, tmp_path: Path) -> None:
    """One class only: accuracy is known, Matthews' correlation is not."""
    data = write_all(tmp_path / "data")
    write_rows(data / "sib200" / "eng_Latn" / "test.jsonl", [{"text": "a ball", "label": "sports"}] * 3)
    tasks = {"sib200": {"languages": ["eng_Latn"]}}
    (column,) = mmbert.evaluate(folder, suite(data, tasks), out=tmp_path / "out").columns
    assert "matthews" not in column.tasks["sib200"].others
    assert "weighted_f1" in column.tasks["sib200"].others


@pytest.mark.parametrize("task", ["tatoeba", "sib200", "jsts", "loss"])
def test_nan_of_a_model_is_no_result(tokenizer: Tokenizer, data: Path, folder: Path, tmp_path: Path, task: str) -> None:
    """A model that overflows on one word, which stands in the rows that are scored."""
    shutil.copytree(folder, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    for token in tokenizer.encode("goal bird rain")[1:-1]:
        state["model.embeddings.tok_embeddings.weight"][token] = torch.tensor([3e38, -3e38] * 16)
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MMBertError, match=r"NaN|nan|not finite|infinite"):
        mmbert.evaluate(tmp_path / "model", suite(data, {task: {}}), out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob(f"{task}@*.json"))


def test_wrong_requests(folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of untrained, characters"):
        mmbert.evaluate(folder, suite(data, {"tatoeba": {}}), out=tmp_path, baselines=["random"])
    with pytest.raises(WeightsError, match="no such model folder"):
        mmbert.evaluate(tmp_path / "nowhere", suite(data, {"tatoeba": {}}), out=tmp_path)
    with pytest.raises(DataError, match="no folder"):
        mmbert.evaluate(folder, suite(tmp_path / "nothing", {"tatoeba": {}}), out=tmp_path)


def test_command(folder: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "suite.yaml"
    recipe.write_text("name: mine\ntasks: [tatoeba]\n")
    arguments = ["evaluate", str(folder), str(recipe), f"data={data}", "--baseline", "characters", "--out", "out"]
    with pytest.MonkeyPatch.context() as place:
        place.chdir(tmp_path)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "| Tatoeba | accuracy | 2 of 112 |" in done.stdout
    kept = {path.name for path in (tmp_path / "out" / "mine").iterdir()}
    assert kept == {"scores.md", "scores.tex", "scores.json"}
