"""Damaged files of an index: the answers are the same as before, or an error names the damage. Never other answers."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_models import TEXTS

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import DataError, MMBertError
from mmbert.inference.embedder import Embedder
from mmbert.search.index import SearchIndex

TRIES = 4
"""Damages to each file of an index."""


def damage(path: Path, draw: random.Random) -> None:
    """Change a bit, cut the file, put zeros over a part, or exchange two parts."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(max(len(content), 1))
    kind = draw.choice(["bit", "bit", "cut", "zeros", "swap"])
    if kind == "cut" or not content:
        content = content[:at]
    elif kind == "bit":
        content[at] ^= 1 << draw.randrange(8)
    elif kind == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    else:
        content[at : at + 16], content[:16] = content[:16], content[at : at + 16]
    path.write_bytes(content)


def ask(folder: Path, embed: Embedder) -> list[Any]:
    index = SearchIndex.load(folder, model=embed)
    try:
        return [index(query, top_k=5, hybrid=hybrid) for query in TEXTS[:2] for hybrid in (False, True)]
    finally:
        index.close()


@pytest.mark.parametrize(("store", "output"), [("exact", "float32"), ("exact", "int8"), ("lance", "float32")])
def test_damage_is_named_or_harmless(embed: Embedder, tmp_path: Path, store: str, output: str) -> None:
    folder = tmp_path / "index"
    texts = [f"{text} ({number})" for number in range(12) for text in TEXTS]
    with SearchIndex.create(folder, embed, store=store, output=output) as index:
        index.add(
            [{"id": f"r{number}", "text": text, "metadata": {"year": number}} for number, text in enumerate(texts)]
        )
    wanted = ask(folder, embed)
    draw, counts = random.Random(0), Counter[str]()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for _ in range(TRIES):
            broken = tmp_path / "broken"
            shutil.copytree(folder, broken)
            damage(broken / path.relative_to(folder), draw)
            try:
                found = ask(broken, embed)
            except MMBertError:
                counts["named"] += 1
            else:
                assert found == wanted, path
                counts["harmless"] += 1
            shutil.rmtree(broken)
    assert counts["named"] > TRIES


def test_a_changed_row_is_named_with_its_place(embed: Embedder, tmp_path: Path) -> None:
    with SearchIndex.create(tmp_path / "index", embed) as index:
        index.add([{"id": number, "text": text} for number, text in enumerate(TEXTS)], batch_size=4)
    rows = tmp_path / "index" / "vectors-0000" / "rows.bin"
    content = bytearray(rows.read_bytes())
    content[5 * 16 * 4] ^= 1
    rows.write_bytes(content)
    with SearchIndex.load(tmp_path / "index", model=embed) as index, pytest.raises(DataError, match="in rows 4 to 8"):
        index("free")


def test_arrays_come_back_or_are_named(tmp_path: Path) -> None:

    path = tmp_path / "a.npz"
    save_arrays(path, one=np.arange(100), two=np.linspace(0, 1, 50))
    whole = path.read_bytes()
    draw, named = random.Random(1), 0
    for _ in range(300):
        path.write_bytes(whole)
        damage(path, draw)
        try:
            found = load_arrays(path, "make it again")
            assert found["one"].tolist() == list(range(100))
            assert found["two"].tolist() == np.linspace(0, 1, 50).tolist()
        except KeyError:  # the name of an array changed: its reader asks for it
            pass
        except DataError:
            named += 1
    assert named > 200
