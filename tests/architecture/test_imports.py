"""Imports only go down the layers of docs/architecture.md, and each package imports only what it may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mmbert

PACKAGE = Path(mmbert.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "errors": 0, "cancellation": 0, "extras": 0, "log": 0, "files": 0, "locks": 0, "arrays": 0, "hub": 0, "io": 0,
    "formatting": 0, "memory": 0, "trackers": 0, "version": 0,
    "recipe_file": 1, "recipe_errors": 1, "recipe_names": 1, "recipe_phases": 1, "recipe_schema": 1, "recipe_text": 1,
    "recipe": 1, "rope_scaling": 1,
    "native": 1, "languages": 1, "hub_names": 1, "packed": 1, "metrics": 1, "words": 1, "cpu": 1, "device": 1,
    "model": 2, "tokenizer": 2, "data": 2, "start_model": 2,
    "training": 3, "surgery": 3, "inference": 3, "estimate": 3, "stores": 3,
    "finetuning": 4, "search": 4, "exporting": 4, "bulk": 4,
    "evaluation": 5, "reporting": 5, "serving": 5,
    "pipeline": 6, "doctor": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
"""The layer of each module or sub-package of ``mmbert``."""

SEPARATE = [{"training", "surgery", "inference"}, {"finetuning", "serving"}, {"model", "tokenizer"}, {"model", "data"}]
"""Packages of one layer that never import each other."""

HEAVY = {"transformers", "sentence_transformers", "datasets", "mteb"}


def _top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@cache
def _imports(path: Path) -> frozenset[str]:
    """Modules a file imports; those under ``if TYPE_CHECKING`` do not run and do not count."""
    return frozenset(_find_imports(path))


def _find_imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module or ""]
        else:
            continue
        above: ast.AST | None = node
        while (above := parents.get(above)) is not None:
            if isinstance(above, ast.If) and "TYPE_CHECKING" in ast.unparse(above.test):
                break
        else:
            yield from modules


def test_every_package_has_a_layer() -> None:
    assert {_top(path) for path in FILES} - {"__init__"} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_down(path: Path) -> None:
    package = _top(path)
    if package == "__init__":
        return  # the public names, resolved on first use
    for module in _imports(path):
        parts = module.split(".")
        if parts[0] != "mmbert" or len(parts) == 1 or parts[1] == package:
            continue
        target = parts[1]
        assert LAYERS[target] <= LAYERS[package], f"{_name(path)} imports {module}, which is above it"
        for group in SEPARATE:
            assert not {package, target} <= group, (
                f"{_name(path)} imports {module}: these packages never import each other"
            )


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_forbidden_imports(path: Path) -> None:
    name, package = _name(path), _top(path)
    roots = {module.split(".")[0] for module in _imports(path)}
    inner = {module for module in _imports(path) if module.startswith("mmbert")}
    if (
        package in ("tokenizer", "estimate", "surgery_count")
        or package.startswith("recipe")
        or package == "data"
        or name in ("model/config", "model/count")
    ) and name != "data/loader":
        assert "torch" not in roots, f"{name} must not import torch"
    if package not in ("finetuning", "evaluation"):
        assert not roots & HEAVY, f"{name} imports {roots & HEAVY}"
    if package == "model":
        assert not roots & {"yaml", "ruamel", "transformers"}
    if package == "surgery":
        assert not any(module.startswith("torch.distributed") for module in _imports(path))
    if package in ("inference", "serving", "search", "exporting"):
        assert not any(m.split(".")[1:2] in (["training"], ["data"], ["finetuning"], ["evaluation"]) for m in inner)
    if package == "training":
        assert not any(m.split(".")[1:2] in (["finetuning"], ["evaluation"], ["inference"]) for m in inner)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_environment_is_read_in_few_places(path: Path) -> None:
    if _name(path) not in ("log", "files"):
        text = path.read_text(encoding="utf-8")
        assert not any(name in text for name in ("os.environ", "getenv")), f"{_name(path)} has a hidden input"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py" and p.parent != PACKAGE], ids=_name)
def test_sub_packages_are_empty(path: Path) -> None:
    assert path.read_text() == ""


def _graph() -> dict[str, set[str]]:
    """Return module -> modules of the package that it imports, anywhere: also in functions and for types only."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names if alias.name in names)
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name].update((inner | {node.module or ""}) & set(names))
    return graph


def test_no_import_cycles() -> None:
    graph = _graph()
    # Take away modules that import nothing that is left, until none can be taken: what stays imports itself in the end.
    while free := [name for name, imported in graph.items() if not imported & graph.keys()]:
        for name in free:
            del graph[name]
    # Likewise from the other side: what nothing that is left imports is not on a cycle but leads to one.
    while free := sorted(graph.keys() - set().union(*graph.values())):
        for name in free:
            del graph[name]
    assert not graph


def test_public_names() -> None:
    assert sorted(mmbert.__all__) == mmbert.__all__ or set(mmbert.__all__) == set(mmbert._HOMES)
    for name in mmbert.__all__:
        assert getattr(mmbert, name).__name__ == name


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_no_torch() -> None:
    code = "import sys, mmbert, mmbert.recipe, mmbert.cli.main; print('torch' in sys.modules)"
    assert _python(code).strip() == "False"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_fit_in_a_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450, f"{_name(path)} is too long: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 70, f"{_name(path)}:{node.lineno} {node.name}"  # type: ignore[operator]
