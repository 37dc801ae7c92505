"""trackio with a database of its own for a test, and the runs in it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def trackio_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trackio keeps its runs."""
    trackio: Any = pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    folder = tmp_path / "trackio"
    for module in (trackio, sqlite_storage, utils):  # each has read TRACKIO_DIR when it was imported
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    return folder


def stored_runs(folder: Path, project: str) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Return run -> (step, numbers), as trackio stored them."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    with sqlite3.connect(folder / f"{project}.db") as rows:
        for name, step, metrics in rows.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id"):
            found.setdefault(name, []).append((step, json.loads(metrics)))
    return found
