"""The disk is full while a checkpoint is written. Needs the right to mount a small tmpfs (root)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from trial import Row, Trial, broken, checkpoints


def disk(trial: Trial) -> list[Row]:
    """The run's folder is a disk on which the second checkpoint does not fit."""
    began, folder, done = time.monotonic(), trial.home / "disk", "a disk of 900 KiB; then room was made"
    if os.geteuid() != 0:
        return [Row("disk full", done, "not tried: only root may mount a small disk", 0.0, True)]
    folder.mkdir()
    _mount(folder, "size=900k")
    try:
        options = [*trial.data(), "--phase", "pretrain", "runtime.keep=3"]
        full = trial.do("pretrain", folder, *options)
        saved, bad = checkpoints(folder).get("pretrain", []), broken(folder)
        left = [path.name for path in folder.rglob("*.partial")]
        _mount(folder, "remount,size=64m")
        again = trial.do("pretrain", folder, *options)
        wrong = trial.differences(folder, ("pretrain",))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)
    resumed = bool(saved) and f"goes on after step {saved[-1]}" in again.said
    happened = (
        f"exit code {full.code}: {full.error.replace(f'{trial.home}/', '')}; {len(saved)} checkpoints whole, "
        f"{len(bad)} damaged, {len(left)} unfinished files; with room the same command went on "
        f"{'from the last one ' if resumed else ''}to {'other' if wrong else 'the same'} weights"
    )
    held = full.code == 2 and resumed and not bad and not left and again.code == 0 and not wrong
    return [Row("disk full", done, happened, time.monotonic() - began, held)]


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
