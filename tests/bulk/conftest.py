"""Workers in the process of a test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def process() -> Iterator[None]:
    """What a worker does to its process, which is this one here, is undone."""
    logger, threads, environment = logging.getLogger("mmbert"), torch.get_num_threads(), dict(os.environ)
    handlers, propagate = list(logger.handlers), logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)
