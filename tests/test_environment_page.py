"""docs/environment.md lists the variables that the code reads, all of them and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mmbert

PACKAGE = Path(mmbert.__file__).parent
ROOT = Path(__file__).parents[1]
DEPLOY = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
READERS = {"environment", "secret", "get", "getenv", "setdefault"}
"""Functions of ``files``, and those of ``os.environ``."""


def listed(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def read() -> Iterator[tuple[str, str]]:
    """(variable, file) of every read: of ``os.environ``, through ``files``, or as the value of an option."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                yield ast.literal_eval(node.slice), path.name
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                name = called.rpartition(".")[2]
                ours = name in ("environment", "secret") or called.startswith(("os.environ.", "os.getenv"))
                if ours and name in READERS and isinstance(node.args[0], ast.Constant):
                    yield node.args[0].value, path.name
                for keyword in node.keywords:
                    if keyword.arg == "envvar":
                        yield ast.literal_eval(keyword.value), path.name


def test_the_page_lists_what_the_code_reads() -> None:
    assert {name for name, _ in read()} == listed("Read by mmbert")


def test_variables_of_ours_are_on_the_page_wherever_they_are_named() -> None:
    """Of the package by a prefix; a name elsewhere that nothing reads would be a promise not kept."""
    places = [*(ROOT / "docs").rglob("*.md"), *DEPLOY, *PACKAGE.rglob("*.py"), ROOT / "README.md"]
    named = {name for path in places for name in re.findall(r"\bMMBERT_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    assert named - listed("Read by mmbert") == {"MMBERT_ARGS"}  # of the systemd unit


def test_variables_of_libraries_in_guides_are_on_the_page() -> None:
    places = [*(ROOT / "docs" / "guides").glob("*.md"), *DEPLOY, ROOT / "Makefile"]
    prefixes = r"\b(?:HF|OMP|RAYON|ONEDNN|LRU|ATEN|TORCHINDUCTOR|MASTER|NCCL|MKL|OTEL)_[A-Z_]+\b"
    named = {name for path in places for name in re.findall(prefixes, path.read_text(encoding="utf-8"))}
    assert named <= listed("Read by libraries")
