"""Two processes at once in one folder, and kills at random moments, for every command that writes a folder.

    python benchmarks/faults/races.py [--model runs/nano/final] [--json FILE] [--kills 20] [name ...]

Of two at once, one must do the work and the other do it too or say who is at it; after a kill the same command must
go on. In both cases the result must be that of a command that nothing happened to, bit for bit; of an index, its hits.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from outcome import KINDS, Outcome, failures, keep, of_command, table
from trial import cpu_seconds, cpu_seconds_of_children
from work import LIMIT, Command, Work, start

GAPS = (0.0, 0.5)
"""Seconds by which the second process comes later."""


def race(command: Command, whole: str, folder: Path, gap: float) -> Outcome:
    """Start a command twice; the worst of both ends is the outcome."""
    began = time.monotonic()
    both = [start(command.arguments(folder))]
    time.sleep(gap)
    both.append(start(command.arguments(folder)))
    ends = [_end(process) for process in both]
    same = any(code == 0 for code, _ in ends) and command.result(folder) == whole
    found = [of_command(code, stderr, same) for code, stderr in ends]
    kind, said = max(found, key=lambda one: KINDS.index(one[0]))
    if all(code != 0 for code, _ in ends) and kind == "named":
        kind, said = "silent", f"neither did the work: {said}"
    shutil.rmtree(folder)
    return Outcome("two at once", command.name, kind, said, time.monotonic() - began)


def kill(command: Command, whole: str, folder: Path, after: float) -> Outcome:
    """Kill a command that has used so many seconds of processor, and run it again."""
    began, process = time.monotonic(), start(command.arguments(folder))
    while process.poll() is None and cpu_seconds(process.pid) < after:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    code, stderr = _end(start(command.arguments(folder)))
    same = code == 0 and command.result(folder) == whole
    kind, said = of_command(code, stderr, same)
    if kind == "named" and "is there already" in said:  # it was through before the kill came
        kind = "harmless" if command.result(folder) == whole else "silent"
    elif kind == "named":
        kind, said = "silent", f"it did not go on: {said}"
    shutil.rmtree(folder)
    return Outcome("kill -9", f"{command.name} after {after:.1f} s", kind, said, time.monotonic() - began)


def run_all(model: Path, kills: int = 20, names: tuple[str, ...] = (), seed: int = 14) -> Iterator[Outcome]:
    """Race and kill every command, or those whose names hold one of ``names``."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="races-") as temporary:
        work = Work(Path(temporary) / "work", model)
        found = work.commands().values()
        commands = [command for command in found if not names or any(name in command.name for name in names)]
        for number, command in enumerate(commands):
            folder = Path(temporary) / "folder"
            arguments, before = command.arguments(folder), cpu_seconds_of_children()
            code, stderr = _end(start(arguments))
            if code != 0:
                raise RuntimeError(f"{command.name} fails undisturbed:\n{stderr}")
            cost, whole = cpu_seconds_of_children() - before, command.result(folder)
            shutil.rmtree(folder)
            share = kills // len(commands) + (number < kills % len(commands))
            for gap in GAPS[: 1 if cost > 10 else 2]:
                yield _told(race(command, whole, folder, gap))
            for _ in range(share):
                yield _told(kill(command, whole, folder, draw.uniform(0.3, 1) * cost))


def _told(outcome: Outcome) -> Outcome:
    said = f"{outcome.group}: {outcome.name}: {outcome.seconds:.1f} s: {outcome.said}"
    sys.stderr.write(f"{outcome.kind:9} {said}\n")
    return outcome


def _end(process: subprocess.Popen[bytes]) -> tuple[int | None, str]:
    """(exit status, standard error) of a process; None if it does not end in time."""
    try:
        _, stderr = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        _, stderr = process.communicate()
        return None, stderr.decode(errors="replace")
    return process.returncode, stderr.decode(errors="replace")


def main() -> None:
    """Try what is asked for, all without names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of commands")
    parser.add_argument("--model", type=Path, default=Path("runs/nano/final"), help="a masked language model")
    parser.add_argument("--json", type=Path, help="write each outcome as a line of JSON")
    parser.add_argument("--kills", type=int, default=20, help="kills in all")
    options = parser.parse_args()
    outcomes = keep(run_all(options.model.absolute(), options.kills, tuple(options.names)), options.json)
    print(table(outcomes))
    sys.exit(bool(failures(outcomes)))


if __name__ == "__main__":
    main()
