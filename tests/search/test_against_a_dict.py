"""Whatever is done to an index, in whatever order, it holds what a dict would."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from little_models import WIDTH

from mmbert.errors import DataError
from mmbert.inference.embedder import Embedder
from mmbert.search.index import SearchIndex

NAMES = st.one_of(st.integers(0, 5), st.sampled_from(["a", "b", "c", "0"]))
RECORDS = st.lists(st.tuples(NAMES, st.sampled_from(["x", "y", "z"]), st.integers(0, 2)), min_size=1, max_size=6)


def vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


class Machine(RuleBasedStateMachine):
    embed: ClassVar[Embedder]
    store: ClassVar[Any]

    @initialize()
    def create(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.index = SearchIndex.create(self.place / "index", self.embed, store=self.store)
        self.model: dict[Any, tuple[str, int]] = {}

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            shutil.rmtree(self.place)

    @rule(items=RECORDS, replacing=st.booleans(), batch_size=st.integers(1, 4))
    def write(self, items: list[tuple[Any, str, int]], replacing: bool, batch_size: int) -> None:
        given = [{"id": name, "text": text, "metadata": {"n": number}} for name, text, number in items]
        write = self.index.update if replacing else self.index.add
        refused = False
        for start in range(0, len(items), batch_size):
            after = dict(self.model)
            for name, text, number in items[start : start + batch_size]:
                refused = refused or (not replacing and after.get(name, (text, number)) != (text, number))
                after[name] = (text, number)
            if refused:
                break
            self.model = after
        vectors = np.stack([vector(text) for _, text, _ in items])
        if refused:
            with pytest.raises(DataError, match="exists already"):
                write(given, vectors=vectors, batch_size=batch_size)
        else:
            write(given, vectors=vectors, batch_size=batch_size)

    @rule(names=st.lists(NAMES, max_size=4))
    def delete(self, names: list[Any]) -> None:
        there = {name for name in names if self.model.pop(name, None)}
        assert self.index.delete(names) == len(there)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def load(self) -> None:
        self.index.close()
        self.index = SearchIndex.load(self.place / "index", model=self.embed)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.model)
        query = vector("query")
        hits = self.index(query[None], top_k=50)[0]
        assert {hit.id: (hit.text, hit.metadata["n"]) for hit in hits} == self.model
        assert len(hits) == len(self.model)
        for hit in hits:
            own = vector(hit.text)
            assert abs(hit.score - own @ query / np.linalg.norm(own) / np.linalg.norm(query)) < 1e-5
        if any(number == 1 for _, number in self.model.values()):
            found = self.index(query[None], top_k=50, where={"n": 1})[0]
            assert {hit.id for hit in found} == {name for name, (_, number) in self.model.items() if number == 1}


@pytest.mark.parametrize(("store", "examples"), [("exact", 12), ("lance", 4)])
def test_against_a_dict(embed: Embedder, store: str, examples: int) -> None:
    Machine.embed, Machine.store = embed, store
    case = Machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case("runTest").runTest()
