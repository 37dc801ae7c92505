"""docs/architecture.md: its index of modules is current, and its table of layers is the one that imports keep to."""

from __future__ import annotations

import re
from pathlib import Path

import module_index
import pytest
from test_imports import FILES, LAYERS, PACKAGE

PAGE = module_index.PAGE.read_text(encoding="utf-8")
MODULES = [path for path in FILES if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_is_in_the_index(path: Path) -> None:
    row = f"| `{path.relative_to(PACKAGE).as_posix()}` | {module_index.summary(path)} |"
    assert row in PAGE, "run python tests/architecture/module_index.py"


def test_the_index_is_current() -> None:
    assert module_index.written() == PAGE, "run python tests/architecture/module_index.py"


def test_the_table_of_layers_is_the_one_that_is_checked() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", PAGE, re.MULTILINE)
    stated = {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert stated == {name: layer for name, layer in LAYERS.items() if name != "__main__"}
