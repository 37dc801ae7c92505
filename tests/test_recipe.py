"""Reading recipes: strictly, with errors that name the place and the fix; and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import ConfigError
from mmbert.recipe import Recipe
from mmbert.recipe_file import parse_count, read_languages, read_recipe
from mmbert.recipe_names import RECIPES

PHASE = "tokens: 1M, context: 64, mask_rate: 0.3, batch: 4096, micro_batch: 2048, peak_lr: 1e-3"
SMALLEST = f"""
name: tiny
tokenizer: {{vocab_size: 1024}}
model: {{hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 2}}
sources: {{web: {{kind: jsonl, path: texts}}}}
phases:
  first: {{{PHASE}, data: {{temperature: 0.7}}}}
  second: {{follows: first, {PHASE}, data: {{temperature: 0.3}}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(SMALLEST)
    return tmp_path / "tiny.yaml"


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Recipe.load(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("written", "count"),
    [("4096", 4096), ("4_718_592", 4_718_592), ("500k", 500_000), ("3B", 3 * 10**9), ("2.3T", 2_300_000_000_000),
     ("1196.6B", 1_196_600_000_000), ("16M", 16_000_000), (" 2 m ", 2_000_000), (7, 7)],
)  # fmt: skip
def test_counts(written: Any, count: int) -> None:
    assert parse_count(written) == count


@pytest.mark.parametrize("written", ["many", "3X", "-3", "1.5", "1.2345k", "", "3B tokens"])
def test_what_is_no_count(written: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_count(written)


def test_yaml_is_1_2(path: Path) -> None:
    """In YAML 1.1 ``no`` is false and ``8e-4`` is text."""
    recipe = Recipe.load(path, ["phases.first.data.languages=[no, yes, on, nan]", "phases.first.peak_lr=8e-4"])
    assert recipe.phases["first"].data.languages == ("no", "yes", "on", "nan")
    assert recipe.phases["first"].peak_lr == 8e-4


def test_overrides(path: Path) -> None:
    changes = ["phases.second.mask_rate=0.05", "phases.first.tokens=2.3T", "merge={phases: {second: 1}, base: first}"]
    recipe = Recipe.load(path, [*changes, "tokenizer=some/folder", "evaluation.context=128"])
    assert recipe.phases["second"].mask_rate == 0.05
    assert recipe.phases["first"].tokens == 2_300_000_000_000
    assert recipe.merge is not None
    assert recipe.tokenizer == "some/folder"
    assert recipe.evaluation.context == 128
    assert "second" not in Recipe.load(path, ["phases.second=null"]).phases
    assert "not of the form" in message(path, "phases.first.tokens")
    assert "not valid YAML" in message(path, "name=[")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("fases={}", "unknown key fases: did you mean phases?"),
        ("phases.first.tokenz=3", "unknown key phases.first.tokenz: did you mean tokens?"),
        ("phases.first.data.temprature=1", "unknown key phases.first.data.temprature: did you mean temperature?"),
        ("phases.first.decay={shap: linear}", "unknown key phases.first.decay.shap: did you mean shape?"),
        ("sources.web.pth=x", "unknown key sources.web.pth: did you mean path?"),
        ("sources.Web={kind: jsonl, path: x, fild: y}", "unknown key sources.Web.fild: did you mean"),
        ("tokenizer={vocab_sizee: 1}", "unknown key tokenizer.vocab_sizee: did you mean vocab_size?"),
        ("merge={methodd: ties}", "unknown key merge.methodd: did you mean method?"),
        ("phases.first.data.mixture={web: {tokens: 1, wihtout: [x]}}", "web.wihtout: did you mean without?"),
        ("phases.first.lr=1", "unknown key phases.first.lr: did you mean peak_lr?"),
        ("training.lr=1", "unknown key training: did you mean phases.NAME.peak_lr?"),
        ("mlm_probability=1", "unknown key mlm_probability: did you mean phases.NAME.mask_rate?"),
        ("phases.first.max_steps=1", "did you mean tokens?"),
        ("phases.first.max_length=1", "did you mean context?"),
        ("phases.first.qqq=1", "unknown key phases.first.qqq: known here: follows, tokens, data"),
        ("tokenizer={vocab_size: x}", "tokenizer.vocab_size: should be a whole number (given: x)"),
        ("tokenizer={vocab_size: 3}", "tokenizer.vocab_size: should be at least 512 (given: 3)"),
        ("tokenizer=3", "tokenizer: should be text or a map (given: 3)"),
        ("phases.first.data.languages=3.5", "languages: should be 'all' or a whole number or a list (given: 3.5)"),
        ("phases.first.data.languages=[fra, 5]", "phases.first.data.languages.1: should be text (given: 5)"),
        ("phases.first.tokens=many", "phases.first.tokens: not a count: 'many' (write 4096, 500k, 3B or 2.3T)"),
        ("phases.first.peak_lr=0", "phases.first.peak_lr: should be greater than 0 (given: 0)"),
        ("phases.first.mask_rate=1.5", "phases.first.mask_rate: should be less than 1 (given: 1.5)"),
        ("phases.first=5", "phases.first: should be a map (given: 5)"),
        (
            "sources.web.kind=jsonnl",
            "sources.web.kind: should be 'jsonl', 'text', 'parquet', 'mds', 'hub' or 'catalogs'",
        ),
        ("phases.first.peak_lr=null", "phases.first.peak_lr is missing"),
        ("sources.web.path=null", "sources.web: a source of kind jsonl needs a path"),
        ("phases.first.follows=second", "phases first, second follow one another in a circle"),
        ("phases.first.follows=third", "phases.first.follows names no phase: third"),
        ("phases.first.batch=5000", "must be multiples of micro_batch 2048"),
        ("phases.first.context=4096", "phases.first: context 4096 exceeds micro_batch 2048"),
        ("phases.first.warmup=2M", "warmup and decay are longer than the phase"),
        ("phases.first.batch_start=2048", "batch_start and batch_warmup go together"),
        ("merge={phases: {third: 1}, base: first}", "merge names no phase: third"),
        ("merge={phases: {second: 1}}", "ties needs base"),
        ("phases.first.data.mixture={wob: {tokens: 1}}", "phases.first.data.mixture names no source: wob"),
        ("optimizer.name=adamw", "unknown key optimizer.name: "),
        ("model.attention_dropout=0.1", "unknown key model.attention_dropout: did you mean attention_out_dropout?"),
        ("model.num_heads=5", "must be an even multiple of num_heads 5"),
        ("phases.first.data.languages=nowhere.txt", "no such list of languages: nowhere.txt"),
    ],
)
def test_errors_name_place_and_cure(path: Path, override: str, says: str) -> None:
    assert says in message(path, override)


def test_the_number_of_other_faults_is_told(path: Path) -> None:
    assert message(path, "name=null", "phases.first.peak_lr=x").endswith("name is missing (and 1 more)")
    assert "more" not in message(path, "tokenizer={vocab_sizee: 1}")


def test_an_override_changes_one_of_two_keys_that_share_a_value(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text("one: &same {a: 1, inner: {b: 2}}\ntwo: *same\n")
    values = read_recipe(path, ["one.inner.b=3"])
    assert values == {"one": {"a": 1, "inner": {"b": 3}}, "two": {"a": 1, "inner": {"b": 2}}}


def test_extends_merges_maps_and_null_removes(path: Path) -> None:
    changes = "phases: {second: null, first: {mask_rate: 0.1}}"
    child = write(path.parent, "child.yaml", f"extends: tiny.yaml\nname: child\n{changes}\n")
    recipe = Recipe.load(child)
    assert (recipe.name, list(recipe.phases), recipe.phases["first"].mask_rate) == ("child", ["first"], 0.1)
    assert recipe.model == Recipe.load(path).model
    grandchild = write(path.parent, "deep/grandchild.yaml", "extends: ../child.yaml\nseed: 9\n")
    assert (Recipe.load(grandchild).seed, Recipe.load(grandchild).name) == (9, "child")


def test_null_is_a_value_where_there_is_no_map(path: Path) -> None:
    assert Recipe.load(path).phases["first"].data.max_epochs == 5.0
    assert Recipe.load(path, ["phases.first.data.max_epochs=null"]).phases["first"].data.max_epochs is None
    child = write(path.parent, "child.yaml", "extends: tiny.yaml\nphases: {first: {data: {max_epochs: null}}}\n")
    assert Recipe.load(child).phases["first"].data.max_epochs is None


def test_lists_and_tables_belong_to_the_recipe_that_names_them(path: Path) -> None:
    write(path.parent, "lists/two.txt", "# a comment\nfra_Latn\nno   # not false\n")
    counts = "mixture: {web: {tokens: 1B, counts: {file: lists/counts.tsv, column: n}}}"
    parent = write(
        path.parent, "parent.yaml",
        f"extends: tiny.yaml\nphases: {{first: {{data: {{languages: lists/two.txt, {counts}}}}}}}\n",
    )  # fmt: skip
    child = write(path.parent, "elsewhere/child.yaml", "extends: ../parent.yaml\n")
    for file in (parent, child):
        data = Recipe.load(file).phases["first"].data
        assert data.languages == ("fra_Latn", "no")
        assert data.mixture is not None
        table = data.mixture["web"].counts
        assert table is not None
        assert (file.parent / table.file).resolve() == (path.parent / "lists" / "counts.tsv").resolve()


def test_lists_from_a_column_of_a_table(tmp_path: Path) -> None:
    write(tmp_path, "l.tsv", "code\ttier\nfra\thigh\nfao\tlow\ntir\tlow\nxho\tmid\n")
    assert read_languages(tmp_path, "l.tsv#tier=low,mid") == ["fao", "tir", "xho"]
    for wrong, says in (("l.tsv#kind=low", "one of the columns code, tier"), ("l.tsv#tier=none", "names no language")):
        with pytest.raises(ConfigError, match=says):
            read_languages(tmp_path, wrong)


def test_files_that_are_no_recipes(path: Path) -> None:
    folder = path.parent
    assert "no such recipe" in message(folder / "absent.yaml")
    assert "is not a map of options" in message(write(folder, "list.yaml", "- 1\n"))
    assert "is not valid YAML" in message(write(folder, "broken.yaml", "a: [1\n"))
    assert "is not valid YAML" in message(write(folder, "double.yaml", SMALLEST + "name: again\n"))
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "latin.yaml:1: not UTF-8 at byte 10 of the line" in message(folder / "latin.yaml")
    write(folder, "one.yaml", "extends: two.yaml\n")
    write(folder, "two.yaml", "extends: one.yaml\n")
    assert "one.yaml extends itself: one.yaml -> two.yaml -> one.yaml" in message(folder / "one.yaml")
    assert "no such recipe" in message(write(folder, "orphan.yaml", "extends: gone.yaml\n"))
    assert "extends should be the path or name of one recipe" in message(
        write(folder, "odd.yaml", "extends: [tiny.yaml]\n")
    )


def test_order_puts_each_phase_after_the_one_it_follows(path: Path) -> None:
    third = f"  third: {{follows: second, {PHASE}, data: {{temperature: 0}}}}\n"
    text = SMALLEST.replace("  first: {", third + "  first: {")
    assert Recipe.load(write(path.parent, "three.yaml", text)).order() == ["first", "second", "third"]


def test_a_saved_recipe_is_the_same_recipe(path: Path) -> None:
    codes = "phases.first.data.languages=[no, nan, 'null', '1e3', 'on']"
    recipe = Recipe.load(path, [codes, "phases.first.peak_lr=3e-05"])
    recipe.save(path.parent / "saved.yaml")
    assert Recipe.load(path.parent / "saved.yaml") == recipe
    again = path.parent / "again.yaml"
    Recipe.load(path.parent / "saved.yaml").save(again)
    assert again.read_bytes() == (path.parent / "saved.yaml").read_bytes()
    assert "checkpoint_every" in again.read_text()  # defaults are written out


def test_a_recipe_is_frozen(path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.load(path).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    ["phases.extend.mask_rate=true", "tokenizer.vocab_size=true", "phases.pretrain.tokens=true", "seed=false"],
)
def test_true_is_no_number(change: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"nano\.yaml: {change.partition('=')[0]}: should be a number or text, not true"
    ):
        Recipe.load(RECIPES / "nano.yaml", [change])


def test_a_flag_takes_true() -> None:
    assert Recipe.load(RECIPES / "nano.yaml", ["runtime.gradient_checkpointing=true"]).runtime.gradient_checkpointing


def test_a_missing_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    assert "did you mean" in message(RECIPES / "nan.yaml")
    assert str(RECIPES / "nano.yaml") in message(RECIPES / "nan.yaml")
    assert "holds adapt.yaml" in message(RECIPES / "qqqqqqqqqq.yaml")
    assert "that is a folder, name one of adapt.yaml" in message(RECIPES)
    assert message(tmp_path / "recipes" / "nano.yaml").endswith("nano.yaml: did you mean nano?")
    assert "`mmbert recipes` lists those of the package" in message(tmp_path / "qqqqqqqqqq.yaml")
