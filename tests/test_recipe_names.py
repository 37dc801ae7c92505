"""Recipes of the package by name: found from every folder, listed, printed; copies need nothing beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbert.cli.main import app
from mmbert.data.counts import counts_sizes
from mmbert.data.mixture_report import mixtures
from mmbert.errors import ConfigError
from mmbert.evaluation.suite import Suite
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.recipe import Recipe
from mmbert.recipe_names import COMMANDS, RECIPES, ShippedRecipe, find_recipe, shipped

READ_BY: dict[str, Any] = {"run": Recipe, "finetune": FinetuneRecipe, "evaluate": Suite}
SHIPPED = list(shipped().values())


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(*words: str) -> str:
    result = CliRunner().invoke(app, ["recipes", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_every_recipe_has_a_name_of_its_own() -> None:
    files = [path for folder in COMMANDS.values() for path in (RECIPES / folder).glob("*.yaml")]
    assert len(files) == len(SHIPPED) == len(list(RECIPES.rglob("*.yaml"))) > 30


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.name)
def test_the_first_line_of_a_recipe_says_what_it_is(recipe: ShippedRecipe) -> None:
    line = recipe.path.read_text(encoding="utf-8").partition("\n")[0]
    assert line.startswith("# ")
    assert line.endswith(".")
    assert len(recipe.summary) <= 92  # beside the name on a terminal of 120 columns


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.name)
def test_a_copy_is_the_same_recipe(recipe: ShippedRecipe, tmp_path: Path) -> None:
    """In a folder where nothing is beside it, the copy finds what it extends, its lists and its tables."""
    reader = READ_BY[recipe.command]
    (tmp_path / "my.yaml").write_text(printed(recipe.name), encoding="utf-8")
    assert reader.load("my.yaml") == reader.load(recipe.name) == reader.load(recipe.path)


@pytest.mark.parametrize("given", ["mmbert-small", "my.yaml", "other/extends.yaml", "runs/x/recipe.yaml"])
def test_tables_of_counts_are_found_from_a_copy(given: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(printed("mmbert-small"), encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "extends.yaml").write_text("extends: ../my.yaml\nname: mine\n", encoding="utf-8")
    Recipe.load("mmbert-small").save(tmp_path / "runs" / "x" / "recipe.yaml")
    recipe, folder = Recipe.load(given), find_recipe(given).parent
    known = counts_sizes(recipe.phases["pretrain"], recipe.sources, folder)
    assert len(known.sizes) > 60
    assert mixtures(recipe, folder, tmp_path / "none", ["pretrain"])["pretrain"]
    # No path of this installation is in what a run saves, and what must not change while it runs.
    assert str(RECIPES) not in recipe.model_dump_json()


def test_a_file_comes_before_a_name(tmp_path: Path) -> None:
    text = printed("nano").replace("name: nano", "name: mine")
    (tmp_path / "nano").write_text(text, encoding="utf-8")
    assert Recipe.load("nano").name == "mine"
    (tmp_path / "nano").unlink()
    (tmp_path / "nano").mkdir()  # such as a run's folder
    assert Recipe.load("nano").name == "nano"


def test_extends_takes_a_path_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("extends: nano\nname: mine\nphases: {extend: {mask_rate: 0.25}}\n")
    assert Recipe.load("my.yaml").phases["extend"].mask_rate == 0.25
    (tmp_path / "nano").write_text(printed("plain"), encoding="utf-8")
    assert list(Recipe.load("my.yaml", ["phases.extend=null"]).phases) == list(Recipe.load("plain").phases)
    (tmp_path / "my.yaml").write_text("extends: nan\n")
    with pytest.raises(ConfigError, match=r"my\.yaml: extends: no such recipe: nan: did you mean nano\?"):
        Recipe.load("my.yaml")


def test_a_suite_tunes_by_a_name_or_a_path(tmp_path: Path) -> None:
    text = printed("mteb")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "my.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "extends.yaml").write_text("extends: suites/my.yaml\n", encoding="utf-8")
    for given in ("mteb", "suites/my.yaml", "extends.yaml"):
        recipe = Suite.load(given).tuning()
        assert recipe is not None
        assert recipe == FinetuneRecipe.load("embed")
    (tmp_path / "suites" / "embed").write_text(printed("embed").replace("name: embed", "name: own"), encoding="utf-8")
    for given in ("suites/my.yaml", "extends.yaml"):
        recipe = Suite.load(given).tuning()
        assert recipe is not None
        assert recipe.name == "own"


@pytest.mark.parametrize(
    ("reader", "given", "says"),
    [
        (Recipe, "nanoo", "no such recipe: nanoo: did you mean nano?"),
        (Recipe, "recipes/nano.yaml", "no such recipe: recipes/nano.yaml: did you mean nano?"),
        (FinetuneRecipe, "recipes/finetune/ner.yaml", "no such recipe: recipes/finetune/ner.yaml: did you mean ner?"),
        (Suite, "xtrem", "no such recipe: xtrem: did you mean xtreme?"),
        (Suite, "qqqqq", "no such recipe: qqqqq: `mmbert recipes` lists those of the package"),
        (FinetuneRecipe, "nano", "nano is a recipe for `mmbert run`, not for `mmbert finetune`"),
        (Recipe, "xtreme", "xtreme is a recipe for `mmbert evaluate`, not for `mmbert run`"),
    ],
)
def test_what_is_no_name(reader: Any, given: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        reader.load(given)
    assert str(error.value).startswith(says)


def test_the_list_is_grouped_by_command() -> None:
    groups = [group.splitlines() for group in printed().split("\n\n")]
    assert [group[0].split()[1] for group in groups] == list(COMMANDS)
    assert [line.split()[0] for group in groups for line in group[1:]] == list(shipped())
    assert any(line.split() == ["ner", *shipped()["ner"].summary.split()] for line in groups[1])


def test_an_unknown_name_to_print_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the package has no recipe nan\.yaml: did you mean nano\?"):
        CliRunner().invoke(app, ["recipes", "nan.yaml"], catch_exceptions=False)
