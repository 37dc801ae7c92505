"""Small work for every command that writes a folder, and what it must have made: killed, raced for and corrupted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trial import PHASES, WORDS, Trial

ROOT = Path(__file__).parents[2]
TOKENS = {"pretrain": 8192, "extend": 4096, **dict.fromkeys(PHASES[2:], 2048)}
TEXTS = 600
LARGE = 6000
"""Documents of each language for what is prepared."""
QUERIES = ("the cat sat on a mat", "paka alikaa", "home at night")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"faults-bytecode-{os.getuid()}"),
}  # fmt: skip
"""Many short processes: what they import is compiled once."""
LIMIT = 180.0
"""Seconds until a command counts as hanging."""


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, and a digest of what it made there."""

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], str]


class Work:
    """Text, recipes and a model, and the commands on them."""

    def __init__(self, home: Path, model: Path) -> None:
        """model  a masked language model"""
        self.home, self.model = home, model
        self.trial = Trial.make(home, [f"phases.{name}.tokens={length}" for name, length in TOKENS.items()])
        self.texts = home / "texts.jsonl"
        draw, words = random.Random(1), [word for line in WORDS.values() for word in line.split()]
        rows = [
            {"id": f"t{n}", "text": " ".join(draw.choices(words, k=12)), "year": 2000 + n % 9} for n in range(TEXTS)
        ]
        self.texts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        (home / "large").mkdir()
        for language, line in WORDS.items():  # enough that two at once do meet
            long = [json.dumps({"text": " ".join(draw.choices(line.split(), k=60))}) + "\n" for _ in range(LARGE)]
            (home / "large" / f"{language}.jsonl").write_text("".join(long), encoding="utf-8")
        labelled = [{"text": row["text"], "label": f"c{n % 3}", "category": f"c{n % 3}"} for n, row in enumerate(rows)]
        for split, part in (("train", labelled[:96]), ("dev", labelled[96:128]), ("test", labelled[128:160])):
            path = home / "sets" / "sib200" / "eng_Latn" / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
        tuning = "training: {epochs: 2, max_tokens: 32, batch: 16, device: cpu, save_every: 4}"
        (home / "suite.yaml").write_text(
            f"name: suite\ntasks:\n  sib200: {{languages: [eng_Latn], train_languages: [eng_Latn]}}\n"
            f"data: {home}/sets\n{tuning.replace(', save_every: 4', '')}\n"
        )

    def commands(self) -> dict[str, Command]:
        """Return the commands by name."""
        found = (
            Command(
                "prepare",
                self._recipe("data", "prepare", text="large"),
                lambda out: digest(out.glob("shards/**/*"), out),
            ),
            Command("pretrain", self._pretrain, lambda out: digest([out / "pretrain/final/model.safetensors"], out)),
            Command("run", self._recipe("run"), lambda out: digest(out.glob("**/final/*.safetensors"), out)),
            Command("finetune", self._finetune, lambda out: digest([out / "final/model.safetensors"], out)),
            Command("embed", self._embed, lambda out: digest([out / "vectors.npy"], out)),
            Command("index, exact", self._index("exact"), self.hits),
            Command("index, lance", self._index("lance"), self.hits),
            Command("evaluate", self._evaluate, self._scores),
        )
        return {command.name: command for command in found}

    def query(self, index: Path) -> list[str]:
        """Return the arguments that search an index by meaning and words."""
        return ["index", "query", str(index), *QUERIES, "--hybrid", "--model", str(self.model), "--precision", "fp32"]

    def hits(self, out: Path) -> str:
        """Return a digest of what is found in an index."""
        return hashlib.sha256(run(self.query(out / "index")).stdout).hexdigest()

    def _recipe(self, *words: str, text: str = "text") -> Callable[[Path], list[str]]:
        recipe = [str(self.home / "recipe.yaml"), *self.trial.changes, f"sources.words.path={self.home / text}"]
        return lambda out: [*words, *recipe, "--out", str(out)]

    def _pretrain(self, out: Path) -> list[str]:
        return [*self._recipe("pretrain")(out), "--phase", "pretrain", *self.trial.data()]

    def _finetune(self, out: Path) -> list[str]:
        sets = self.home / "sets/sib200/eng_Latn"
        return [
            "finetune", "classify", f"model={self.model}", "data.columns=null",
            f"data.train={{path: {sets}/train.jsonl}}", f"data.dev={{path: {sets}/dev.jsonl}}", "data.test=null",
            "training.epochs=2", "training.batch=16", "training.max_tokens=32", "training.device=cpu",
            "--out", str(out),
        ]  # fmt: skip

    def _embed(self, out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        options = ["--part-size", "50", "--text-field", "text", "--precision", "fp32"]
        return ["embed", str(self.model), str(self.texts), "-o", str(out / "vectors.npy"), *options]

    def _index(self, store: str) -> Callable[[Path], list[str]]:
        options = ["--store", store, "--batch-size", "100", "--precision", "fp32"]
        return lambda out: ["index", "build", str(self.model), str(self.texts), "-o", str(out / "index"), *options]

    def _evaluate(self, out: Path) -> list[str]:
        return ["evaluate", str(self.model), str(self.home / "suite.yaml"), "--out", str(out)]

    def _scores(self, out: Path) -> str:
        return digest(out.glob("**/final/model.safetensors"), out) + digest(out.glob("suite/*.md"), out)


def digest(paths: Iterable[Path], base: Path) -> str:
    """Return a digest of the names and bytes of files; that of none is that of none only."""
    found = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and path.name != ".lock"):
        found.update(path.relative_to(base).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Begin a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmbert", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}, cwd=ROOT,
    )  # fmt: skip


def run(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end. Raises RuntimeError with its stderr if it fails."""
    process = start(arguments)
    stdout, stderr = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise RuntimeError(f"mmbert {' '.join(arguments)}: {stderr.decode(errors='replace')[-2000:]}")
    return subprocess.CompletedProcess(arguments, 0, stdout, stderr)
