"""A server under load: throughput and latency, the cost of HTTP, overload, memory, and a rival beside it.

    python benchmarks/serving.py [--shape nano small] [--parts speed overhead overload steady rival] [--seconds 10]
        [--connections 1 8 64] [--threads 1] [--rounds 3] [--model FOLDER] [--steady-seconds 60]

The model has a published shape (or nano's), random weights and a tokenizer trained here on real text in many languages;
``--model`` takes a folder instead. Each server is ``mmbert serve`` in a process of its own, on the loopback, and so is
each load generator (asyncio and httpx). Texts of mixed lengths have 8 to 512 tokens, most of them short (lognormal,
median 48). A request holds 1 to 8 of them.

speed     closed loop: every connection sends its next request when it has the answer to the one before
overhead  one request of 64 texts of 128 tokens against the library's call on the same texts, taking turns
overload  requests come ten times as often as the server can answer, whatever it answers, for 60 seconds
steady    8 connections for ``--steady-seconds``; resident memory all the while
rival     sentence-transformers behind the simplest starlette app, the same requests, taking turns with ours

Everything is bounded: by seconds, by requests in flight, by a timeout of each. Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parent / "inference"))  # its texts and models are those of this benchmark too

TIMEOUT = 120.0
"""Seconds after which a request counts as lost."""
MOST_IN_FLIGHT = 256
KEYS = ("tokens", "thrift")
PARTS = ("speed", "overhead", "overload", "steady", "rival")


def make_folder(home: Path, shape: str) -> Path:
    """A folder with random weights of a shape, vocabulary 32,000, as transformers reads it."""
    from texts import make_model

    make_model(home / shape, shape, 32_000)
    return home / shape


def make_requests(folder: Path, count: int, most: int = 8) -> list[dict[str, Any]]:
    """Bodies of texts of mixed lengths, how many tokens each text has (``lengths``), and all of them."""
    from texts import cut

    from mmbert.tokenizer.tokenizer import Tokenizer

    draw = np.random.default_rng(0)
    sizes = draw.integers(1, most + 1, count)
    lengths = draw.lognormal(np.log(48), 0.9, int(sizes.sum())).round().clip(8, 512).astype(int)
    texts = iter(zip(cut(lengths.tolist(), Tokenizer.load(folder), exact=False), lengths.tolist(), strict=True))
    requests = []
    for size in sizes:
        some = [next(texts) for _ in range(size)]
        sizes_of = [length for _, length in some]
        requests.append({"inputs": [text for text, _ in some], "lengths": sizes_of, "tokens": sum(sizes_of)})
    return requests


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def resident(self) -> float:
        """MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def processor(self) -> float:
        """Seconds that all its threads have computed: what other programs on the machine do not blur."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serve(name: str, command: list[str], threads: int) -> Iterator[Server]:
    """Start a server, wait for its health, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{name} did not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.2)
            else:
                sys.exit(f"{name} is not healthy after 120 s")
            yield Server(name, port, process)
        finally:
            process.terminate()
            process.wait(timeout=60)


def ours(folder: Path, options: argparse.Namespace, *more: str) -> contextlib.AbstractContextManager[Server]:
    return serve("mmbert serve", [sys.executable, "-m", "mmbert", "serve", str(folder), *more], options.threads)


def rival(folder: Path, options: argparse.Namespace, dtype: str) -> contextlib.AbstractContextManager[Server]:
    command = [sys.executable, __file__, "--child-rival", str(folder), dtype]
    return serve(f"sentence-transformers, {dtype}", command, options.threads)


