"""Declarations of tasks and suites: all that ship can be read, and what is wrong is named with its fix."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import declared_sets
import pytest

import mmbert
from mmbert import recipe_names
from mmbert.errors import ConfigError
from mmbert.evaluation.published import AVERAGE, PRINTED, published
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.task import Task, task_names
from mmbert.finetuning.recipe import FinetuneRecipe

ROOT = Path(mmbert.__file__).parents[2]
SUITES = sorted((recipe_names.RECIPES / "evaluate").glob("*.yaml"))
FINETUNE = sorted((recipe_names.RECIPES / "finetune").glob("*.yaml"))

GLUE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"}
XTREME = {"xnli", "pawsx", "xcopa", "xquad", "mlqa", "tydiqa", "wikiann", "udpos"}

GOOD = """\
name: mine
title: Mine
kind: classify
source: {local: mine}
languages: [eng_Latn, swh_Latn]
metric: accuracy
licence: CC0
citation: mine
"""


@pytest.mark.parametrize("name", task_names())
def test_every_declaration_can_be_read(name: str) -> None:
    task = Task.load(name)
    assert task.name == name, "a task is found by the name of its file"
    if task.source.revision is not None:
        assert task.source.hub is not None


def test_the_tasks_of_the_paper_are_there() -> None:
    others = {"foqa", "tiquad", "sib200", "tatoeba", "afrisenti", "masakhaner", "masakhapos", "afriqa"}
    assert GLUE | XTREME | others | {"mteb-english", "mteb-multilingual", "coir", "loss", "efficiency"} <= {
        *task_names()
    }
    assert all(Task.load(name).protocol.start == "mnli" for name in ("rte", "mrpc", "stsb", "xnli"))
    assert len(Task.load("wikiann").average) == 40
    assert len(Task.load("xnli").languages) == 15


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_can_be_read(path: Path) -> None:
    suite = Suite.load(path)
    assert suite.name == path.stem
    if suite.published is not None:
        assert published(suite.published)


def test_starts_are_chained() -> None:
    suite = Suite.model_validate({"name": "x", "tasks": {"xcopa": {}, "mlqa": {}, "rte": {}}})
    assert suite.chain("xcopa") == ["siqa", "copa"]
    assert suite.chain("mlqa") == ["squad"]
    assert suite.chain("rte") == ["mnli"]


def test_a_suite_changes_a_task() -> None:
    change = {"train_languages": ["swh_Latn"], "training": {"epochs": 1}, "limit": 7}
    suite = Suite.model_validate(
        {"name": "x", "tasks": {"sib200": change}, "training": {"epochs": 2, "batch": 8}, "limit": 5}
    )
    task = suite.task("sib200")
    assert task.protocol.train_languages == ("swh_Latn",)
    assert (task.protocol.training["epochs"], task.protocol.training["batch"]) == (1, 8)
    assert task.limit == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("metric: accuracy", "metric: matthew"), "metric matthew is none of accuracy, macro_f1"),
        (("metric: accuracy", "metric: binary_f1"), "say which in positive"),
        (("languages: [eng_Latn, swh_Latn]", "languages: {eng_Latn: en, swa_Latn: sw}"), "write swh_Latn: sw"),
        (("languages: [eng_Latn, swh_Latn]", "languages: [eng_Latn, swhh_Latn]"), "swhh"),
        (("source: {local: mine}", "source: {}"), "neither hub nor local"),
        (("source: {local: mine}", "source: {hub: a/b, revision: main}"), "a commit of 40 hexadecimal digits"),
        (("kind: classify", "kind: answer"), "metric accuracy is none of f1, exact"),
        (
            (
                "kind: classify\nsource: {local: mine}\nlanguages: [eng_Latn, swh_Latn]\nmetric: accuracy",
                "kind: answer\nsource: {local: mine}\nlanguages: [eng_Latn, swh_Latn]\nmetric: f1_squad",
            ),
            "metric f1_squad is for another normalisation: write f1",
        ),
        (("kind: classify", "kind: clasify"), "kind"),
        (("licence: CC0\n", ""), "licence is missing"),
        (("citation: mine", "citations: mine"), "did you mean citation"),
        (("languages: [eng_Latn, swh_Latn]", "languages: [swh_Latn]"), "train_languages names eng_Latn"),
        (("title: Mine", "title: Mine\naverage: [fra_Latn]"), "average names fra_Latn"),
    ],
)
def test_malformed_declarations(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "mine.yaml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        Task.load(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    path.write_text(GOOD)
    assert Task.load(path).languages == {"eng_Latn": "eng_Latn", "swh_Latn": "swh_Latn"}


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("tasks: {sib20: {}}", "did you mean sib200"),
        ("tasks: {sib200: {languages: [eng_Latn, xxx_Latn]}}", "sib200 has no xxx_Latn"),
        ("tasks: {sib200: {train_language: [eng_Latn]}}", "did you mean train_languages"),
        ("tasks: {loss: {languages: [eng_Latn]}}", "loss declares no languages to choose from"),
        ("tasks: {mnli: {start: rte}}", "circle of starts"),
        ("tasks: {sib200: {start: squad}}", "no task of kind classify"),
        ("tasks: {}", "tasks"),
        ("tasks: {sib200: {}}\nseeds: []", "seeds"),
    ],
)
def test_malformed_suites(tmp_path: Path, suite: str, said: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"name: mine\n{suite}\n")
    with pytest.raises(ConfigError) as caught:
        Suite.load(path)
    assert said in str(caught.value)


def test_published_figures() -> None:
    glue = published("glue")
    assert glue["mmBERT-base"]["mnli"] == 87.7
    for figures in (*glue.values(), *published("xtreme").values()):
        tasks = [value for name, value in figures.items() if name not in (AVERAGE, PRINTED)]
        assert len(tasks) == 8
        assert figures[AVERAGE] == pytest.approx(sum(tasks) / 8, abs=0.06)
    assert set(glue["mmBERT-base"]) - {AVERAGE, PRINTED} == GLUE
    headline = {name: glue[name][PRINTED] for name in ("XLM-R base", "mmBERT-base", "ModernBERT base")}
    assert headline == {"XLM-R base": 83.3, "mmBERT-base": 86.3, "ModernBERT base": 87.4}
    assert all(0.4 <= round(each[AVERAGE] - each[PRINTED], 2) <= 1.06 for each in glue.values())
    with pytest.raises(ConfigError, match="published is one of glue, xtreme"):
        published("superglue")


@pytest.mark.parametrize("name", sorted(XTREME | {"squad", "mnli", "copa", "siqa"}))
def test_xtreme_is_done_as_the_paper_says(name: str) -> None:
    """Warm-up 6 % and batch 32 of all (section 4.1); the splits, means and metrics of the scripts it stands on."""
    task = Task.load(name)
    training = FinetuneRecipe.model_validate(
        {"name": "x", "task": task.kind, "model": "x", "data": {"train": {"path": "x"}},
         "training": task.protocol.training}
    ).training  # fmt: skip
    assert (training.warmup, training.batch) == (0.06, 32)
    if task.kind in ("answer", "tag"):
        assert (training.learning_rate, training.epochs) == ((3e-5, 3) if task.kind == "answer" else (2e-5, 10))
    parts = {"mnli": "validation_matched", "xquad": "validation", "squad": "validation", "copa": "validation"}
    assert task.source.splits.test == parts.get(name, "validation" if name == "siqa" else "test")
    usual = {"answer": "f1", "tag": "entity_f1"}.get(task.kind, "accuracy")
    assert task.metric == ("f1_squad" if name == "mlqa" else usual)


def test_the_mean_of_xquad_leaves_hindi_out() -> None:
    task = Task.load("xquad")
    assert set(task.languages) - set(task.average) == {"hin_Deva"}
    assert len(task.average) == 11


def test_every_set_of_the_hub_says_how_it_was_looked_up() -> None:
    tasks = [Task.load(name) for name in task_names()]
    notes = [task.source.checked for task in tasks if task.source.hub is not None]
    recipes = [FinetuneRecipe.load(path).data.train for path in FINETUNE]
    notes += [spec.checked or "" for spec in recipes if spec.hub is not None]
    assert len(notes) > 30
    assert all(re.match(r"20\d\d-\d\d-\d\d: ", note) for note in notes)
    assert all(spec.licence for spec in recipes if spec.hub is not None)


def test_no_declared_set_is_a_script() -> None:
    """Those that are known to be one are read from a copy, or from the hub's own; two have none but local files."""
    scripts = {"allenai/social_i_qa", "shmuhammad/AfriSenti-twitter-sentiment", "facebook/mlqa"}
    copied = {"masakhane/masakhaner2", "juletxara/tydiqa_xtreme"}
    sources = [Task.load(name).source for name in task_names()]
    specs = [FinetuneRecipe.load(path).data.train for path in FINETUNE]
    for source in (*sources, *specs):
        assert source.hub not in scripts
        assert (source.hub in copied) == (source.files is not None)
    assert all(Task.load(name).source.local == name for name in ("afriqa", "masakhapos"))


def test_copa_is_no_configuration_of_the_branch_that_social_iqa_is_read_at() -> None:
    train, dev = (FinetuneRecipe.load(FINETUNE[0].parent / "copa.yaml").data.split(role) for role in ("train", "dev"))
    assert train is not None
    assert dev is not None
    assert (train.hub, train.config, train.revision, dev.revision) == ("aps/super_glue", "copa", None, None)


def test_the_guide_has_the_table_of_today() -> None:
    """Written by ``python tests/evaluation/declared_sets.py``."""
    assert declared_sets.PAGE.read_text(encoding="utf-8") == declared_sets.written()


def test_commands_of_the_guides_are_understood() -> None:
    """Every ``mmbert evaluate`` line of the guides names a suite that is there, and changes that fit it."""
    guides = [ROOT / "docs" / "guides" / name for name in ("evaluate.md", "low-resource.md")]
    lines = [line for guide in guides for line in guide.read_text().splitlines() if line.startswith("mmbert evaluate")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line, comments=True)[3:]
        changes, options = [], iter(words[1:])
        for word in options:
            if word.startswith("--"):
                next(options)
            else:
                changes.append(word)
        Suite.load(words[0], changes)
