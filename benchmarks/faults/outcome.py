"""What an attack ended in: one of six kinds, and the table of docs/faults.md made of many."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

KINDS = ("named", "harmless", "silent", "traceback", "hang", "500")
"""
named      refused or stopped by one line that says why
harmless   the result is that of an undisturbed command or request
silent     another result, or an answer to what must be refused, and no word of it
traceback  an error nobody caught, a panic or a signal, whatever was answered
hang       no end within the time limit
500        an HTTP server's confession of a bug
"""


@dataclass(frozen=True)
class Outcome:
    """How one try ended."""

    group: str
    name: str
    kind: str
    said: str = ""
    seconds: float = 0.0
    health: float | None = None
    """The slowest answer of ``/health`` meanwhile, in seconds."""
    memory: float | None = None
    """The highest resident memory of the server meanwhile, as a multiple of that of the idle server."""
    stop: float | None = None
    """Seconds from SIGTERM to the end of the process."""


def table(outcomes: Iterable[Outcome], before: Iterable[Outcome] = ()) -> str:
    """Return a Markdown table with one row a group; with outcomes of before, each cell is ``before → now``."""
    now, then = _cells(outcomes), _cells(before)
    columns = ("group", "tries", *KINDS, "/health s", "memory", "SIGTERM s")
    lines = [_line(columns), "| --- |" + " ---: |" * (len(columns) - 1)]
    for name, own in now.items():
        old = then.get(name)
        cells = (
            own if old is None else [new if new == was else f"{was} → {new}" for was, new in zip(old, own, strict=True)]
        )
        lines.append(_line((name, *cells)))
    return "\n".join(lines)


def _cells(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """Return group -> tries, counts of each kind, and the worst figures, in the order of the first tries."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group, []).append(outcome)
    return {
        name: [
            str(len(own)),
            *(str(sum(outcome.kind == kind for outcome in own)) for kind in KINDS),
            _largest((outcome.health for outcome in own), "{:.2f}"),
            _largest((outcome.memory for outcome in own), "{:.1f}x"),
            _largest((outcome.stop for outcome in own), "{:.1f}"),
        ]
        for name, own in groups.items()
    }


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that must not be: all but ``named`` and ``harmless``."""
    return [outcome for outcome in outcomes if outcome.kind not in ("named", "harmless")]


def keep(outcomes: Iterable[Outcome], path: Path | None) -> list[Outcome]:
    """Return the outcomes as a list; each is written to a file as a line of JSON as soon as it is there."""
    kept = []
    with open(path or os.devnull, "w", encoding="utf-8") as file:
        for outcome in outcomes:
            kept.append(outcome)
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()
    return kept


def read(path: Path) -> list[Outcome]:
    """Return the outcomes of a file by :func:`keep`."""
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def processor() -> str:
    """Return the processor's name, for below the table."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def of_command(code: int | None, stderr: str, same: bool) -> tuple[str, str]:
    """Return (kind, what was said) of a command that ended.

    code  its exit status, None if it did not end in time
    same  whether its result is that of an undisturbed command
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else ""
    if code is None:
        return "hang", last
    if "Traceback (most recent call last)" in stderr or "panicked at" in stderr or code < 0:
        return "traceback", f"exit status {code}: {last}"
    if code == 0:
        return "harmless" if same else "named" if last.endswith(" is empty") else "silent", last
    ours = [line for line in lines if line.startswith("mmbert: ")]
    return ("named" if ours and code == 2 else "traceback"), (ours or [f"exit status {code}: {last}"])[-1][:300]


def _largest(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(max(known)) if known else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
