"""Measure a GPU in one command: the tests marked gpu, then the published protocol beside transformers, then training.

    python benchmarks/gpu.py              # at most 8 minutes; needs no network and no installed mmbert
    python benchmarks/gpu.py --rehearse   # the same on a CPU with tiny shapes: does it run?

Every part is a process of its own with a time limit, so that no part's failure costs another's results. Rows are
printed as they come; the Markdown table for RECORDS.md is printed at the end, also after SIGTERM and when the time is
over. Parts, in this order:
  matrix                  TFLOP/s of one plain product of 8,192 x 8,192 in the GPU's precision: the peak meant below
  tests                   the test files that hold tests marked gpu
  train-1024, train-8192  one optimiser step at base shape with 256,000 rows, all texts as long as the context
  small-512, base-512     inference on texts of 512 and of normal(256, 64) tokens, beside transformers and XLM-R base
  small-8192, base-8192   inference on texts of 8,192 and of normal(4096, 1024) tokens, beside transformers
Models have random weights; texts are random ids, so nothing is tokenised. Padded systems get the texts sorted by length
and their fastest batch of several.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "matrix": 40, "tests": 120, "train-1024": 90, "base-512": 90, "small-512": 80, "base-8192": 70, "small-8192": 60,
    "train-8192": 70,
}  # fmt: skip
"""Name -> most seconds; the sum is more than the whole may take, so what comes late gets what is left."""
GOALS = (
    "Goals: inference 1.3x transformers with flash attention, 2 to 4x XLM-R base; training base at 1,024 tokens 45 % "
    "of the matrix peak."
)
KEYS = ("part", "system", "texts", "tokens_per_second", "of_peak", "memory_gib", "note")
TITLES = ("part", "system", "texts", "tokens/s", "ours is faster by", "of the matrix peak", "peak memory", "note")

Row = dict[str, Any]


@dataclass
class Part:
    """A part that ran: its rows, and how it ended."""

    name: str
    rows: list[Row]
    end: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, tiny shapes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=460.0, help="for everything together")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what a part's own process is told
    options = parser.parse_args()
    if options.part:
        run_part(options.part, rehearse=options.rehearse)
        return
    done: list[Part] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    until = time.monotonic() + options.seconds
    try:
        for name in options.parts:
            done.append(Part(name, [], "not begun: the time was over", 0.0))
            left = until - time.monotonic()
            if left > 1:
                measure(done[-1], min(left, PARTS[name]), rehearse=options.rehearse)
    finally:
        print(report(done, options), flush=True)


def measure(part: Part, limit: float, *, rehearse: bool) -> None:
    """Run a part in a process group of its own, and fill ``part`` with its rows as they come."""
    command = [sys.executable, __file__, "--part", part.name, *(["--rehearse"] if rehearse else [])]
    started = time.monotonic()
    part.end = "cut off"
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=around, start_new_session=True)
    try:
        for line in lines_until(process, started + limit):
            row = {"part": part.name, **json.loads(line)}
            part.rows.append(row)
            print("  ".join(f"{key}={row[key]}" for key in KEYS if row.get(key) is not None), flush=True)
        code = process.wait(timeout=max(0.1, started + limit - time.monotonic()))
        part.end = "" if code == 0 else f"ended with {code}: see its error above"
    except subprocess.TimeoutExpired:
        part.end = f"cut off after {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        part.seconds = time.monotonic() - started


def lines_until(process: subprocess.Popen[bytes], until: float) -> Iterator[bytes]:
    """Yield whole lines of a process's output. Raises TimeoutExpired at ``until`` (of the monotonic clock)."""
    assert process.stdout is not None
    descriptor, held = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise subprocess.TimeoutExpired(process.args, 0)
            block = os.read(descriptor, 1 << 16)
            if not block:
                return
            *whole, held = (held + block).split(b"\n")
            yield from whole


def run_part(name: str, *, rehearse: bool) -> None:
    """Print a JSON object per result of one part."""
    rows = run_tests() if name == "tests" else measured(name, rehearse=rehearse)
    for row in rows:
        print(json.dumps(row), flush=True)


def measured(name: str, *, rehearse: bool) -> Iterator[Row]:
    # only a part's process imports torch: the parent must not hold memory of the GPU
    sys.path.insert(0, str(Path(__file__).parent))
    from gpu_parts import infer, matrix, train

    if name == "matrix":
        return matrix(rehearse=rehearse)
    kind, _, context = name.rpartition("-")
    if kind == "train":
        return train(int(context), rehearse=rehearse)
    return infer(kind, int(context), rehearse=rehearse)


def run_tests() -> Iterator[Row]:
    """Run the files with tests marked gpu one by one: their conftest modules share one name."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "mark.gpu" not in path.read_text(encoding="utf-8"):
            continue
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-W", "default", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        said = result.stdout.strip().splitlines() or [result.stderr.strip()[-200:]]
        if result.returncode not in (0, 5):
            print(result.stdout[-6000:], file=sys.stderr, flush=True)
        yield {"system": str(path.relative_to(ROOT)), "note": said[-1].strip("= ")}


def report(parts: list[Part], options: argparse.Namespace) -> str:
    """Return the table. Speeds are relative to ours on the same texts; shares are of this run's own matrix peak."""
    rows = [row for part in parts for row in part.rows]
    peak = next((row["flops"] for row in rows if row["part"] == "matrix" and row.get("flops")), None)
    ours = {
        (row["part"], row.get("texts")): row["tokens_per_second"]
        for row in rows
        if row["system"].startswith("ours") and row.get("tokens_per_second")
    }
    lines = [
        f"    python benchmarks/gpu.py {' '.join(sys.argv[1:])}".rstrip(), "",
        f"{about(rows)}. {'A rehearsal: no figure means anything. ' if options.rehearse else ''}{GOALS}", "",
        "| " + " | ".join(TITLES) + " |", "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for part in parts:
        lines += [cells(row, ours, peak) for row in part.rows]
        if part.end:
            lines.append(f"| {part.name} | | | | | | | {part.end} |")
    return "\n" + "\n".join(lines) + "\n"


def about(rows: list[Row]) -> str:
    """Return the machine, as the first part that knows it says."""
    return next((row["machine"] for row in rows if row.get("machine")), platform.platform())


def cells(row: Row, ours: dict[Any, float], peak: float | None) -> str:
    """Return a row of the table; what a row does not have stays empty."""
    speed, best = row.get("tokens_per_second"), ours.get((row["part"], row.get("texts")))
    share = speed * row["flops_per_token"] / peak if speed and peak and row.get("flops_per_token") else None
    shown = (
        row["part"], row["system"], row.get("texts", ""),
        f"{speed:,.0f}" if speed else f"{row['flops'] / 1e12:.1f} TFLOP/s" if row.get("flops") else "",
        f"{best / speed:.2f}x" if speed and best else "",
        f"{share:.0%}" if share is not None else "",
        f"{row['memory_gib']:.1f} GiB" if row.get("memory_gib") is not None else "",
        str(row.get("note", "")).replace("|", "/").replace("\n", " ")[:160],
    )  # fmt: skip
    return "| " + " | ".join(shown) + " |"


if __name__ == "__main__":
    main()
