"""Damaged files: checkpoints and shards with a flipped bit, or cut short."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from trial import Ended, Row, Trial, checkpoints, flip, lines


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _move(path: Path) -> None:
    state = json.loads(path.read_text())
    state["cursor"]["draw"] += 1
    path.write_text(json.dumps(state))


def checkpoint(trial: Trial) -> list[Row]:
    """The newest checkpoint is damaged: the one before it is used, and said."""
    rows = []
    harm: dict[str, tuple[str, Callable[[Path], None]]] = {
        "one bit of its weights flipped": ("model.safetensors", flip),
        "its averages cut in half": ("optimizer.safetensors", _cut),
        "its position changed": ("state.json", _move),
    }
    for done, (name, harmed) in harm.items():
        folder, began = trial.home / "damaged", time.monotonic()
        command = trial.command("pretrain", folder, *trial.data(), "--phase", "pretrain")
        trial.stop(command, signal.SIGTERM, lambda folder=folder: len(checkpoints(folder).get("pretrain", [])) > 1)
        newest, before = sorted(checkpoints(folder)["pretrain"])[-1:-3:-1]
        harmed(folder / f"pretrain/step-{newest:06d}" / name)
        ended = trial.do("pretrain", folder, *trial.data(), "--phase", "pretrain")
        noticed = f"step-{newest:06d} is damaged" in ended.said and f"goes on after step {before}" in ended.said
        wrong = trial.differences(folder, ("pretrain",))
        happened = f"{'said so' if noticed else 'said nothing'}, went on from the one before; weights at the end " + (
            "differ" if wrong else "the same"
        )
        held = noticed and ended.code == 0 and not wrong
        rows.append(Row("damaged checkpoint", done, happened, time.monotonic() - began, held))
        shutil.rmtree(folder)
    return rows


def shard(trial: Trial) -> list[Row]:
    """A shard is damaged, before and during training; ``stop`` and ``skip``."""
    return [
        _before(trial, skip=False),
        _before(trial, skip=True),
        _during(trial, skip=False),
        _during(trial, skip=True),
    ]


def _copy(trial: Trial) -> tuple[Path, Path]:
    """The data of the reference once more, and one of its shards."""
    data = trial.home / "data"
    shutil.copytree(trial.reference() / "data", data)
    return data, data / "shards/words/swh_Latn/00000.tokens"


def _before(trial: Trial, *, skip: bool) -> Row:
    began, folder = time.monotonic(), trial.home / "shards"
    data, path = _copy(trial)
    flip(path)
    option = f"runtime.on_bad_shard={'skip' if skip else 'stop'}"
    ended = trial.do("pretrain", folder, option, "--data", str(data))
    return _row(trial, f"a bit flipped before the start, {option}", ended, folder, data, began, skip=skip)


def _during(trial: Trial, *, skip: bool) -> Row:
    """The file is cut while its tokens are being drawn; a memory map would end the process with SIGBUS."""
    began, folder = time.monotonic(), trial.home / "shards"
    data, path = _copy(trial)
    option = f"runtime.on_bad_shard={'skip' if skip else 'stop'}"
    process = trial.start(trial.command("pretrain", folder, option, "--data", str(data)))
    while process.poll() is None and lines(folder, "extend") < 3:
        time.sleep(0.001)
    os.truncate(path, 40)
    ended = trial.end(process, began)
    return _row(trial, f"cut while training, {option}", ended, folder, data, began, skip=skip)


def _row(trial: Trial, done: str, ended: Ended, folder: Path, data: Path, began: float, *, skip: bool) -> Row:
    if skip:
        record = folder / "bad_shards.json"
        left = json.loads(record.read_text())["shards"] if record.is_file() else []
        happened = f"exit code {ended.code}; went on without {len(left)} shard: "
        happened += "; ".join(
            f"{s['documents']} documents, {s['tokens']} tokens, {_short(s['fault'], trial)}" for s in left
        )
        held = ended.code == 0 and len(left) == 1 and "left out" in ended.said
    else:
        happened = f"exit code {ended.code}: {_short(ended.error, trial)}"
        held = ended.code == 2 and "swh_Latn/00000.tokens is damaged at token" in ended.error
    shutil.rmtree(data)
    shutil.rmtree(folder)
    return Row("damaged shard", done, happened, time.monotonic() - began, held)


def _short(text: str, trial: Trial) -> str:
    return text.replace(f"{trial.home}/", "")
