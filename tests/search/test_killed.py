"""A process that is killed while it adds, and the same command again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from little_models import TEXTS

from mmbert.inference.embedder import Embedder
from mmbert.search.index import SearchIndex
from mmbert.search.writing import Changed


def counted(place: Path) -> int:
    """Rows that count, as another process sees them."""
    if not (place / "records.sqlite").is_file():
        return 0
    database = sqlite3.connect(f"{(place / 'records.sqlite').as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        return int(database.execute("SELECT rows FROM state").fetchone()[0])
    finally:
        database.close()


@pytest.mark.parametrize("store", ["exact", "lance"])
def test_killed_while_adding(folder: Path, embed: Embedder, tmp_path: Path, store: str) -> None:
    texts = [f"{text} {number}" for number in range(100) for text in TEXTS]
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    place = tmp_path / "index"
    command = [
        sys.executable, "-m", "mmbert", "index", "build", str(folder), "texts.txt", "--out", str(place),
        "--batch-size", "7", "--store", store, "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMBERT_QUIET": "1"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while counted(place) < 20:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.wait()
    given = [{"id": f"texts.txt:{number}", "text": text} for number, text in enumerate(texts, 1)]
    with SearchIndex.create(place, folder, store=cast(Any, store), resume=True, precision="fp32") as index:
        reached = len(index)
        assert 20 <= reached < len(texts)
        assert reached % 7 == 0  # whole batches
        hits = index("free and equal", top_k=len(texts))
        assert sorted(int(hit.id.split(":")[1]) for hit in hits) == list(range(1, reached + 1))
        assert index.add(given) == Changed(added=len(texts) - reached, same=reached)
        whole = SearchIndex.create(tmp_path / "whole", embed)
        whole.add(given)
        for query in ("free and equal", "droits"):
            wanted = {hit.id: hit.score for hit in whole(query, top_k=2000)}
            assert {hit.id: hit.score for hit in index(query, top_k=2000)} == pytest.approx(wanted, abs=1e-5)
