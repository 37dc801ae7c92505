"""A small run that is treated badly: its text and recipe, its processes, and what it must end with.

The recipe has every stage of a real one (prepare, tokenizer, pretraining, extension, three decays, merge, evaluation,
report) with a model of 30,000 weights, so that a run takes half a minute. It is driven from outside alone: commands,
signals, files and exit codes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PHASES = ("pretrain", "extend", "decay_all", "decay_cont", "decay_eng")
LIMIT = 900.0
"""Seconds until a process that does not end counts as hanging."""

RECIPE = """
name: faults
sources: {{words: {{kind: jsonl, path: {home}/text}}}}
cleaning: {{holdout: 0.1, max_repetition: 1}}
tokenizer: {{vocab_size: 600, sample_characters: 200k}}
model: {{hidden_size: 32, intermediate_size: 32, num_layers: 4, num_heads: 2, window: 16, attention_out_dropout: 0.1}}
phases:
  pretrain: &phase
    tokens: 40k
    data: {{languages: 1, temperature: 0.7, max_epochs: null}}
    context: 64
    mask_rate: 0.3
    batch: 1024
    batch_start: 512
    batch_warmup: 4096
    micro_batch: 512
    peak_lr: 5e-3
    warmup: 2048
  extend:
    <<: *phase
    follows: pretrain
    batch_start: null
    batch_warmup: 0
    warmup: 0
    data: {{languages: 2, temperature: 0.5, max_epochs: null}}
    context: 128
  decay_all: &decay
    <<: *phase
    batch_start: null
    batch_warmup: 0
    warmup: 0
    follows: extend
    tokens: 20k
    mask_rate: 0.15
    data: {{temperature: 0.3, max_epochs: null}}
    decay: {{}}
  decay_cont: {{<<: *decay, data: {{languages: 2, temperature: 0.3, max_epochs: null}}}}
  decay_eng: {{<<: *decay, data: {{languages: 2, temperature: 0.3, max_epochs: null, fixed: {{eng: 0.7}}}}}}
merge: {{base: extend, phases: {{decay_all: 1, decay_cont: 1, decay_eng: 1}}}}
evaluation: {{context: 64, tokens_per_language: 4096, parallel: {home}/parallel, pairs_per_language: 20}}
runtime: {{checkpoint_every: 4096, log_every: 1, threads: 1, precision: fp32, device: cpu}}
"""

WORDS = {
    "eng_Latn": "the cat sat on a warm red mat and saw the old dog run far from home at night",
    "swh_Latn": "paka alikaa juu ya mkeka mwekundu na kuona mbwa mzee akikimbia mbali na nyumbani usiku",
    "ell_Grek": "η γάτα κάθισε πάνω στο κόκκινο χαλί και είδε τον γέρο σκύλο να τρέχει μακριά",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    done: str
    happened: str
    seconds: float
    held: bool
    """Whether it went as it must."""


@dataclass(frozen=True)
class Ended:
    """A process that is over."""

    code: int
    """Exit code, negative for a signal."""
    out: str
    said: str
    """On stderr."""
    seconds: float
    """From its start; for a stopped one from the signal."""

    @property
    def error(self) -> str:
        """The one line of an error of the package; else the last line."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("mmbert: ")]
        return (ours or lines or [""])[-1]


