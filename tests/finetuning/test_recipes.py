"""Every shipped recipe runs on local files under our own names, and says what the sources say."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

import mmbert
from mmbert import recipe_names
from mmbert.errors import ConfigError
from mmbert.finetuning.recipe import PUBLISHED, FinetuneRecipe

RECIPES = recipe_names.RECIPES / "finetune"
SETS = {
    "classify": "classify", "nli": "pairs", "pairs": "pairs", "regression": "regression", "multilabel": "multi_label",
    "ner": "tag", "pos": "tag", "qa": "answer", "choice": "choose", "copa": "choose",
}  # fmt: skip


@pytest.mark.parametrize("name", list(SETS))
def test_recipes_run_on_own_files(name: str, heads: Path, sets: Path, tmp_path: Path) -> None:
    folder = sets / SETS[name]
    changes = [
        f"model={heads / 'masks'}", f"data.train.path={folder}/train.jsonl", f"data.dev.path={folder}/dev.jsonl",
        "data.test=null", "training.max_steps=1", "training.device=cpu", "training.max_tokens=48",
        *(["choose.first_label=0"] if SETS[name] == "choose" else []),
        *(["data.columns.text_pair=null"] if name == "regression" else []),
    ]  # fmt: skip
    recipe = FinetuneRecipe.load(RECIPES / f"{name}.yaml", changes)
    assert mmbert.finetune(recipe, out=tmp_path).chosen is not None


def test_published_values_stand_where_nothing_is_said() -> None:
    qa = FinetuneRecipe.load(RECIPES / "qa.yaml")
    assert (qa.training.learning_rate, qa.training.batch, qa.training.max_tokens) == (3e-5, 32, 384)
    assert (qa.training.weight_decay, qa.answer.doc_stride, qa.answer.max_answer) == (1e-4, 128, 30)
    ner = FinetuneRecipe.load(RECIPES / "ner.yaml")
    assert (ner.training.learning_rate, ner.training.epochs, ner.training.warmup) == (2e-5, 10, 0.06)
    assert set(PUBLISHED) == set(FinetuneRecipe.model_fields["task"].annotation.__args__)  # type: ignore[union-attr]


def test_copa_goes_on_from_choice() -> None:
    recipe = FinetuneRecipe.load(RECIPES / "copa.yaml")
    assert recipe.model == "runs/choice/final"
    spec = recipe.data.split("train")
    assert spec is not None
    assert spec.columns["question"] == "{premise} What was the {question}?"
    assert (spec.hub, spec.config) == ("aps/super_glue", "copa")


def test_a_recipe_is_the_same_when_saved(tmp_path: Path) -> None:
    recipe = FinetuneRecipe.load(
        RECIPES / "classify.yaml", ["training.lora.rank=4", "sweep.values.training.batch=[8,16]"]
    )
    recipe.save(tmp_path / "saved.yaml")
    assert FinetuneRecipe.load(tmp_path / "saved.yaml") == recipe
    assert recipe.sweep.values["training.batch"] == (8, 16)
    assert recipe.training.lora is not None


def test_wrong_recipes_are_explained(tmp_path: Path) -> None:
    for change, said in {
        "training.learning_rat=1": r"unknown key training\.learning_rat: did you mean learning_rate",
        "training.lr=1": r"unknown key training\.lr: did you mean learning_rate\?",
        "training.num_train_epochs=1": r"training\.num_train_epochs: did you mean epochs\?",
        "training.per_device_train_batch_size=1": r"did you mean batch\?",
        "training.warmup_ratio=1": r"did you mean warmup\?",
        "training.max_length=1": r"did you mean max_tokens\?",
        "weight_decay=1": r"unknown key weight_decay: did you mean training\.weight_decay\?",
        "train_file=1": r"did you mean data\.train\.path\?",
        "task=guess": "task: should be",
        "data.train=null": r"data\.train says neither path nor hub",
    }.items():
        with pytest.raises(ConfigError, match=said):
            FinetuneRecipe.load(RECIPES / "ner.yaml", [change])
    with pytest.raises(ConfigError, match=r"ner: unknown key training\.lr: did you mean learning_rate\?"):
        FinetuneRecipe.load(RECIPES / "ner.yaml").changed({"training.lr": 1})
    bare = ["data.dev=null", "data.languages=[]"]
    with pytest.raises(ConfigError, match="has a place for languages"):
        FinetuneRecipe.load(RECIPES / "ner.yaml", bare)
    with pytest.raises(ConfigError, match=r"patience needs examples to judge by"):
        FinetuneRecipe.load(RECIPES / "classify.yaml", ["data.dev=null"])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ner", "classify.pooling=cls", "classify is the block of another task, and task is tag: remove it, or set "),
        ("embed", "training.dropout=0.2", "training.dropout has no effect on embed (it has no classifier): remove it"),
        ("splade", "training.head_learning_rate=1e-3", "training.head_learning_rate has no effect on sparse"),
        ("qa", "data.no_label=[]", "data.no_label has no effect on answer"),
        ("rerank", "rerank.evaluator=retrieval", "unknown key rerank.evaluator"),
    ],
)
def test_what_the_task_does_not_read_is_refused(name: str, change: str, said: str, tmp_path: Path) -> None:
    path = RECIPES / f"{name}.yaml"
    with pytest.raises(ConfigError, match=re.escape(said)):
        FinetuneRecipe.load(path, [change])
    recipe = FinetuneRecipe.load(path)
    recipe.save(tmp_path / "saved.yaml")
    assert FinetuneRecipe.load(tmp_path / "saved.yaml") == recipe
    block, _, option = change.partition("=")[0].partition(".")
    assert option not in recipe.model_dump(mode="json").get(block, {})


WITH_ROWS = sorted(path for path in RECIPES.glob("*.yaml") if path.stem != "distil")
"""Recipes with examples; ``distil`` has texts (test_distil.py)."""


@pytest.mark.parametrize("path", WITH_ROWS, ids=lambda path: path.stem)
def test_own_files_stand_in_for_the_hub(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    recipe = FinetuneRecipe.load(path, ["data.train.path=mine.jsonl"])
    if path.stem != "embed-bitext":  # which has no set of the hub
        assert "hub" not in recipe.model_dump_json(exclude_none=True, exclude={"training"}).replace("jhu", "")
        train = recipe.data.split("train")
        assert train is not None
        assert (train.path, train.language) == ("mine.jsonl", None)
    assert recipe.data.dev_share
    FinetuneRecipe.load(path)
    recipe.save(tmp_path / "saved.yaml")
    assert FinetuneRecipe.load(tmp_path / "saved.yaml") == recipe


def test_dev_and_test_that_are_given_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    own = "data.train.path=mine.csv"
    both = FinetuneRecipe.load(RECIPES / "classify.yaml", [own]).data
    assert (both.dev, both.test, both.dev_share) == (None, None, 0.1)
    assert caplog.messages == [
        "mine.csv is read instead of the hub: without the recipe's data.dev and data.test, of the hub; dev is 0.1 of "
        "the training rows (data.dev_share)"
    ]
    data = FinetuneRecipe.load(RECIPES / "classify.yaml", [own, "data.dev.path=dev.csv", "data.test.split=test"]).data
    assert data.dev is not None
    assert (data.dev.path, data.dev.hub, data.dev_share) == ("dev.csv", None, 0.0)
    assert data.test is not None
    assert data.test.hub == "Davlan/sib200"
    assert (
        FinetuneRecipe.load(RECIPES / "nli.yaml", [own, "data.train.language=swh_Latn"]).data.train.language
        == "swh_Latn"
    )


ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"


@pytest.mark.parametrize("guide", ["finetune", "classify", "tag", "qa", "choose"])
def test_commands_of_the_guides_are_understood(guide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"mmbert finetune ([a-z]\S+)([^`\n]*)", text)
    assert commands
    for name, rest in commands:
        changes = [word for word in shlex.split(rest, comments=True) if "=" in word]
        assert FinetuneRecipe.load(name, changes).name
