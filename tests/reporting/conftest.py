from __future__ import annotations

from pathlib import Path

import pytest
from made_up_run import write_run

from mmbert.reporting.record import Record, read_record


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made-up")


@pytest.fixture(scope="session")
def record(run_folder: Path) -> Record:
    return read_record(run_folder)
