"""How many replicas of ``mmbert serve`` a load needs: one replica measured, then many simulated.

    python benchmarks/replicas.py measure MODEL [--threads 1] [--seconds 60]
    python benchmarks/replicas.py check MODEL [--loads 0.4 0.7 0.9 1.3] [--seconds 90]
    python benchmarks/replicas.py table [--replicas 1 2 ...] [--load 2.8] [--seconds 600]

measure  one connection asks a server on the loopback for 1 to 48 texts at a time, so that each batch holds one request;
         seconds of batches over their rows and tokens go to ``replicas.json``, and those that a client waits besides:
         reading, tokenising and writing, on the one core that server and client share
check    the same server under Poisson arrivals, at parts of what it can answer, and the simulation of the same arrivals
table    simulated p50, p99 and share of refused requests over replicas, balancers, and single requests or bursts; draws
         docs/guides/images/replicas.svg

Server and client run on the cores that the command is given. Texts of 8 to 512 tokens, most of them short (as in
``serving.py``), 1 to 8 a request. ``replica_model.py`` has the simulation and what it assumes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "faults"))
sys.path.insert(0, str(Path(__file__).parent))

from outcome import processor
from replica_model import BALANCERS, Request, Service, Summary, poisson, simulate

from mmbert.files import read_json, write_text
from mmbert.serving.engine import Limits
from serving import Server, load, make_requests, ours

MEASURED = Path(__file__).with_suffix(".json")
PLOT = Path(__file__).parents[1] / "docs" / "guides" / "images" / "replicas.svg"
BATCH = 2048
"""Tokens of a batch: the server's default on a CPU."""
QUEUE = 16_384
"""``--max-queue-tokens`` of all servers here, as in deploy/kubernetes."""
COUNT = 400
"""Requests that are drawn, and sent over and over."""
BURST = 16
"""Requests that come at once in a burst."""


def replica(options: argparse.Namespace) -> contextlib.AbstractContextManager[Server]:
    """Return a server with the queue of all replicas here."""
    return ours(options.model, options, "--max-queue-tokens", str(QUEUE))