def run_rival(folder: str, dtype: str, port: int) -> None:
    """sentence-transformers behind the simplest starlette app: a route that encodes in a thread."""
    import torch
    import uvicorn
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    transformer = Transformer(folder, max_seq_length=8192, model_kwargs={"dtype": getattr(torch, dtype)})
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")

    async def embed(request: Request) -> JSONResponse:
        inputs = (await request.json())["inputs"]
        vectors = await run_in_threadpool(
            model.encode, inputs, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return JSONResponse(vectors.tolist())

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({})

    routes = [Route("/embed", embed, methods=["POST"]), Route("/health", health)]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning")


def load(server: Server, work: Path, **plan: Any) -> dict[str, Any]:
    """Run a load generator to its end. plan: connections, rate or times, and seconds."""
    command = [sys.executable, __file__, "--child-load", json.dumps({"port": server.port, "work": str(work), **plan})]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return found


class Generator:
    """Sends bodies to one server and keeps what came of each."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        requests = json.loads(Path(plan["work"]).read_text(encoding="utf-8"))
        self.bodies = [(orjson.dumps({"inputs": one["inputs"]}), one["tokens"]) for one in requests]
        random.Random(plan.get("seed", 0)).shuffle(self.bodies)
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.tokens = 0

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        body, tokens = self.bodies[number % len(self.bodies)]
        began = time.perf_counter()
        try:
            response = await client.post("/embed", content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            self.counts[type(error).__name__] += 1
            return
        self.counts[str(response.status_code)] += 1
        if response.status_code == 200:
            self.seconds.append(time.perf_counter() - began)
            self.tokens += tokens

    async def closed(self, client: httpx.AsyncClient, end: float) -> None:
        """As many at once as there are connections."""
        numbers = iter(range(10**9))

        async def connection() -> None:
            while time.perf_counter() < end:
                await self.send(client, next(numbers))

        await asyncio.gather(*(connection() for _ in range(self.plan["connections"])))

    async def handle(self, client: httpx.AsyncClient) -> None:
        """So many a second, or at given times, whatever has been answered.

        What would be too many in flight is not sent, but counted.
        """
        rate, seconds = self.plan.get("rate", 0.0), self.plan["seconds"]
        times = self.plan.get("times") or (number / rate for number in range(int(rate * seconds)))
        began, flying = time.perf_counter(), set[asyncio.Task[None]]()
        for number, at in enumerate(times):
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            if len(flying) >= MOST_IN_FLIGHT:
                self.counts["not sent"] += 1
                continue
            task = asyncio.create_task(self.send(client, number))
            flying.add(task)
            task.add_done_callback(flying.discard)
        await asyncio.gather(*flying)

    async def run(self) -> dict[str, Any]:
        base = f"http://127.0.0.1:{self.plan['port']}"
        limits = httpx.Limits(max_connections=MOST_IN_FLIGHT, max_keepalive_connections=MOST_IN_FLIGHT)
        began = time.perf_counter()
        async with httpx.AsyncClient(base_url=base, timeout=TIMEOUT, limits=limits, trust_env=False) as client:
            if "connections" in self.plan:
                await self.closed(client, began + self.plan["seconds"])
            else:
                await self.handle(client)
        took = time.perf_counter() - began
        quantiles = np.percentile(self.seconds, [50, 95, 99]) if self.seconds else [float("nan")] * 3
        return {
            "counts": dict(self.counts), "took": took, "rate": len(self.seconds) / took,
            "tokens": self.tokens / took, **dict(zip(("p50", "p95", "p99"), map(float, quantiles), strict=True)),
        }  # fmt: skip


def speed(folder: Path, work: Path, options: argparse.Namespace) -> Iterator[str]:
    yield "| connections | requests/s | tokens/s | p50 ms | p95 ms | p99 ms | answers |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    with ours(folder, options) as server:
        load(server, work, connections=8, seconds=3)
        for connections in options.connections:
            found = load(server, work, connections=connections, seconds=options.seconds)
            yield f"| {connections} | {_row(found)} | {_counts(found)} |"


def overhead(folder: Path, work: Path, options: argparse.Namespace) -> Iterator[str]:
    import torch
    from texts import cut

    from mmbert.inference.embedder import Embedder

    torch.set_num_threads(options.threads)
    embed = Embedder.load(folder)
    texts = cut([128] * 64, embed.loaded.tokenizer, exact=False)
    with ours(folder, options) as server, httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
        base = f"http://127.0.0.1:{server.port}"
        openai = {"input": texts, "model": folder.name, "encoding_format": "base64"}
        calls: dict[str, Callable[[], object]] = {
            "library": lambda: embed(texts, progress=False),
            "/embed": lambda: orjson.loads(
                client.post(f"{base}/embed", json={"inputs": texts}).raise_for_status().content
            ),
            "/v1/embeddings, base64": lambda: client.post(f"{base}/v1/embeddings", json=openai).raise_for_status(),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(options.rounds * 3 + 1):
            for name in list(calls) if turn % 2 else reversed(list(calls)):
                began = time.perf_counter()
                calls[name]()
                if turn:
                    times[name].append(time.perf_counter() - began)
    yield "| 64 texts of 128 tokens | median ms | over the library's call |"
    yield "| --- | ---: | ---: |"
    for name, taken in times.items():
        ratios = [mine / theirs for mine, theirs in zip(taken, times["library"], strict=True)]
        yield f"| {name} | {statistics.median(taken) * 1000:,.0f} | {100 * (statistics.median(ratios) - 1):+.0f}% |"


def overload(folder: Path, work: Path, options: argparse.Namespace) -> Iterator[str]:
    with ours(folder, options, "--max-queue-tokens", str(options.queue_tokens)) as server:
        handler_for = load(server, work, connections=16, seconds=options.seconds)
        before = server.resident()
        load(server, work, rate=10 * handler_for["rate"], seconds=10)
        warm = server.resident()
        found = load(server, work, rate=10 * handler_for["rate"], seconds=60)
        after = server.resident()
        again = load(server, work, connections=1, seconds=3)
    lost = sum(count for name, count in found["counts"].items() if name not in ("200", "429", "not sent"))
    rate = handler_for["rate"]
    yield f"Able to answer {rate:,.1f} requests/s (16 connections); {10 * rate:,.1f} a second came for 60 s.\n"
    yield "| answers | lost | accepted/s | tokens/s | p50 ms | p95 ms | p99 ms | MiB before, after 10 s, after 70 s |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield f"| {_counts(found)} | {lost} | {_row(found)} | {before:,.0f}, {warm:,.0f}, {after:,.0f} |"
    yield f"\nAfterwards one connection has a p50 of {again['p50'] * 1000:,.0f} ms."


def steady(folder: Path, work: Path, options: argparse.Namespace) -> Iterator[str]:
    memory = []
    with ours(folder, options) as server:
        load(server, work, connections=8, seconds=5)
        parts = 6
        for part in range(parts):
            found = load(server, work, connections=8, seconds=options.steady_seconds / parts, seed=part)
            memory.append(f"{server.resident():,.0f}")
    took = f"{options.steady_seconds:,.0f} s, 8 connections"
    yield f"{took}; MiB after each sixth: {', '.join(memory)}. The last: {_counts(found)}."


def race(folder: Path, work: Path, options: argparse.Namespace) -> Iterator[str]:
    """All servers are up, one is asked at a time; x: by how much ours is better, on the clock and by processor time."""
    with contextlib.ExitStack() as stack:
        servers = {
            "ours, as it starts": stack.enter_context(ours(folder, options)),
            "ours, fp32": stack.enter_context(ours(folder, options, "--precision", "fp32")),
            "sentence-transformers, fp32 (its default)": stack.enter_context(rival(folder, options, "float32")),
            "sentence-transformers, bf16": stack.enter_context(rival(folder, options, "bfloat16")),
        }
        for server in servers.values():
            load(server, work, connections=8, seconds=2)
        rates: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for turn in range(options.rounds):
            for name in list(servers) if turn % 2 else reversed(list(servers)):
                before = servers[name].processor()
                found = load(servers[name], work, connections=16, seconds=options.seconds, seed=turn)
                found["thrift"] = found["tokens"] * found["took"] / (servers[name].processor() - before)
                rates[name].append(found)
    yield "| 16 connections | tokens/s | p95 ms | tokens per processor second | x tokens/s | x by processor |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    first = rates["ours, as it starts"]
    for name, found in rates.items():
        tokens, p95, thrift = (statistics.median(one[key] for one in found) for key in ("tokens", "p95", "thrift"))
        times = [statistics.median(a[key] / b[key] for a, b in zip(first, found, strict=True)) for key in KEYS]
        yield f"| {name} | {tokens:,.0f} | {p95 * 1000:,.0f} | {thrift:,.0f} | {times[0]:.2f} | {times[1]:.2f} |"


def _row(found: dict[str, Any]) -> str:
    latency = " | ".join(f"{found[name] * 1000:,.0f}" for name in ("p50", "p95", "p99"))
    return f"{found['rate']:,.1f} | {found['tokens']:,.0f} | {latency}"


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(found["counts"].items()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["nano", "small"], choices=["nano", "small", "base"])
    parser.add_argument("--model", type=Path, help="this folder instead of random weights")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=PARTS)
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of speed")
    parser.add_argument("--steady-seconds", type=float, default=60)
    parser.add_argument("--queue-tokens", type=int, default=16_384, help="the limit of the server that is overloaded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every server and of the library")
    parser.add_argument("--home", type=Path, help="a folder that keeps the models; default: one that is removed")
    parser.add_argument("--child-load", help=argparse.SUPPRESS)
    parser.add_argument("--child-rival", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.child_load:
        print(orjson.dumps(asyncio.run(Generator(json.loads(options.child_load)).run())).decode())
        return
    if options.child_rival:
        run_rival(*options.child_rival, options.port)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "uvicorn", "sentence-transformers"))
    print(f"    python benchmarks/serving.py {' '.join(sys.argv[1:])}\n")
    print(
        f"{os.cpu_count()} cores, {options.threads} thread(s) a server; {names}, Python {platform.python_version()}\n"
    )
    parts = {"speed": speed, "overhead": overhead, "overload": overload, "steady": steady, "rival": race}
    with tempfile.TemporaryDirectory(prefix="serving-") as temporary:
        home = options.home or Path(temporary)
        for shape in [options.model.name] if options.model else options.shape:
            folder = options.model or make_folder(home, shape)
            work = Path(temporary) / "requests.json"
            work.write_text(json.dumps(make_requests(folder, 400)), encoding="utf-8")
            for part in options.parts:
                print(f"**{shape}, {part}**\n", flush=True)
                print("\n".join(parts[part](folder, work, options)) + "\n", flush=True)


if __name__ == "__main__":
    main()
