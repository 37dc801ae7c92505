"""Bulk inference: the command on this machine beside ``--on ray`` with one and two workers, and with one killed.

    python benchmarks/bulk.py --model FOLDER --texts FILE.jsonl [--count 400] [--files 4] [--cores 0]

The first ``--count`` texts are cut to 600 characters and divided into ``--files`` files. Each system embeds them in
fp32 with one thread for each worker, in processes of its own. Figures are seconds of processor (user and system), read
from /proc while they run; they hold on a machine that others use too.

workers  of this the workers: import of torch, the model, and the texts
Ray      its own processes, without workers
command  the process that was called; on this machine that is all
tokens   of one pass; the rate is tokens for each second of processor of all of them

Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet

_TICKS = os.sysconf("SC_CLK_TCK")

_WORKER = b"ray::ShardWorker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with a field text")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--cores", help="cores to run on, such as 0 or 0,1; default: all")
    asked = parser.parse_args()
    if asked.cores:
        os.sched_setaffinity(0, {int(core) for core in asked.cores.split(",")})
    os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="bulk-") as place:
        root = Path(place)
        write(asked, root)
        print(f"{asked.count} texts in {asked.files} files, `{asked.model.name}`, ray {version('ray')}, "
              f"torch {version('torch')}, {platform.machine()}\n")  # fmt: skip
        print("| | tokens | CPU seconds | workers | Ray | command | tokens per CPU second |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        command = [sys.executable, "-m", "mmbert", "embed", str(asked.model)]
        fixed = ["--device", "cpu", "--precision", "fp32"]
        alone = measure([*command, str(root / "all.jsonl"), "--out", str(root / "alone.parquet"), *fixed])
        rows: list[tuple[str, Path | None, dict[str, float]]] = [("`mmbert embed`", None, alone)]
        for workers, killed in ((1, False), (2, False), (2, True)):
            out = root / f"ray-{workers}-{killed}"
            options = ["--on", "ray", "--ray-address", "local", "--workers", str(workers), "--cpus-per-worker", "1"]
            line = [*command, str(root / "in"), "--out", str(out), *fixed, *options]
            name = f"`--on ray`, {workers} worker{'s' if workers > 1 else ''}{', one killed' if killed else ''}"
            rows.append((name, out, measure(line, out if killed else None)))
        tokens = json.loads((root / "ray-1-False" / "run.json").read_text())["tokens"]
        for name, _, spent in rows:
            total = sum(spent.values())
            parts = " | ".join(f"{spent[part]:.1f}" if spent[part] else "" for part in ("workers", "ray", "command"))
            print(f"| {name} | {tokens:,} | {total:.1f} | {parts} | {tokens / total:,.0f} |")
        print("\nVectors equal to those of the first line: " + ", ".join(
            "to the bit" if same(root, out) else "NO" for _, out, _ in rows if out))  # fmt: skip


def write(asked: argparse.Namespace, root: Path) -> None:
    """Write the texts as one file, and divided."""
    with asked.texts.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"][:600] for line in islice(file, asked.count)]
    lines = [json.dumps({"id": f"t{number}", "text": text}) + "\n" for number, text in enumerate(texts)]
    (root / "in").mkdir()
    (root / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    for number, part in enumerate(np.array_split(np.array(lines, object), asked.files)):
        (root / "in" / f"{number}.jsonl").write_text("".join(part), encoding="utf-8")


def measure(command: list[str], kill_in: Path | None = None) -> dict[str, float]:
    """Run a command; return seconds of processor of it, of Ray's processes and of workers.

    kill_in  kill the first worker of which a finished file and the beginning of another lie in this folder
    """
    seen: dict[int, tuple[str, float]] = {}
    said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
    process = subprocess.Popen(command, stdout=said, stderr=said)
    family, killed = {process.pid}, kill_in is None
    while process.poll() is None:
        processes = table()
        while more := {number for number, (parent, _, _) in processes.items() if parent in family} - family:
            family |= more
        for number in family & processes.keys():
            _, seconds, title = processes[number]
            before = seen.get(number, ("", 0.0))[0]
            kind = "workers" if title.startswith(_WORKER) else before or "ray"
            seen[number] = ("command" if number == process.pid else kind, seconds)
            begun = kill_in is not None and any(kill_in.glob("*.parquet")) and any(kill_in.glob("*.partial"))
            if not killed and begun and title.startswith(_WORKER + b".run"):
                os.kill(number, signal.SIGKILL)
                killed = True
        time.sleep(0.2)
    if process.returncode or not killed:
        said.seek(0)
        raise SystemExit(f"{' '.join(command)} failed, or no worker was killed:\n{said.read().decode()}")
    found = dict.fromkeys(("workers", "ray", "command"), 0.0)
    for kind, seconds in seen.values():
        found[kind] += seconds
    return found


def table() -> dict[int, tuple[int, float, bytes]]:
    """Return parent, seconds of processor and title of every process."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            title = (place / "cmdline").read_bytes()
        except OSError:
            continue
        found[int(place.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS, title)
    return found


def same(root: Path, out: Path) -> bool:
    """Return whether a run has the rows of the file that the command wrote, to the bit."""
    alone = pyarrow.parquet.read_table(root / "alone.parquet")
    column = "vector" if "vector" in alone.column_names else "embedding"
    parts = [pyarrow.parquet.read_table(path) for path in sorted(out.glob("*.parquet"))]
    ids = [name for part in parts for name in part["id"].to_pylist()]
    vectors = [vector for part in parts for vector in part["vector"].to_pylist()]
    return ids == alone["id"].to_pylist() and np.array_equal(np.array(vectors), np.array(alone[column].to_pylist()))


if __name__ == "__main__":
    main()
