"""Progress in a log: nothing for short work, then a line at intervals and one at the end; on a terminal, a bar."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios

import pytest

from mmbert import log


def run(monkeypatch: pytest.MonkeyPatch, seconds: list[float], *, total: float | None) -> str:
    """What is written when each ten items of the work are done at one of ``seconds``."""
    now, written = [0.0], io.StringIO()
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr", written)
    with log.progress[None](total=total, desc="reading", unit="doc") as bar:
        for second in seconds:
            now[0] = second
            bar.note(loss=2.5)
            bar.update(10)
    return written.getvalue()


def test_short_work_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [1, 2, 14], total=30) == ""


def test_long_work_is_a_line_every_fifteen_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, [10, 20, 30, 40], total=40).splitlines()
    assert lines == [
        "reading:  50% 20.0/40.0 [00:20<00:20, loss=2.5]",
        "reading: 100% 40.0/40.0 [00:40<00:00, loss=2.5]",
    ]
    assert (
        run(monkeypatch, [20, 30], total=None) == "reading: 10.0 [00:20, loss=2.5]\nreading: 20.0 [00:30, loss=2.5]\n"
    )


def test_a_log_line_does_not_stand_behind_a_bar() -> None:
    script = (
        "import logging, mmbert.log as log\n"
        "log.setup()\n"
        "with log.progress(total=4, desc='tuning') as bar:\n"
        "    bar.update(2)\n"
        "    logging.getLogger('mmbert').info('step 2 of 4')\n"
    )
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, 120))
    subprocess.run([sys.executable, "-c", script], stderr=its, check=True, env={**os.environ, "TERM": "xterm"})
    os.close(its)
    printed = os.read(ours, 65536).decode()
    os.close(ours)
    (line,) = [line for line in printed.splitlines() if "step" in line]  # divides at "\r" too
    assert "tuning" not in line
