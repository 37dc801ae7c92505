"""Files of vectors as ``mmbert embed`` and bulk runs write them, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 16

MADE: dict[str, Any] = {
    "format": 1, "command": "embed", "model": "some/model", "model_hash": "0123456789abcdef", "prompt": "document",
    "normalize": True, "output": "float32", "dimensions": WIDTH, "complete": True,
}  # fmt: skip


def unit_rows(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Random directions, (count, width) fp32."""
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_run(folder: Path, vectors: np.ndarray, files: int = 2, **made: Any) -> Path:
    """A bulk run of rows ``a0``, ``a1``, ... with the columns text, lang, year and draft in some Parquet files."""
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), files)):
        pq.write_table(table_of(vectors[rows], rows.tolist()), folder / f"part-{number}.parquet")
    (folder / "run.json").write_text(json.dumps(MADE | made))
    return folder


def table_of(vectors: np.ndarray, rows: list[int]) -> pa.Table:
    return pa.table(
        {
            "id": [f"a{row}" for row in rows],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            "text": [f"text {row} 'quoted' \t é" for row in rows],
            "lang": pa.array(["eng" if row % 2 else None for row in rows], pa.string()),
            "year": [2000 + row for row in rows],
            "draft": [row % 3 == 0 for row in rows],
            "tags": pa.array([[f"x{row}"] for row in rows]),
        }
    )
