"""What locks, checksums and checks of requests cost: this tree against an older one, taking turns.

    git worktree add --detach /tmp/before 801a0c1       # with a virtual environment of its own in .venv
    python benchmarks/faults/overhead.py --before /tmp/before/.venv/bin/python [--model FOLDER] [--rounds 9]

Each tree has one process for the library and one server, both on one thread. A round does the same work in one and
then in the other, and the next round in the other order. Times are seconds of processor, of all threads of the process
that is measured: on a busy machine they hardly change. Prints a Markdown table: medians, and the median of the ratios
of the rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path

from trial import cpu_seconds
from work import ENVIRONMENT

TEXTS = [f"text number {n} of some words, such as {n * 7} and {n * 13}" for n in range(200)]
REQUESTS = 196
TURNS = 20
"""How often an index is opened, or a query asked, for one time: the clock of processor seconds has steps of 10 ms."""


def library(model: Path, home: Path) -> dict[str, Callable[[], object]]:
    """Return what is measured inside a process, by name; each can be called again and again."""
    from mmbert.inference.bulk import embed_to_file
    from mmbert.inference.embedder import Embedder
    from mmbert.search.index import SearchIndex

    embedder = Embedder.load(model, precision="fp32")
    records = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]

    def embed() -> None:
        (home / "out.npy").unlink(missing_ok=True)
        embed_to_file(embedder, enumerate(TEXTS), home / "out.npy", **_fifty(embed_to_file))

    def build() -> None:
        shutil.rmtree(home / "index", ignore_errors=True)
        with SearchIndex.create(home / "index", embedder, store="exact") as index:
            index.add(records, **_fifty(index.add))

    def handle() -> None:
        for _ in range(TURNS):
            with SearchIndex.load(home / "index", model=embedder) as index:
                index(TEXTS[0])

    build()
    index = SearchIndex.load(home / "index", model=embedder)

    def ask() -> None:
        for text in TEXTS:
            index(text)

    return {
        "embed 200 texts into a file": embed, "build an index of 200 texts": build,
        "query an index that is open, 200 times": ask, "open an index and query it once, 20 times": handle,
        **_checkpoints(model, home),
    }  # fmt: skip


def _fifty(function: Callable[..., object]) -> dict[str, int]:
    """Return the option for 50 texts at once, which older trees call ``piece``."""
    return {next(name for name in ("part_size", "batch_size", "piece") if name in signature(function).parameters): 50}


def _checkpoints(folder: Path, home: Path) -> dict[str, Callable[[], object]]:
    import mmbert
    from mmbert.model.config import ModelConfig
    from mmbert.model.heads import MaskedLM
    from mmbert.recipe import Recipe
    from mmbert.tokenizer.tokenizer import Tokenizer
    from mmbert.training import checkpoint
    from mmbert.training.checkpoint import State
    from mmbert.training.distributed import Mesh
    from mmbert.training.optim import StableAdamW, parameter_groups
    from mmbert.training.saver import Saver

    try:
        from mmbert.training.phase_context import PhaseContext
    except ModuleNotFoundError:  # an older tree
        from mmbert.training.job import Job as PhaseContext  # type: ignore[import-not-found, no-redef, unused-ignore]

    model = MaskedLM(ModelConfig.preset("nano", vocab_size=32_768))
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-4)
    older = Path(mmbert.__file__).parents[2] / "recipes" / "mmbert-small.yaml"
    recipe = Recipe.load(older if older.is_file() else "mmbert-small")
    saver = Saver(
        ctx := PhaseContext(recipe, "pretrain", home / "run", home / "run", Tokenizer.load(folder), Mesh(), "bf16")
    )
    state = State(ctx.name)

    def save() -> None:
        nonlocal state
        state = replace(state, cursor=replace(state.cursor, step=state.cursor.step + 1))
        saver.save(state, model, optimizer)
        saver.wait()

    def load() -> None:
        newest = checkpoint.latest(home / "run/pretrain") or checkpoint.latest(home / "run")
        assert newest is not None
        checkpoint.load(newest, model, optimizer)

    return {"save a checkpoint": save, "check and load a checkpoint": load}


def work(model: Path) -> None:
    """Be the process of the library: one line of standard input, one time on standard output."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="overhead-") as home:
        tasks = library(model, Path(home))
        print(json.dumps(list(tasks)), flush=True)
        for line in sys.stdin:
            since = time.process_time()
            tasks[line.strip()]()
            print(time.process_time() - since, flush=True)


class Tree:
    """The two processes of a tree."""

    def __init__(self, python: str, model: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        options = {
            "text": True,
            "env": {**os.environ, **ENVIRONMENT, "MMBERT_QUIET": "1"},
            "stderr": subprocess.DEVNULL,
        }
        self._library = subprocess.Popen(
            [python, __file__, "--work", "--model", str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **options,
        )
        self._server = subprocess.Popen(
            [python, "-m", "mmbert", "serve", str(model), "--port", str(self._port), "--precision", "fp32"], **options
        )
        assert self._library.stdin is not None
        assert self._library.stdout is not None
        self._in, self._out = self._library.stdin, self._library.stdout
        self.names: list[str] = json.loads(self._out.readline())
        self.names.append(f"answer {REQUESTS} requests of 4 texts")
        while not self._ready():
            time.sleep(0.2)

    def time(self, name: str) -> float:
        """Return the seconds of processor that a task took."""
        if name.startswith("answer"):
            return self._answer()
        self._in.write(name + "\n")
        self._in.flush()
        return float(self._out.readline())

    def close(self) -> None:
        """End both."""
        self._in.close()
        self._server.terminate()
        self._library.wait()
        self._server.wait()

    def _answer(self) -> float:
        connection, since = http.client.HTTPConnection("127.0.0.1", self._port), cpu_seconds(self._server.pid)
        for number in range(REQUESTS):
            body = json.dumps({"inputs": TEXTS[number : number + 4]})
            connection.request("POST", "/embed", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        return cpu_seconds(self._server.pid) - since

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


def main() -> None:
    """Measure both trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="the Python of the older tree")
    parser.add_argument("--model", type=Path, default=Path("runs/nano/final"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = options.model.absolute()
    if options.work:
        work(model)
        return
    trees = {"before": Tree(options.before, model), "now": Tree(sys.executable, model)}
    try:
        measure(trees, options.rounds)
    finally:
        for tree in trees.values():
            tree.close()


def measure(trees: dict[str, Tree], rounds: int) -> None:
    """Print the table."""
    print("| seconds of processor | before | now | ratio |\n| --- | ---: | ---: | ---: |")
    for name in trees["now"].names:
        times: dict[str, list[float]] = {which: [] for which in trees}
        for number in range(rounds + 1):
            for which in list(trees)[:: 1 if number % 2 else -1]:
                seconds = trees[which].time(name)
                if number:  # the first round warms up
                    times[which].append(seconds)
        ratio = statistics.median(now / before for before, now in zip(times["before"], times["now"], strict=True))
        medians = [f"{statistics.median(times[which]):.3f}" for which in trees]
        print(f"| {name} | {' | '.join(medians)} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
