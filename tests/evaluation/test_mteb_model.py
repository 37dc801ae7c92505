"""The Embedder as mteb's model: a task of our own, made of rows in this file, through mteb's own runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.task_metadata import TaskMetadata

from mmbert.errors import ConfigError
from mmbert.evaluation.mteb_model import MtebModel, open_tasks, run_tasks
from mmbert.evaluation.results import TaskRun, TaskScore
from mmbert.evaluation.summary import summarise_task
from mmbert.evaluation.task import Task
from mmbert.inference.embedder import Embedder
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer

PAIRS = [("the ball", "the ball", 1), ("a fever", "a fever", 1), ("the ball", "forty", 0), ("a fever", "words", 0)]


class Likeness(AbsTaskPairClassification):
    """Are two texts the same?"""

    metadata = TaskMetadata(
        name="Likeness", description="made up", reference=None, type="PairClassification", category="t2t",
        modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score="max_ap",
        dataset={"path": "none/none", "revision": "none"}, date=None, domains=None, task_subtypes=None, license=None,
        annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
    )  # fmt: skip

    def load_data(self, **options: Any) -> None:
        first, second, labels = zip(*PAIRS, strict=True)
        row = {"sentence1": list(first), "sentence2": list(second), "labels": list(labels)}
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(row)})
        self.data_loaded = True


@pytest.fixture
def embedder(model: MaskedLM, tokenizer: Tokenizer, tmp_path: Path) -> Embedder:
    model.save(tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_tokens=128)
    return Embedder.load(tmp_path / "model", device="cpu")


def test_mteb_scores_our_vectors(embedder: Embedder) -> None:
    found: dict[str, TaskScore] = {}
    run_tasks(MtebModel(embedder, "somewhere/little", "0" * 16), [Likeness()], {}, found.__setitem__)
    assert found["Likeness"].scores["main_score"] == pytest.approx(1), "the same text has the same vector"
    assert found["Likeness"].group == "PairClassification"
    run_tasks(
        MtebModel(embedder, "somewhere/little", "0" * 16), [Likeness()], found, lambda name, score: pytest.fail(name)
    )


def test_what_mteb_gets(embedder: Embedder) -> None:
    model = MtebModel(embedder, "/models/little", "0" * 16)
    assert isinstance(model, mteb.models.EncoderProtocol)
    assert model.mteb_model_meta.name == "models/little"
    batches = [{"text": ["a ball", ""]}, {"text": ["the team"]}]
    vectors = model.encode(batches)
    assert np.allclose(vectors[0], embedder("a ball"), atol=1e-5)
    assert vectors.shape == (3, embedder.dimensions)
    similarity = model.similarity(vectors, vectors)
    assert np.allclose(similarity, vectors @ vectors.T, atol=1e-5)
    assert np.allclose(model.similarity_pairwise(vectors, vectors), 1, atol=1e-5)


def test_benchmarks_are_known() -> None:
    assert len(open_tasks(Task.load("mteb-english"))) == 41
    assert len(open_tasks(Task.load("coir"))) == 10
    types = {task.metadata.type for task in open_tasks(Task.load("mteb-multilingual"))}
    assert set(Task.load("mteb-multilingual").average) < types
    with pytest.raises(ConfigError, match="mteb-english"):
        open_tasks(Task.load("mteb-english").model_copy(update={"subtasks": ("NoSuchTask",)}))


def test_means_of_types() -> None:
    """MTEB's tables show the mean of the means of types."""
    scores = {
        "a": TaskScore(rows=0, scores={"main_score": 0.2}, group="STS"),
        "b": TaskScore(rows=0, scores={"main_score": 0.4}, group="STS"),
        "c": TaskScore(rows=0, scores={"main_score": 0.9}, group="Retrieval"),
        "d": TaskScore(rows=0, scores={"main_score": 0.0}, group="InstructionReranking"),
    }
    run = TaskRun(protocol={}, seed=0, scores=scores)
    multilingual = Task.load("mteb-multilingual")
    summary = summarise_task(multilingual, [[run]], list(scores))
    assert summary.figure.mean == pytest.approx((0.3 + 0.9) / 2)
    assert summary.groups["STS"].mean == pytest.approx(0.3)
    assert summarise_task(Task.load("coir"), [[run]], list("abc")).figure.mean == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "theirs"), [("sib200", "SIB200Classification"), ("tatoeba", "Tatoeba")])
def test_sets_that_mteb_has_too_are_read_at_its_commit(name: str, theirs: str) -> None:
    source = Task.load(name).source
    declared = mteb.get_task(theirs).metadata.dataset
    assert (source.hub, source.revision) == (declared["path"], declared["revision"])
