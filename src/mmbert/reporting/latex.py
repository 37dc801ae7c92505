"""Tables in LaTeX, with the rules of ``booktabs``."""

from __future__ import annotations

import re

from mmbert.reporting.tables import Table

_SPECIAL = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$",
}  # fmt: skip

_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


def latex(table: Table, caption: str) -> str:
    """Return one ``table`` environment; words are flush left, figures flush right."""
    sides = "".join("l" if column.text is None else "r" for column in table.columns)
    rows = [" & ".join(escape(cell.text) for cell in row) + r" \\" for row in table.cells()]
    head = " & ".join(escape(column.title) for column in table.columns) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Escape the characters that are special in LaTeX."""
    return _PATTERN.sub(lambda match: _SPECIAL[match[0]], text)
