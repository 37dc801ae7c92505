"""Docstrings of the package as Markdown: an extension of griffe, which mkdocstrings calls for every object.

In the source, arguments stand in columns, and names of Python in roles of Sphinx::

    device      auto, cpu, cuda
    precision   auto, fp32, bf16, fp16 or int8: of the model's
                matrices
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROW = re.compile(r"^(\S(?:\S| (?! )){0,40}) {2,}(\S.*)$")
"""Sentences have single spaces."""

_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def markdown(text: str) -> str:
    """Return a docstring with lists for its columns, and without roles."""
    lines: list[str] = []
    rows = False
    for line in _ROLE.sub(r"`\1`", text).splitlines():
        row = _ROW.match(line)
        if row:
            if not rows:
                lines.append("")
            lines.append(f"- `{row[1]}`: {_escape(row[2])}")
            rows = True
        elif rows and line.startswith("    ") and line.strip():
            lines[-1] += f" {_escape(line.strip())}"
        else:
            if rows and line.strip():
                lines.append("")
            rows = False
            lines.append(line if line.startswith("    ") else re.sub(r"::$", ":", _escape(line)))
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return a line of prose in which ``<bos>`` outside code is no tag of HTML."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


class HouseDocstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object, if it has one."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
