"""The simulation of benchmarks/replica_model.py: laws of queues where the server reduces to them, and its limits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from replica_model import BALANCERS, Replica, Request, Service, Summary, poisson, simulate

from mmbert.serving.engine import Limits

ALONE = Limits(batch_tokens=1, queue_tokens=10**9, requests=10**9)
"""A batch is one request of one token, and nothing is refused: a queue with one server."""


def singles(rate: float, count: float, seed: int = 0) -> list[Request]:
    return [Request(float(at), [1]) for at in poisson(rate, count / rate, np.random.default_rng(seed))]


def waits(requests: list[Request], service: float) -> float:
    """Mean seconds before a request's own service."""
    return float(np.mean([request.latency for request in requests])) - service


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_equal_services_wait_as_in_an_m_d_1_queue(busy: float) -> None:
    requests = singles(busy, 60_000)
    simulate(requests, 1, Service(batch=1.0), ALONE)
    assert waits(requests, 1.0) == pytest.approx(busy / (2 * (1 - busy)), rel=0.05)  # Pollaczek-Khinchine


def test_exponential_services_wait_as_in_an_m_m_1_queue() -> None:
    busy, times = 0.6, np.random.default_rng(1).exponential(size=4000)
    requests = singles(busy, 60_000)
    simulate(requests, 1, Service(batch=1.0, factors=(times / times.mean()).tolist()), ALONE)
    assert waits(requests, 1.0) == pytest.approx(busy / (1 - busy), rel=0.08)
    # and the times of stay are exponential: ln 100 means are the 99th percentile
    assert Summary.of(requests).p99 == pytest.approx(np.log(100) / (1 - busy), rel=0.1)


def test_random_balancing_is_as_many_queues_of_their_own() -> None:
    busy = 0.7
    requests = singles(4 * busy, 80_000)
    simulate(requests, 4, Service(batch=1.0), ALONE, balancer="random")
    assert waits(requests, 1.0) == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)
    assert {request.replica for request in requests} == {0, 1, 2, 3}


def test_the_fewer_requests_a_balancer_lets_wait_the_less_they_wait() -> None:
    found = {}
    for balancer in BALANCERS:
        requests = [
            Request(float(at), [30] * (1 + n % 9)) for n, at in enumerate(poisson(2.4, 4000, np.random.default_rng(2)))
        ]
        factors = np.random.default_rng(3).exponential(size=500).tolist()
        simulate(requests, 4, Service(token=1 / 200, factors=factors), Limits(64, 10**9), balancer=balancer)
        found[balancer] = Summary.of(requests).p99
    assert found["least requests"] < found["best of two"] < found["random"]
    assert found["least requests"] < found["round robin"] < found["random"]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_no_request_is_lost_and_littles_law_holds(balancer: str) -> None:
    draw = np.random.default_rng(4)
    times = poisson(6.0, 3000, draw, group=5)
    requests = [Request(float(at), draw.integers(1, 90, draw.integers(1, 12)).tolist()) for at in times]
    simulate(requests, 3, Service(0.02, 0.001, 0.001, 0.002), Limits(256, 2048), balancer=balancer)
    answered = [request for request in requests if request.answered is not None]
    refused = len(requests) - len(answered)
    assert 0 < refused < len(requests) / 4
    assert all(request.latency > 0 for request in answered)
    # the mean number of unanswered requests, from a walk over all events, is rate times mean latency
    begins, ends = (np.sort([getattr(each, name) for each in answered]) for name in ("at", "answered"))
    until = max(ends)
    instants = np.linspace(0, until, 200_000)
    number = np.searchsorted(begins, instants, "right") - np.searchsorted(ends, instants, "right")
    assert number.mean() == pytest.approx(
        len(answered) / until * np.mean([each.latency for each in answered]), rel=0.01
    )


def test_a_batch_holds_what_waits_and_no_more_than_its_tokens() -> None:
    server = Replica(Limits(batch_tokens=100, queue_tokens=400))
    assert all(server.accept(Request(0.0, [40])) for _ in range(5))
    assert len(server.start()) == 2  # 80 of 100 tokens; a third row has no place
    assert server.start() == []  # one batch at a time; the next one, full, is cut meanwhile
    assert len(server.ready) == 2
    assert server.waiting == 200
    assert len(server.end()) == 2
    assert server.waiting == 120
    assert len(server.start()) == 2
    assert len(server.end()) == 2
    assert len(server.start()) == 1
    assert len(server.end()) == 1
    assert (server.waiting, server.requests) == (0, {})


def test_a_large_request_lets_a_small_one_pass_after_a_batch() -> None:
    large, small = Request(0.0, [50] * 20), Request(0.01, [10])
    simulate([large, small], 1, Service(token=0.01), Limits(batch_tokens=100, queue_tokens=10**6))
    # one batch of the large one runs, another is cut, a third stands before the small one: 3 s. Then they share
    assert small.answered == pytest.approx(3.6)
    assert large.answered == pytest.approx(10.1)


def test_what_is_refused_is_what_the_engine_refuses() -> None:
    limits = Limits(batch_tokens=100, queue_tokens=400, requests=3)
    server = Replica(limits)
    assert server.accept(Request(0.0, [100] * 3))  # more than a batch: up to three quarters
    assert not server.accept(Request(0.0, [10] * 11))
    assert server.accept(Request(0.0, [100]))
    assert not server.accept(Request(0.0, [1]))
    roomy = Replica(Limits(batch_tokens=100, queue_tokens=4000, requests=3))
    assert [roomy.accept(Request(0.0, [1])) for _ in range(4)] == [True, True, True, False]


def test_one_request_takes_what_was_measured_for_it() -> None:
    inside, beside = Service(0.1, 0.01, 0.001, 0.02), Service(0.1, 0.01, 0.001, 0.02, beside=True)
    for service in (inside, beside):
        (request,) = simulate([Request(5.0, [10, 20])], 1, service, Limits(64, 1024))
        assert request.latency == pytest.approx(0.1 + 0.02 + 0.03 + 0.02)
    # two batches a second of 64 tokens, 32 tokens and two rows a request
    assert Service(token=1 / 128).rate(32, 2, 64) == pytest.approx(4)
    assert Service(batch=0.5).rate(32, 2, 64) == pytest.approx(4)
