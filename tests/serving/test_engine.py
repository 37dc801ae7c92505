"""The engine: the library's vectors whatever shares a batch, refusals, failures, and callers that leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import TEXTS

from mmbert import Embedder
from mmbert.cancellation import check_cancelled
from mmbert.errors import Overloaded, TooLong
from mmbert.inference.windows import Place, Rows
from mmbert.packed import Packed
from mmbert.serving.engine import LARGE, Closed, Engine, Failed, Limits
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.metrics import ServerMetrics
from mmbert.serving.task import Answer, Task
from mmbert.serving.threads import Threads
from mmbert.serving.worker import Worker

CPU = torch.device("cpu")


class Desk:
    """A worker, a pool, and a computation that waits at a gate and keeps what it was given."""

    def __init__(self) -> None:
        self.worker, self.pool = Worker(), Threads(4)
        self.metrics = ServerMetrics().engine("sums")
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.batches: list[list[int]] = []
        self.poison: set[int] = set()

    def engine(self, batch: int = 16, queue: int = 1000, requests: int = 100) -> Engine:
        return Engine(self.worker, self.pool, CPU, Limits(batch, queue, requests), self.metrics)

    def task(self, *rows: Sequence[int]) -> Task[list[int]]:
        """Sums of rows."""

        def prepare() -> list[Rows[Any]]:
            return [Rows([np.array(row, np.uint32)], None) for row in rows]

        return Task(rows, 0, prepare, self.compute, lambda found: [text.results[0] for text in found])

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[int]:
        self.busy.set()
        assert self.gate.wait(10)
        self.batches.append(packed.lengths)
        if self.poison & set(packed.ids.tolist()):
            raise RuntimeError("a kernel failed")
        return [int(row.sum()) for row in packed.unpack(packed.ids)]

    def block(self, engine: Engine) -> Future[Answer[list[int]]]:
        """Keep the thread that computes busy until the gate opens."""
        self.gate.clear()
        self.busy.clear()
        first = engine.submit(self.task([1]))
        assert self.busy.wait(10)
        return first


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.gate.set()
    made.worker.stop()
    made.pool.stop(10)


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_requests_are_joined_and_split(desk: Desk) -> None:
    engine = desk.engine(batch=8)
    blocked = desk.block(engine)
    asked = [engine.submit(desk.task(*[[n] * 3] * n)) for n in (1, 2, 5)]
    until(lambda: engine._queue.tokens + 8 >= 24)
    desk.gate.set()
    assert [future.result(10).value for future in asked] == [[3], [6, 6], [15] * 5]
    assert blocked.result(10).value == [1]
    assert max(map(len, desk.batches)) == 2  # rows of 3 tokens, at most 8 a batch
    assert engine.outstanding == 0


def test_a_request_of_nothing_is_answered(desk: Desk) -> None:
    assert desk.engine().submit(desk.task()).result(10).value == []


def test_where_the_time_went(desk: Desk) -> None:
    engine = desk.engine()
    blocked = desk.block(engine)
    asked = engine.submit(desk.task([1, 2]))
    until(lambda: engine._queue.tokens == 2)
    time.sleep(0.05)
    desk.gate.set()
    timing = asked.result(10).timing
    assert timing.tokens == 2
    assert timing.queue > 0.04
    assert timing.inference < timing.queue
    blocked.result(10)


def test_what_is_too_much_is_refused_at_once(desk: Desk) -> None:
    engine = desk.engine(queue=10)
    desk.block(engine)
    waiting = engine.submit(desk.task([1] * 8))
    until(lambda: engine._queue.tokens == 8)
    begun = time.perf_counter()
    with pytest.raises(Overloaded, match="tokens wait of at most 10") as caught:
        engine.submit(desk.task([1]))
    assert time.perf_counter() - begun < 0.1
    assert caught.value.seconds >= 1
    desk.gate.set()
    waiting.result(10)
    until(lambda: not engine.outstanding)
    assert engine.submit(desk.task([1] * 8)).result(10).value == [8]


def test_the_queue_counts_true_tokens(desk: Desk) -> None:
    engine = desk.engine(queue=10)
    desk.block(engine)
    with pytest.raises(Overloaded):
        engine.submit(desk.task([1] * 9, [1])).result(10)  # fits by its estimate only
    desk.gate.set()


def test_a_request_larger_than_the_queue_is_too_long(desk: Desk) -> None:
    with pytest.raises(TooLong, match="11 tokens, at most 10"):
        desk.engine(queue=10).submit(desk.task([1] * 11)).result(10)


def test_too_many_requests_are_refused(desk: Desk) -> None:
    engine = desk.engine(requests=1)
    desk.block(engine)
    with pytest.raises(Overloaded, match="1 requests wait"):
        engine.submit(desk.task([1]))
    desk.gate.set()


def test_a_caller_that_leaves_is_not_computed(desk: Desk) -> None:
    engine = desk.engine(batch=4)
    desk.block(engine)
    gone, stays = engine.submit(desk.task([7] * 4, [7] * 4)), engine.submit(desk.task([5] * 4))
    until(lambda: len(engine._queue) >= 1 and engine._queue.tokens >= 8)
    assert gone.cancel()
    desk.gate.set()
    assert stays.result(10).value == [20]
    with pytest.raises(CancelledError):
        gone.result()
    until(lambda: not engine.outstanding)
    assert engine._tokens == 0
    assert [4] not in desk.batches or desk.batches.count([4]) <= 1


def test_a_failing_request_fails_alone(desk: Desk) -> None:
    engine = desk.engine(batch=100)
    desk.poison = {13}
    desk.block(engine)
    good, bad, fine = (engine.submit(desk.task([n, n])) for n in (2, 13, 3))
    until(lambda: engine._queue.tokens == 6)
    desk.gate.set()
    assert good.result(10).value == [4]
    assert fine.result(10).value == [6]
    with pytest.raises(Failed, match="a kernel failed"):
        bad.result(10)
    assert engine.submit(desk.task([1])).result(10).value == [1]  # the worker lives on
    until(lambda: not engine.outstanding)


def test_a_failing_request_leaves_the_line(desk: Desk) -> None:
    engine = desk.engine(batch=2)
    desk.poison = {13}
    with pytest.raises(Failed):
        engine.submit(desk.task(*[[13, 13]] * 50)).result(10)
    until(lambda: not engine.outstanding)
    assert len(desk.batches) < 10
    assert engine._tokens == engine._queue.tokens == 0


def test_what_cannot_be_read_or_finished_reaches_its_caller(desk: Desk) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    class Panic(BaseException):
        """As those of pyo3, which no ``except Exception`` catches."""

    def panics(*_: Any) -> Any:
        raise Panic("index out of bounds")

    engine = desk.engine()
    with pytest.raises(Failed, match="could not be read: Panic: index out of bounds"):
        engine.submit(Task(["a"], 1, panics, desk.compute, list)).result(10)
    with pytest.raises(Failed, match="answer could not be made: Panic"):
        engine.submit(Task(["a"], 1, desk.task([1]).prepare, desk.compute, panics)).result(10)
    with pytest.raises(Failed, match="could not be read: KeyError"):
        engine.submit(Task(["a"], 1, broken, desk.compute, list)).result(10)
    with pytest.raises(Failed, match="answer could not be made"):
        engine.submit(Task(["a"], 1, desk.task([1]).prepare, desk.compute, broken)).result(10)
    until(lambda: not engine.outstanding)


def test_a_closed_engine_takes_nothing_and_finishes_what_it_has(desk: Desk) -> None:
    engine = desk.engine()
    desk.block(engine)
    accepted = engine.submit(desk.task([2]))
    engine.close("the server is going down")
    with pytest.raises(Closed, match="going down"):
        engine.submit(desk.task([1]))
    desk.gate.set()
    assert accepted.result(10).value == [2]


def test_one_batch_is_prepared_while_one_runs(desk: Desk) -> None:
    engine = desk.engine(batch=2)
    desk.block(engine)
    asked = [engine.submit(desk.task([1, 1])) for _ in range(4)]
    until(lambda: desk.worker._ready is not None)
    until(lambda: engine._queue.tokens == 6)  # one is taken, no more
    desk.gate.set()
    assert [future.result(10).value for future in asked] == [[2]] * 4


def test_a_batch_that_is_not_full_stays_open(desk: Desk) -> None:
    engine = desk.engine(batch=100)
    desk.block(engine)
    asked = [engine.submit(desk.task([1, 1])) for _ in range(5)]
    until(lambda: engine._queue.tokens == 10)
    desk.gate.set()
    for future in asked:
        future.result(10)
    assert desk.batches == [[1], [2] * 5]


def test_models_take_turns(desk: Desk) -> None:
    busy, quiet = desk.engine(batch=2), desk.engine(batch=1000)
    desk.block(busy)
    many = busy.submit(desk.task(*[[1, 1]] * 20))
    until(lambda: busy._queue.tokens >= 36)
    one = quiet.submit(desk.task([1, 1, 1]))
    until(lambda: quiet._queue.tokens == 3)
    desk.gate.set()
    assert one.result(10).value == [3]
    many.result(10)
    assert desk.batches.index([3]) <= 3


def test_stopping_computes_what_waits() -> None:
    desk = Desk()
    engine = desk.engine(batch=2)
    desk.block(engine)
    asked = [engine.submit(desk.task([1, 1])) for _ in range(5)]
    until(lambda: engine._queue.tokens >= 8)
    desk.gate.set()
    desk.worker.stop()
    assert [future.result(10).value for future in asked] == [[2]] * 5
    desk.pool.stop(10)


@pytest.fixture(scope="module")
def embedding(folders: Path) -> EmbeddingHandler:
    return EmbeddingHandler(Embedder.load(folders / "tuned", precision="fp32"))


words = st.lists(st.sampled_from([*TEXTS[:8], "", " ", "a", "Watu wote", "<mask>", "\0"]), min_size=1, max_size=6)
options = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["query", "document"]),
        "dimensions": st.integers(1, 32),
        "normalize": st.booleans(),
    },
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, options), min_size=1, max_size=8), st.integers(8, 600))
def test_any_mixture_gives_the_library_s_vectors(
    embedding: EmbeddingHandler, asked: list[tuple[list[str], dict[str, Any]]], budget: int
) -> None:
    desk = Desk()
    try:
        engine = Engine(desk.worker, desk.pool, CPU, Limits(budget, 100_000), desk.metrics)
        futures = [engine.submit(embedding.embed(texts, **chosen)) for texts, chosen in asked]
        others = [engine.submit(embedding.tokens(texts)) for texts, _ in asked]
        passages = [engine.submit(embedding.passages(texts)) for texts, _ in asked[:2]]
        for (texts, chosen), future in zip(asked, futures, strict=True):
            np.testing.assert_allclose(future.result(30).value, embedding.embedder(texts, **chosen), rtol=0, atol=1e-5)
        for (texts, _), other in zip(asked, others, strict=True):
            for text, inner in zip(texts, other.result(30).value, strict=True):
                np.testing.assert_allclose(inner[1:-1], embedding.embedder.tokens(text).vectors, rtol=0, atol=5e-5)
        for (texts, _), found in zip(asked, passages, strict=False):
            for own, expected in zip(found.result(30).value, embedding.embedder.passages(texts), strict=True):
                assert own.spans == expected.spans
                np.testing.assert_allclose(own.vectors, expected.vectors, rtol=0, atol=1e-5)
    finally:
        desk.worker.stop()
        desk.pool.stop(10)


def test_one_request_holds_half_of_the_queue_and_leaves_room_for_small_ones(desk: Desk) -> None:
    engine = desk.engine(batch=4, queue=40)
    with pytest.raises(TooLong, match="21 tokens, at most 20"):  # alone, with an empty queue
        engine.submit(desk.task(*[[1] * 3] * 7)).result(10)
    desk.block(engine)
    large = engine.submit(desk.task(*[[1] * 4] * 5))
    until(lambda: engine._tokens == 21)
    with pytest.raises(Overloaded, match="of at most 30"):
        engine.submit(desk.task(*[[1] * 4] * 3)).result(10)
    small = [engine.submit(desk.task([1] * 4)) for _ in range(4)]
    until(lambda: engine._tokens == 37)
    desk.gate.set()
    assert [future.result(10).value for future in (large, *small)] == [[4] * 5, *[[4]] * 4]


def test_what_surely_has_too_many_tokens_is_refused_before_it_is_read(desk: Desk) -> None:
    def never() -> Any:
        raise AssertionError("tokenised")

    engine = desk.engine(queue=100)
    with pytest.raises(TooLong, match="100 tokens or more, at most 50"):
        engine.submit(Task(["a" * 3200], 3200, never, desk.compute, list))
    cut = Task(["a" * 3200], 3200, desk.task([1]).prepare, desk.compute, lambda found: found[0].results, longest=8)
    assert engine.submit(cut).result(10).value == [1]


def test_a_caller_that_leaves_stops_tokenising(desk: Desk) -> None:
    begun, chunks = threading.Event(), []

    def prepare() -> Any:
        for number in range(2000):
            check_cancelled()
            chunks.append(number)
            begun.set()
            time.sleep(0.005)

    engine = desk.engine()
    gone = engine.submit(Task(["a"], 1, prepare, desk.compute, list))
    assert begun.wait(10)
    gone.cancel()
    assert not desk.pool.stop(5)
    assert len(chunks) < 1000


def test_large_requests_leave_a_thread_to_small_ones(desk: Desk) -> None:
    gate = threading.Event()

    def slow() -> Any:
        gate.wait(20)
        return []

    engine = desk.engine(batch=100, queue=1_000_000)
    large = [engine.submit(Task(["a" * LARGE], LARGE, slow, desk.compute, list)) for _ in range(9)]
    assert engine.submit(desk.task([1, 1])).result(10).value == [2]
    gate.set()
    assert [future.result(10).value for future in large] == [[]] * 9


@pytest.mark.parametrize("row", [[], [[1, 2]]])
def test_a_batch_that_cannot_be_packed_fails_its_own_request(desk: Desk, row: Any) -> None:
    engine = desk.engine(batch=100)
    desk.block(engine)
    good, bad, fine = (engine.submit(desk.task(row)) for row in ([2, 2], row, [3, 3]))
    until(lambda: len(engine._jobs) == 4 and all(job.queued for job in engine._jobs))
    desk.gate.set()
    with pytest.raises(Failed, match="the model failed: ValueError"):
        bad.result(10)
    assert [good.result(10).value, fine.result(10).value] == [[4], [6]]
    assert engine.submit(desk.task([1])).result(10).value == [1]


def test_a_meter_that_fails_ends_no_thread(desk: Desk) -> None:
    class Broken:
        def batch(self, rows: int, tokens: int) -> None:
            raise KeyError("a bug")

        def queue(self, requests: int, tokens: int) -> None:
            pass

    engine = Engine(desk.worker, desk.pool, CPU, Limits(16, 1000), Broken())
    with pytest.raises(Failed, match="KeyError: 'a bug'"):
        engine.submit(desk.task([1, 1])).result(10)
    assert desk.engine().submit(desk.task([1])).result(10).value == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("stage", ["prepare", "compute"])
def test_a_worker_that_dies_refuses_what_waits_and_what_comes(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    worker, pool = Worker(heard.append), Threads(2)
    desk = Desk()
    desk.worker.stop()
    desk.worker = worker
    engine = Engine(worker, pool, CPU, Limits(2, 1000), desk.metrics)
    desk.block(engine)
    waiting = [engine.submit(desk.task([1, 1])) for _ in range(4)]
    until(lambda: engine._queue.tokens >= 4)

    def broken(*_: Any) -> Any:
        raise SystemExit("a bug")

    monkeypatch.setattr(engine._queue, "take", broken)
    if stage == "compute":
        monkeypatch.setattr(desk, "compute", broken)
        monkeypatch.setattr(worker, "_run", broken)
    desk.gate.set()
    for future in waiting[1:]:
        with pytest.raises(Closed, match="the worker died: SystemExit: a bug"):
            future.result(10)
    with pytest.raises(Closed, match="the worker died"):
        engine.submit(desk.task([1]))
    until(lambda: heard)
    assert "the worker died" in heard[0]
    assert not engine.outstanding
    assert worker.stop(5) == pool.stop(5) == desk.pool.stop(5) == []


def test_what_is_abandoned_is_refused_and_its_work_stops(desk: Desk) -> None:
    engine = desk.engine()
    blocked = desk.block(engine)
    waiting = engine.submit(desk.task([1]))
    assert engine.abandon("time is up") == 2
    for future in (blocked, waiting):
        with pytest.raises(Closed, match="time is up"):
            future.result(1)
    desk.gate.set()
    until(lambda: not engine.outstanding and engine._tokens == 0)
