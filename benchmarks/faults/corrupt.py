"""Damaged files of every kind that a command reads: some 300 of them, each read by the command that reads it.

    python benchmarks/faults/corrupt.py [--model runs/nano/final] [--json FILE] [--tries 9] [name ...]

A folder is made once, its files are damaged one at a time in a copy (a bit flipped, cut, zeros or other bytes over a
block, two blocks exchanged, bytes appended, emptied), and the command is run on the copy in a forked process, so that
a segmentation fault or an endless loop is an outcome too. Prints the table of docs/faults.md.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import lzma
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from outcome import Outcome, failures, keep, of_command, table
from work import ENVIRONMENT, QUERIES, ROOT, Work, digest, run, start

LIMIT = 120.0
"""Seconds until a command counts as hanging."""
MEMORY = 6 * 2**30
"""Bytes of memory that a command may take: more is an error of its own."""
BLOCK = 64


@dataclass(frozen=True)
class Target:
    """Files of one kind and the command that reads them."""

    name: str
    files: Callable[[Path], list[Path]]
    """Of a copy of the folder: those that are damaged."""
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], str] | None = None
    """A digest of what the command wrote; None: of its standard output."""
    weight: int = 1
    """Its share of the tries."""


def bit(content: bytearray, draw: random.Random) -> None:
    """Flip one bit."""
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def cut(content: bytearray, draw: random.Random) -> None:
    """Leave out the rest."""
    del content[draw.randrange(len(content)) :]


def zeros(content: bytearray, draw: random.Random) -> None:
    """Put zeros over a block."""
    at = draw.randrange(len(content))
    content[at : at + BLOCK] = bytes(len(content[at : at + BLOCK]))


def noise(content: bytearray, draw: random.Random) -> None:
    """Put random bytes over a block."""
    at = draw.randrange(len(content))
    content[at : at + BLOCK] = draw.randbytes(len(content[at : at + BLOCK]))


def swap(content: bytearray, draw: random.Random) -> None:
    """Exchange two blocks."""
    if len(content) < 2 * BLOCK:
        content.reverse()
        return
    one = draw.randrange(len(content) // 2 - BLOCK + 1)
    two = draw.randrange(len(content) // 2, len(content) - BLOCK + 1)
    content[one : one + BLOCK], content[two : two + BLOCK] = content[two : two + BLOCK], content[one : one + BLOCK]


def append(content: bytearray, draw: random.Random) -> None:
    """Add bytes at the end."""
    content += draw.randbytes(BLOCK)


def empty(content: bytearray, draw: random.Random) -> None:
    """Leave nothing."""
    content.clear()


HARMS = (bit, bit, bit, cut, zeros, noise, swap, append, empty)


def in_fork(arguments: list[str], home: Path) -> tuple[int | None, bytes, str]:
    """Run a command of mmbert in a forked process: (exit status, standard output, standard error); None: no end."""
    out, err = home / "stdout", home / "stderr"
    child = os.fork()
    if child == 0:
        _child(arguments, out, err)
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), out.read_bytes(), err.read_text(errors="replace")
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, b"", err.read_text(errors="replace")


def _child(arguments: list[str], out: Path, err: Path) -> None:
    """What the forked process does; it never returns."""
    code = 1
    try:
        for descriptor, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(handle, descriptor)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from mmbert.cli.main import main

        sys.argv = ["mmbert", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # whatever it is, it is what the user would see
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _models(work: Work, home: Path) -> Iterator[tuple[Target, Path]]:
    shutil.copytree(work.model, home / "model")
    texts = [word for query in QUERIES for word in ("-t", query)]
    yield (
        Target("model folders", _all, lambda f: ["embed", str(f), *texts, "--precision", "fp32"], weight=4),
        (home / "model"),
    )


def _inputs(work: Work, home: Path) -> Iterator[tuple[Target, Path]]:
    import pyarrow.json
    import pyarrow.parquet
    import zstandard

    raw = b"".join(work.texts.read_bytes().splitlines(keepends=True)[:150])
    plain, summed = home / "plain", home / "summed"
    plain.mkdir()
    summed.mkdir()
    (plain / "a.jsonl").write_bytes(raw)
    table = pyarrow.json.read_json(plain / "a.jsonl")
    pyarrow.parquet.write_table(table, plain / "a.parquet", write_page_checksum=False)
    rows = table.to_pylist()
    (plain / "a.csv").write_text(
        "id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows), encoding="utf-8"
    )
    pyarrow.parquet.write_table(table, summed / "a.parquet", write_page_checksum=True)
    (summed / "a.jsonl.gz").write_bytes(gzip.compress(raw))
    (summed / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(raw))
    (summed / "a.jsonl.xz").write_bytes(lzma.compress(raw))
    (summed / "a.jsonl.bz2").write_bytes(bz2.compress(raw))
    for folder, name in ((plain, "inputs without checksums"), (summed, "inputs with checksums")):
        for file in sorted(folder.iterdir()):
            place = home / f"input-{folder.name}-{file.name}"
            place.mkdir()
            file.rename(place / file.name)
            yield Target(name, _all, partial(_embed, work.model, file.name)), place


def _embed(model: Path, name: str, folder: Path) -> list[str]:
    return ["embed", str(model), str(folder / name), "--text-field", "text", "--precision", "fp32"]


def _indexes(work: Work, home: Path) -> Iterator[tuple[Target, Path]]:
    for name, more, weight in (("exact", [], 3), ("exact", ["--output", "int8"], 1), ("lance", [], 4)):
        place = home / f"index-{name}{len(more)}"
        run([*work.commands()[f"index, {name}"].arguments(place), *more])
        run(work.query(place / "index"))  # which makes what words are searched by
        yield Target(f"index, {name}", _all, lambda f: work.query(f / "index"), weight=weight), place


def _runs(work: Work, home: Path) -> Iterator[tuple[Target, Path]]:
    recipe, changes = str(work.home / "recipe.yaml"), work.trial.changes
    whole = home / "whole"
    run(["run", recipe, *changes, "--out", str(whole)])
    merged = _copy(whole, home / "merged", "final", "merge", "data")
    yield Target(
        "final models of phases", _files("*/final/*"), lambda f: ["merge", recipe, *changes, "--out", str(f)],
        lambda f: digest([f / "final/model.safetensors"], f), weight=2,
    ), merged  # fmt: skip
    one = ["pretrain", recipe, *changes, "--phase", "pretrain"]
    of_phase = lambda f: digest([f / "pretrain/final/model.safetensors"], f)  # noqa: E731
    begun = home / "begun"
    data = str(whole / "data")
    run([*one, "runtime.keep=9", "--data", data, "--out", str(begun)])
    shutil.rmtree(begun / "pretrain/final")
    shutil.rmtree(sorted((begun / "pretrain").glob("step-*"))[-1])
    yield Target(
        "checkpoints", _files("pretrain/step-*/*"),
        lambda f: [*one, "runtime.keep=9", "--data", data, "--out", str(f)], of_phase, weight=2,
    ), begun  # fmt: skip
    shards = home / "shards"
    shutil.copytree(data, shards / "data")
    yield Target(
        "shards", _files("data/shards/**/*"), lambda f: [*one, "--data", str(f / "data"), "--out", str(f)], of_phase,
        weight=2,
    ), shards  # fmt: skip
    text = _copy(whole / "data", home / "text", "shards")
    yield Target(
        "text of prepare", _all, lambda f: ["data", "prepare", recipe, *changes, "--out", str(f)],
        lambda f: digest(f.glob("shards/**/*"), f), weight=2,
    ), text  # fmt: skip
    yield Target(
        "records of a run", _files("evaluation/*.json", "mixture.json", "merge/*.json"),
        lambda f: ["run", recipe, *changes, "--out", str(f)],
        lambda f: digest([f / "report.html", *f.glob("**/final/model.safetensors")], f), weight=2,
    ), _copy(whole, home / "records", "report.html")  # fmt: skip


def _begun(work: Work, home: Path) -> Iterator[tuple[Target, Path]]:
    """Work that was killed on the way, and the same command again."""
    embed = work.commands()["embed"]
    parts = home / "parts"
    _kill_when(embed.arguments(parts), parts, "*.parts.partial/000008.json")
    yield Target("parts of embed", _files("*.partial/*"), embed.arguments, embed.result, weight=3), parts
    masks = work.home / "masks.jsonl"
    masks.write_bytes(work.texts.read_bytes().replace(b" the ", b" <mask> ").replace(b'"text": "', b'"text": "<mask> '))
    answers = home / "answers"
    answers.mkdir()
    fill = lambda f: ["fill-mask", str(work.model), str(masks), "-o", str(f / "a.jsonl"), "--precision", "fp32"]  # noqa: E731
    _kill_when(fill(answers), answers, "a.jsonl.partial", 20_000)
    yield Target("begun answers", _files("*.partial"), fill, _rounded), answers


def _rounded(folder: Path) -> str:
    """A digest of answers without their last digits, which depend on the batch that a text was in."""
    return hashlib.sha256(re.sub(rb"(\d\.\d{3})\d*", rb"\1", (folder / "a.jsonl").read_bytes())).hexdigest()


def _kill_when(arguments: list[str], folder: Path, pattern: str, size: int = 1) -> None:
    """Start a command and kill it when a file is there and has grown to a size."""
    process = start(arguments)
    while not any(path.stat().st_size >= size for path in folder.glob(pattern)):
        if process.poll() is not None:
            raise RuntimeError(f"{arguments} ended before {pattern} was there: {process.communicate()[1].decode()}")
        time.sleep(0.002)
    process.kill()
    process.communicate()


def _copy(folder: Path, place: Path, *without: str) -> Path:
    """Copy a folder without some of what is at its top."""
    shutil.copytree(folder, place)
    for name in without:
        path = place / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place


def _all(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", "README.md")]


def _files(*patterns: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]


def damaged(target: Target, folder: Path, tries: int, draw: random.Random, home: Path) -> Iterator[Outcome]:
    """Damage the files of a target in turn, ``tries`` times."""
    place = home / "copy"

    def end() -> tuple[int | None, str, str]:
        """Run the command on the copy: (exit status, digest of the result, standard error)."""
        code, stdout, stderr = in_fork(target.arguments(place), home)
        result = target.result(place) if target.result and code == 0 else hashlib.sha256(stdout).hexdigest()
        return code, result, stderr

    shutil.copytree(folder, place)
    code, wanted, stderr = end()
    if code != 0:
        raise RuntimeError(f"{target.name}: the command fails on what is whole:\n{stderr[-2000:]}")
    shutil.rmtree(place)
    files = target.files(folder)
    chosen = draw.sample(files, min(tries, len(files))) + draw.choices(files, k=max(0, tries - len(files)))
    for path in chosen:
        shutil.copytree(folder, place)
        harmed, harm = place / path.relative_to(folder), draw.choice(HARMS)
        content = bytearray(harmed.read_bytes())
        if content:
            harm(content, draw)
        harmed.write_bytes(content)
        began = time.monotonic()
        code, result, stderr = end()
        kind, said = of_command(code, stderr, result == wanted)
        shutil.rmtree(place)
        name = f"{path.relative_to(folder)}: {(harm.__doc__ or '')[:-1].lower()}"
        yield Outcome(target.name, name, kind, said, time.monotonic() - began)


MAKERS: dict[str, Callable[[Work, Path], Iterator[tuple[Target, Path]]]] = {
    "models": _models, "inputs": _inputs, "indexes": _indexes, "runs": _runs, "begun": _begun,
}  # fmt: skip
"""What yields targets, each with the folder that it makes on the way."""


def run_all(model: Path, tries: int = 9, names: Collection[str] = MAKERS, seed: int = 14) -> Iterator[Outcome]:
    """Damage files of the named kinds: of each target ``tries`` times its weight."""
    os.environ.update(ENVIRONMENT)
    os.chdir(ROOT)
    _import_all()
    with tempfile.TemporaryDirectory(prefix="corrupt-") as temporary:
        home = Path(temporary)
        work = Work(home / "work", model)
        for name in names:
            for number, (target, folder) in enumerate(MAKERS[name](work, home)):
                draw = random.Random(f"{seed} {name} {number}")
                for outcome in damaged(target, folder, tries * target.weight, draw, home):
                    if outcome.kind not in ("named", "harmless"):
                        sys.stderr.write(f"{outcome.kind:9} {outcome.group}: {outcome.name}: {outcome.said}\n")
                    yield outcome


def _import_all() -> None:
    """Import once what every forked process needs. LanceDB is left out: it starts threads, which a fork would lose."""
    import torch

    import mmbert.cli.main
    import mmbert.inference.bulk
    import mmbert.inference.embedder
    import mmbert.pipeline
    import mmbert.search.index  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    """Damage what is asked for, all without names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MAKERS, []], metavar="name", help=", ".join(MAKERS))
    parser.add_argument("--model", type=Path, default=Path("runs/nano/final"), help="a masked language model")
    parser.add_argument("--json", type=Path, help="write each outcome as a line of JSON")
    parser.add_argument("--tries", type=int, default=9, help="files damaged, times the weight of their kind")
    options = parser.parse_args()
    model, record = options.model.absolute(), options.json and options.json.absolute()
    outcomes = keep(run_all(model, options.tries, options.names or MAKERS), record)
    print(table(outcomes))
    sys.exit(bool(failures(outcomes)))


if __name__ == "__main__":
    main()