def fit(rows: np.ndarray, tokens: np.ndarray, seconds: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Return batch, row and token seconds, none negative, by least squares of relative errors; and the ratios."""
    columns = np.stack([np.ones_like(seconds), rows, tokens], axis=1)
    kept = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(columns[:, kept] / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    values = np.zeros(3)
    values[kept] = found
    return values.tolist(), seconds / (columns @ values)


def measure(options: argparse.Namespace) -> Iterator[str]:
    """Measure a replica and write ``replicas.json``."""
    probes = [one for one in make_requests(options.model, 600, most=48) if one["tokens"] <= BATCH]
    found = []
    with replica(options) as server, httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        for one in probes[:30]:
            client.post("/embed", json={"inputs": one["inputs"]})
        end = time.perf_counter() + options.seconds
        for one in probes[30:]:
            began = time.perf_counter()
            answer = client.post("/embed", json={"inputs": one["inputs"]}).raise_for_status()
            took, headers = time.perf_counter() - began, answer.headers
            inference = float(headers["x-inference-time"]) / 1000
            found.append((len(one["inputs"]), float(headers["x-compute-tokens"]), inference, took))
            if time.perf_counter() > end:
                break
    rows, tokens, inference, took = np.array(found).T
    (batch, row, token), ratios = fit(rows, tokens, inference)
    request = float(np.median(took - inference))
    mix = [one["lengths"] for one in make_requests(options.model, COUNT)]
    measured = {
        "processor": f"{processor()}; {options.threads} thread(s)",
        "model": options.model.name,
        "batches": len(found),
        "service": {
            "batch": batch, "row": row, "token": token, "request": request, "beside": False,
            "factors": np.quantile(ratios, np.linspace(0.01, 0.99, 50)).round(4).tolist(),
        },
        "requests": mix,
    }  # fmt: skip
    write_text(MEASURED, json.dumps(measured, separators=(",", ":")) + "\n")
    low, high = np.quantile(ratios, [0.05, 0.95])
    yield f"{len(found)} batches of 1 to {int(rows.max())} texts, {int(tokens.min())} to {int(tokens.max())} tokens:"
    yield f"{1e3 * batch:.2f} ms + {1e3 * row:.3f} ms a text + {1e3 * token:.4f} ms a token; nine of ten batches take "
    yield f"{low:.2f} to {high:.2f} times that. A request takes {1e3 * request:.2f} ms besides."


def measured() -> tuple[Service, list[list[int]]]:
    """Return what ``measure`` wrote: seconds, and the tokens of the texts of each request."""
    known = read_json(MEASURED)
    return Service(**known["service"]), known["requests"]


def able(service: Service, mix: Sequence[Sequence[int]]) -> float:
    """Return the requests per second of one replica that always has a full batch."""
    return service.rate(float(np.mean([sum(one) for one in mix])), float(np.mean([len(one) for one in mix])), BATCH)


def stream(times: np.ndarray, mix: Sequence[Sequence[int]], seed: int = 0) -> list[Request]:
    """Return requests at these times, of the measured sizes in the order of the load generator."""
    order = list(range(len(mix)))
    random.Random(seed).shuffle(order)
    return [Request(float(at), list(mix[order[number % len(order)]])) for number, at in enumerate(times)]


def check(options: argparse.Namespace) -> Iterator[str]:
    """Yield measured beside simulated figures of one replica."""
    service, mix = measured()
    rate = able(service, mix)
    tokens = rate * float(np.mean([sum(one) for one in mix]))
    yield f"One replica that is never idle: {rate:.1f} requests/s, {tokens:,.0f} tokens/s.\n"
    yield "| requests/s | of that | p50 ms | simulated | p99 ms | simulated | refused | simulated |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    with tempfile.TemporaryDirectory() as temporary, replica(options) as server:
        work = Path(temporary) / "requests.json"
        work.write_text(json.dumps(make_requests(options.model, COUNT)), encoding="utf-8")
        load(server, work, connections=4, seconds=5)
        for number, part in enumerate(options.loads):
            times = poisson(part * rate, options.seconds, np.random.default_rng(number))
            found = load(server, work, times=times.round(4).tolist(), seconds=options.seconds)
            counts = found["counts"]
            refused = counts.get("429", 0) / sum(counts.values())
            assert set(counts) <= {"200", "429"}, counts  # nothing was lost, and all was sent
            made = Summary.of(simulate(stream(times, mix), 1, service, Limits(BATCH, QUEUE)))
            p50, p99 = (f"{1e3 * found[name]:,.0f} | {1e3 * getattr(made, name):,.0f}" for name in ("p50", "p99"))
            share = f"{len(times) / options.seconds:.1f} | {part:.0%}"
            yield f"| {share} | {p50} | {p99} | {refused:.1%} | {made.refused:.1%} |"


def run(service: Service, mix: Sequence[Sequence[int]], rate: float, count: int, **how: Any) -> Summary:
    """Simulate so many replicas at a rate for ``seconds``; the first tenth is not counted."""
    seconds, group = how.pop("seconds"), how.pop("group", 1)
    times = poisson(rate, seconds, np.random.default_rng(1), group)
    return Summary.of(simulate(stream(times, mix), count, service, Limits(BATCH, QUEUE), **how), seconds / 10)


def table(options: argparse.Namespace) -> Iterator[str]:
    """Yield the tables of docs/guides/fleet.md, and draw its plot."""
    service, mix = measured()
    one = able(service, mix)
    rate = options.load * one
    rows: list[dict[str, Any]] = []
    yield f"{rate:.1f} requests/s, {options.load:g} times what one replica answers at most:\n"
    yield "| arrivals | replicas | busy | " + " | ".join(f"{name}: p50, p99 ms | refused" for name in BALANCERS) + " |"
    yield "| --- | ---: | ---: |" + " ---: | ---: |" * len(BALANCERS)
    for name, group in (("single", 1), (f"bursts of {BURST}", BURST)):
        for count in options.replicas:
            cells = []
            for balancer in BALANCERS:
                made = run(service, mix, rate, count, balancer=balancer, group=group, seconds=options.seconds)
                cells.append(f"{1e3 * made.p50:,.0f}, {1e3 * made.p99:,.0f} | {made.refused:.1%}")
                rows.append(
                    {
                        "arrivals": name,
                        "replicas": count,
                        "balancer": balancer,
                        "p99": made.p99,
                        "refused": made.refused,
                    }
                )
            yield f"| {name} | {count} | {min(1.0, options.load / count):.0%} | {' | '.join(cells)} |"
    yield "\np99 in ms, least requests, by how busy the replicas are:\n"
    yield "| replicas | " + " | ".join(f"{busy:.0%}" for busy in options.busy) + " |"
    yield "| ---: |" + " ---: |" * len(options.busy)
    for count in (1, 2, 4, 8, 16):
        found = [run(service, mix, busy * count * one, count, seconds=options.seconds) for busy in options.busy]
        yield f"| {count} | " + " | ".join(f"{1e3 * made.p99:,.0f}" for made in found) + " |"
    write_text(PLOT, draw(rows))
    yield from large(service, mix, options)


def large(service: Service, mix: Sequence[Sequence[int]], options: argparse.Namespace) -> Iterator[str]:
    """Yield what a large request now and then does to the others, whole and in parts sent at once."""
    one, count, size = able(service, mix), 4, 128
    texts = [tokens for request in mix for tokens in request][:size]
    beside = f"every 20 s one of {size} texts ({sum(texts):,} tokens)"
    yield f"\n{count} replicas, 50% busy with single requests; {beside}:\n"
    yield "| the large one is sent | the others: p99 ms | refused | the large one: median s | refused |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for parts in (1, 4, 8):
        small = stream(poisson(0.5 * count * one, options.seconds, np.random.default_rng(1)), mix)
        jobs = [
            [Request(at, texts[part::parts]) for part in range(parts)] for at in np.arange(10.0, options.seconds, 20.0)
        ]
        both = sorted([*small, *(request for job in jobs for request in job)], key=lambda request: request.at)
        simulate(both, count, service, Limits(BATCH, QUEUE))
        took = [max(request.latency for request in job) for job in jobs]  # nan: a part was refused
        lost, seen = float(np.isnan(took).mean()), Summary.of(small)
        name = "whole" if parts == 1 else f"in {parts} requests at once"
        half = "" if lost == 1 else f"{np.nanmedian(took):.1f}"
        yield f"| {name} | {1e3 * seen.p99:,.0f} | {seen.refused:.1%} | {half} | {lost:.0%} |"


def draw(rows: list[dict[str, Any]]) -> str:
    """Return the plot of p99 and of refused requests over replicas as SVG."""
    from mmbert.reporting.charts import ROWS, dress, load_library
    from mmbert.reporting.markdown import svg
    from mmbert.reporting.palette import phase_colour

    alt = load_library("altair")
    names = list(BALANCERS)
    scale = alt.Scale(domain=names, range=[phase_colour(number) for number in range(1, len(names) + 1)])
    base = alt.Chart(alt.NamedData(ROWS)).mark_line(point=True, strokeWidth=1.8)
    base = base.encode(
        x=alt.X("replicas:Q", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("balancer:N", sort=names, scale=scale, title=None),
    )
    panels = []
    for arrivals in dict.fromkeys(row["arrivals"] for row in rows):
        part = base.transform_filter(f"datum.arrivals === '{arrivals}'")
        panels += [
            part.encode(y=alt.Y("p99:Q", title="p99, seconds")).properties(
                width=300, height=220, title=f"{arrivals}: p99"
            ),
            part.encode(y=alt.Y("refused:Q", title="refused", axis=alt.Axis(format="%"))).properties(
                width=300, height=220, title=f"{arrivals}: refused (429)"
            ),
        ]
    rows_of_panels = [alt.hconcat(*panels[first : first + 2]) for first in range(0, len(panels), 2)]
    return svg(dress(alt.vconcat(*rows_of_panels), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("measure", "check"):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("--threads", type=int, default=1, help="of the server")
        command.add_argument("--seconds", type=float, default=60.0 if name == "measure" else 90.0)
    command.add_argument("--loads", type=float, nargs="+", default=[0.4, 0.7, 0.9, 1.3])
    command = commands.add_parser("table")
    command.add_argument("--load", type=float, default=2.8, help="in replicas that are never idle")
    command.add_argument("--replicas", type=int, nargs="+", default=list(range(2, 9)))
    command.add_argument("--busy", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9])
    command.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    print(f"    python benchmarks/replicas.py {' '.join(sys.argv[1:])}\n")
    for line in {"measure": measure, "check": check, "table": table}[options.command](options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
