"""``kill -9`` at random moments of whole runs, each started again until it is through."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from trial import PHASES, Row, Trial, broken, checkpoints

RESUMED = re.compile(r"(\w+) goes on after step (\d+)")


def stage(folder: Path) -> str | None:
    """Where a run was when it was killed, by what it left; None if nothing was left to do."""
    if not (folder / "data/shards/manifest.json").is_file():
        return "prepare"
    if not (folder / "evaluation/unigram.json").is_file():
        return "the baseline"
    for name in PHASES:
        if not (folder / name / "metrics.jsonl").is_file():
            return "starting a phase"
        if not (folder / name / "final").is_dir():
            return "training"
        if not (folder / f"evaluation/{name}.json").is_file():
            return "evaluation"
    if not (folder / "merge/inputs.json").is_file():
        return "merge"
    if not (folder / "evaluation/merged.json").is_file():
        return "evaluation"
    return None if (folder / "final/README.md").is_file() else "report"


def kill(trial: Trial, moments: int = 50, seed: int = 1) -> list[Row]:
    """``moments`` kills, over as many runs as it takes."""
    chance = random.Random(seed)
    seconds = trial.cost()
    sys.stderr.write(f"a run takes {seconds:.1f} s of processor\n")
    began, kills, runs, lost, half, wrong = time.monotonic(), 0, 0, 0, 0, 0
    stages: dict[str, int] = {}
    while kills < moments:
        folder = trial.home / f"killed-{runs}"
        runs += 1
        through = False
        while not through:
            before = checkpoints(folder)
            command = trial.command("run", folder)
            if kills < moments:
                ended = trial.stop(command, signal.SIGKILL, after=chance.uniform(0.2, 1) * seconds)
            else:
                ended = trial.do("run", folder)
            bad = [line for line in ended.said.splitlines() if "is damaged" in line] + broken(folder)
            for name in bad:
                sys.stderr.write(f"incomplete: {name}\n")
            half += len(bad)
            for phase, step in RESUMED.findall(ended.said):
                lost += int(step) < max(before.get(phase, [0]))
            where = stage(folder)
            if ended.code == -signal.SIGKILL and where is not None:
                kills += 1
                stages[where] = stages.get(where, 0) + 1
                sys.stderr.write(f"killed {kills}: run {runs}, {where}\n")
            elif ended.code not in (0, -signal.SIGKILL):
                raise SystemExit(f"a run did not go on after a kill:\n{ended.said}")
            through = where is None
        wrong += len(trial.differences(folder))
        shutil.rmtree(folder)
    told = ", ".join(f"{number} in {name}" for name, number in sorted(stages.items(), key=lambda item: -item[1]))
    happened = (
        f"{runs} runs went through; {wrong} of {6 * runs} models differ from those of a run without a fault; "
        f"{lost} checkpoints lost, {half} half-written"
    )
    done = f"`kill -9` at {kills} random moments ({told}), the same command again"
    return [Row("killed", done, happened, time.monotonic() - began, wrong == lost == half == 0)]
