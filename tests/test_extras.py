"""Extras that messages and ``mmbert doctor`` name are those of pyproject.toml, and bring what is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmbert
from mmbert import extras, recipe_names
from mmbert.errors import MissingExtra

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mmbert.__file__).parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def brought(extra: str) -> set[str]:
    """Distributions of an extra in pyproject.toml, those of the extras that it names included."""
    found = set()
    for line in DECLARED[extra]:
        own = re.fullmatch(r"mmbert\[([\w,]+)\]", line)
        if own:
            found |= {name for inner in own[1].split(",") for name in brought(inner)}
        else:
            found.add(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
    return found


def raised() -> Iterator[tuple[str, str, str]]:
    """(place, package, extra) of every ``MissingExtra("package", "extra")`` and ``import_extra`` in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("MissingExtra", "import_extra"):
                package, extra = (ast.literal_eval(arg) if isinstance(arg, ast.Constant) else "" for arg in node.args)
                if package and extra:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", package, extra


def test_metadata_says_what_pyproject_says() -> None:
    found = {name: {requirement.name for requirement in lines} for name, lines in extras.extras().items()}
    assert found == {name: brought(name) for name in DECLARED}


@pytest.mark.parametrize(("place", "package", "extra"), list(raised()))
def test_a_missing_package_names_an_extra_that_brings_it(place: str, package: str, extra: str) -> None:
    assert extras.distribution(package) in brought(extra), place


@pytest.mark.parametrize(
    ("module", "given", "named"),
    [
        ("mteb", "finetune", "mteb is not installed: pip install 'mmbert[evaluate]'"),
        ("sklearn.metrics", "finetune", "scikit-learn is not installed: pip install 'mmbert[finetune]'"),
        ("sklearn", "evaluate", "scikit-learn is not installed: pip install 'mmbert[evaluate]'"),
        ("vl_convert", "", "vl-convert-python is not installed: pip install 'mmbert[report]'"),
        ("pyarrow", "", "pyarrow is not installed: pip install 'mmbert[data]'"),
        ("opentelemetry.sdk", "serve", "opentelemetry-sdk is not installed: pip install 'mmbert[otel]'"),
    ],
)
def test_message(module: str, given: str, named: str) -> None:
    assert str(MissingExtra(module, given)) == named


def test_extras_in_texts_exist() -> None:
    """Of messages, docstrings, guides and recipes."""
    files = [
        *PACKAGE.rglob("*.py"),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *recipe_names.RECIPES.rglob("*.yaml"),
    ]
    for path in files:
        for names in re.findall(r"mmbert\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(DECLARED), path


def test_metadata_that_is_not_found_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    extras._stated.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("sys.path", [])
        assert extras.extras() == {}
    assert set(extras.extras()) == set(DECLARED)


def test_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.missing("data") == []
    monkeypatch.setattr(extras, "version", lambda name: "3.0")
    assert extras.missing("data") == ["pyarrow>=17 (3.0 is there)"]
