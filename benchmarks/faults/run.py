"""Faults, tried for real on a small run with ``python -m mmbert``; prints a table for docs/faults.md.

    python benchmarks/faults/run.py [kill sigterm ranks disk checkpoint shard spikes] [--moments 50] [--home DIR]

Each runs commands in processes of their own, harms them from outside, and compares what they end with, bit for bit,
with a run that nothing happened to. Ends with 1 if something did not go as it must. All of it takes about half an hour
on one quiet core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from damage import checkpoint, shard
from disk import disk
from kill import kill
from ranks import ranks
from sigterm import sigterm
from spikes import spikes
from trial import Row, Trial


def main() -> None:
    """Try what is asked for, all without arguments."""
    tries: dict[str, Callable[[Trial], list[Row]]] = {
        "kill": kill, "sigterm": sigterm, "ranks": ranks, "disk": disk, "checkpoint": checkpoint, "shard": shard,
        "spikes": spikes,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*tries, []], metavar="name", help=", ".join(tries))
    parser.add_argument("--moments", type=int, default=50, help="how often to kill")
    parser.add_argument("--home", type=Path, help="a folder to work in; default: one that is removed at the end")
    options = parser.parse_args()
    tries["kill"] = partial(kill, moments=options.moments)
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        trial = Trial.make(options.home or Path(temporary))
        print("| fault | what was done | what happened | seconds | held |\n| --- | --- | --- | ---: | --- |")
        failed = False
        for name in options.names or tries:
            for row in tries[name](trial):
                cells = (row.fault, row.done, row.happened, f"{row.seconds:.0f}", "yes" if row.held else "**no**")
                print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)
                failed = failed or not row.held
    sys.exit(failed)


if __name__ == "__main__":
    main()
