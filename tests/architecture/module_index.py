"""The index of modules in docs/architecture.md, generated from the first sentence of each module's docstring.

python tests/architecture/module_index.py      # writes it into the page
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mmbert"
PAGE = ROOT / "docs" / "architecture.md"

BEGIN = "<!-- index: tests/architecture/module_index.py -->\n"
END = "<!-- end of index -->\n"

SUFFIXES = (".py", ".js", ".css")


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring, or of the comment that opens a script or style sheet."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        lines = iter((ast.get_docstring(ast.parse(text)) or "").splitlines())
    else:
        lines = iter([re.sub(r"^(//|/\*)\s*|\s*\*/$", "", text.partition("\n")[0])])
    sentence = next(lines, "")
    while sentence and sentence[-1] not in ".?" and (line := next(lines, "")):
        sentence += f" {line}"
    return sentence.rstrip(".").replace("``", "`").replace("|", "\\|")


def index() -> str:
    """Return the tables of modules in Markdown, one for each package. ``__init__`` and ``__main__`` are left out."""
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in SUFFIXES and not path.name.startswith("__")]
    return "\n".join(_tables(sorted(paths, key=lambda path: (len(path.parts) > len(PACKAGE.parts) + 1, path))))


def _tables(paths: list[Path]) -> Iterator[str]:
    for package, members in groupby(paths, key=_package):
        rows = [f"| `{path.relative_to(PACKAGE).as_posix()}` | {summary(path)} |\n" for path in members]
        yield f"### {package}\n\n| module | content |\n| --- | --- |\n{''.join(rows)}"


def _package(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return "mmbert" if len(parts) == 1 else f"mmbert.{parts[0]}"


def written() -> str:
    """Return the page with the current index."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}{index()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
