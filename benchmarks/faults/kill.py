"""``kill -9`` at random moments of whole runs, each started again until it is through."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from trial import Row, Trial, broken, checkpoints

RESUMED = re.compile(r"(\w+) goes on after step (\d+)")


def stage(folder: Path) -> str:
    """Where a run was when it was killed, by what it left."""
    if (folder / "report.html").is_file():
        return "report"
    if not (folder / "data/shards/manifest.json").is_file():
        return "prepare"
    phases = [path.parent.name for path in folder.glob("*/metrics.jsonl")]
    open_phases = [name for name in phases if not (folder / name / "final").is_dir()]
    if open_phases:
        return "training"
    if len(phases) == 5 and not (folder / "merge/inputs.json").is_file() and (folder / "merge").is_dir():
        return "merge"
    return "evaluation, merge or between phases" if phases else "before training"


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
            half += ended.said.count("is damaged")
            for phase, step in RESUMED.findall(ended.said):
                lost += int(step) < max(before.get(phase, [0]))
            if ended.code == -signal.SIGKILL:
                kills += 1
                half += len(broken(folder))
                where = stage(folder)
                stages[where] = stages.get(where, 0) + 1
                sys.stderr.write(f"killed {kills}: run {runs}, {where}\n")
            elif ended.code:
                raise SystemExit(f"a run did not go on after a kill:\n{ended.said}")
            through = ended.code == 0
        wrong += len(trial.differences(folder))
        shutil.rmtree(folder)
    told = ", ".join(f"{number} in {name}" for name, number in sorted(stages.items(), key=lambda item: -item[1]))
    happened = (
        f"{runs} runs went through; {wrong} of {6 * runs} models differ from those of a run without a fault; "
        f"{lost} checkpoints lost, {half} half-written"
    )
    done = f"`kill -9` at {kills} random moments ({told}), the same command again"
    return [Row("killed", done, happened, time.monotonic() - began, wrong == lost == half == 0)]
