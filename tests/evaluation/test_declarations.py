"""Declarations of tasks and suites: all that ship can be read, and what is wrong is named with its cure."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import mmbert
from mmbert.errors import ConfigError
from mmbert.evaluation.published import published
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.task import Task, task_names

SUITES = sorted((Path(mmbert.__file__).parents[2] / "recipes" / "evaluate").glob("*.yaml"))

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
    glue = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"}
    xtreme = {"xnli", "pawsx", "xcopa", "xquad", "mlqa", "tydiqa", "wikiann", "udpos"}
    others = {"foqa", "tiquad", "sib200", "tatoeba", "afrisenti", "masakhaner", "masakhapos", "afriqa"}
    assert glue | xtreme | others | {"mteb-english", "mteb-multilingual", "coir", "loss", "efficiency"} <= {
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
    names = [name for name in glue["mmBERT-base"] if name != "average"]
    for figures in (*glue.values(), *published("xtreme").values()):
        tasks = [value for name, value in figures.items() if name != "average"]
        assert figures["average"] == pytest.approx(sum(tasks) / 8, abs=0.06)
    assert set(names) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"}
    with pytest.raises(ConfigError, match="published is one of glue, xtreme"):
        published("superglue")


def test_commands_of_the_guides_are_understood() -> None:
    """Every ``mmbert evaluate`` line of the guides names a suite that is there, and changes that fit it."""
    root = Path(mmbert.__file__).parents[2]
    guides = [root / "docs" / "guides" / name for name in ("evaluate.md", "low-resource.md")]
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
        Suite.load(root / words[0], changes)
