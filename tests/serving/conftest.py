"""Models of every kind, a server of all of them, and a client over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_models import serving, write_models

from mmbert.serving.server import Server

NAMES = ("tuned", "classes", "ranks", "tags", "masks", "spans")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(folders: Path) -> Iterator[Server]:
    """All models, small batches, so that requests are split and joined."""
    with serving(*(folders / name for name in NAMES), batch_tokens=256) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made