@dataclass
class Trial:
    """Text, recipe and runs below ``home``."""

    home: Path
    changes: list[str] = field(default_factory=list)
    """Overrides of the recipe, for all commands."""

    @classmethod
    def make(cls, home: Path, changes: list[str] | None = None) -> Trial:
        """Write text and recipe."""
        chance = random.Random(0)
        for number, (language, line) in enumerate(WORDS.items()):
            words = line.split()
            rows = [{"id": f"{n}", "text": " ".join(chance.choices(words, k=60))} for n in range(400 - 100 * number)]
            _write(home / "text" / f"{language}.jsonl", rows)
            english = WORDS["eng_Latn"].split()
            pairs = [{"id": f"{n}", "text": words[n], "english": english[n]} for n in range(13)]
            _write(home / "parallel" / language / "test.jsonl", pairs)
        (home / "recipe.yaml").write_text(RECIPE.format(home=home), encoding="utf-8")
        return cls(home, changes or [])

    def command(self, what: str, folder: Path, *more: str) -> list[str]:
        """``mmbert run`` or ``mmbert pretrain`` with overrides and options."""
        start = [sys.executable, "-m", "mmbert", what, str(self.home / "recipe.yaml")]
        return [*start, *self.changes, *more, "--out", str(folder)]

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Begin a command; its stderr goes to a file, so that nobody has to read it meanwhile."""
        # Many short processes: let what they import be compiled once.
        kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.home / "bytecode")}
        quiet = {"MMBERT_QUIET": "1", "OMP_NUM_THREADS": "1", **kept}
        log = (self.home / "stderr.txt").open("w")
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **quiet, **environment}
        )
        log.close()
        return process

    def end(self, process: subprocess.Popen[str], since: float) -> Ended:
        """Wait for a process."""
        out, _ = process.communicate(timeout=LIMIT)
        return Ended(process.returncode, out, (self.home / "stderr.txt").read_text(), time.monotonic() - since)

    def do(self, what: str, folder: Path, *more: str) -> Ended:
        """Run a command to its end."""
        since = time.monotonic()
        return self.end(self.start(self.command(what, folder, *more)), since)

    def stop(
        self, command: list[str], how: signal.Signals, when: Callable[[], bool] = lambda: True, after: float = 0.0
    ) -> Ended:
        """Start a command and send it a signal when ``when`` holds; it may end before that.

        after  seconds of processor that the command has used by then: on a busy machine it comes equally far
        """
        process, since = self.start(command), time.monotonic()
        while process.poll() is None and not (cpu_seconds(process.pid) >= after and when()):
            if time.monotonic() - since > LIMIT:
                raise TimeoutError(f"nothing to wait for in {command}")
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(how)
            since = time.monotonic()
        return self.end(process, since)

    def reference(self) -> Path:
        """A run that nothing happened to, made once."""
        folder = self.home / "whole"
        if not (folder / "report.html").is_file():
            ended = self.do("run", folder)
            if ended.code:
                raise SystemExit(f"the run without a fault failed:\n{ended.said}")
        return folder

    def cost(self) -> float:
        """Seconds of processor of a run, measured on a second one, which must end like the first."""
        folder = self.home / "second"
        self.reference()
        before = cpu_seconds_of_children()
        self.do("run", folder)
        spent = cpu_seconds_of_children() - before
        if self.differences(folder):
            raise SystemExit(f"two runs without a fault differ: {self.differences(folder)}")
        shutil.rmtree(folder)
        return spent

    def data(self) -> list[str]:
        """Options of ``pretrain`` for the data of the reference."""
        return ["--data", str(self.reference() / "data")]

    def differences(self, folder: Path, names: tuple[str, ...] = (*PHASES, "")) -> list[str]:
        """Models of a run that are not those of the reference, bit for bit; ``""`` is the merged one."""
        whole = self.reference()
        files = [f"{name}/final/model.safetensors".lstrip("/") for name in names]
        return [file for file in files if not _same(folder / file, whole / file)]


def cpu_seconds(pid: int) -> float:
    """Seconds of processor of a process; none once it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_of_children() -> float:
    """Of all processes that were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def checkpoints(folder: Path) -> dict[str, list[int]]:
    """Phase -> steps of the finished checkpoints of a run, ascending."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*/step-*")):
        if re.fullmatch(r"step-\d+", path.name):
            found.setdefault(path.parent.name, []).append(int(path.name.removeprefix("step-")))
    return {phase: sorted(steps) for phase, steps in found.items()}


def broken(folder: Path) -> list[str]:
    """Finished checkpoints whose files do not match their SHA256SUMS, as ``sha256sum -c`` would say."""
    return [
        f"{phase}/step-{step:06d}"
        for phase, steps in checkpoints(folder).items()
        for step in steps
        if not _whole(folder / phase / f"step-{step:06d}")
    ]


def lines(folder: Path, phase: str = "*") -> int:
    """Lines of metrics written so far."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"{phase}/metrics.jsonl"))


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit of a file, ``place`` of the way through it."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 16
    path.write_bytes(data)


def _whole(path: Path) -> bool:
    try:
        sums = [line.split("  ", 1) for line in (path / "SHA256SUMS").read_text().splitlines()]
        return bool(sums) and all(hashlib.sha256((path / n).read_bytes()).hexdigest() == s for s, n in sums)
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
