"""What every test of a command needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The command line sends log lines to the stderr of its time; a test must not leave that behind."""
    yield
    logging.getLogger("mmbert").handlers.clear()
    logging.getLogger("mmbert").propagate = True
