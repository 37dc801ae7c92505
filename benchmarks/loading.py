"""Time and memory from the start of a process to its first vector, beside sentence-transformers on the same folder.

    python benchmarks/loading.py --tokenizer FOLDER [--shape small] [--rounds 5] [--systems ...] [--home DIR]

The folder has a published shape, random weights, and the tokenizer of ``--tokenizer`` (a ``tokenizer.json``, may be in
gzip): with Gemma 2's it is as large as the real one. Every sample is a process of its own, which imports, loads, and
embeds one text with one thread; the systems alternate, the order reversed every round; figures are medians.

CPU      seconds of processor (user and system) until it ends; for ``serve`` until /health answers 200
peak     largest resident memory, pages of mapped files and libraries included; at least the 60 MB of this process
private  of that, what is the process's own, at the end: pages of files are shared by all processes
floor    ``import torch`` alone, and the ``tokenizers`` library with the same file alone

Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

TEXT = "What is the capital of France?"
READY = 120.0
"""Seconds after which a server counts as broken."""

# the parent stays small: before it runs its program, a child counts its parent's memory as its own
MAKE = """
import sys, json, torch
from pathlib import Path
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.tokenizer.tokenizer import Tokenizer
folder, shape = Path(sys.argv[1]), sys.argv[2]
tokenizer = Tokenizer.load(folder)
tokenizer.save(folder)
torch.manual_seed(0)
Encoder(ModelConfig.preset(shape, vocab_size=tokenizer.vocab_size, max_context=8192)).save(folder)
"""

OURS = """
import sys, mmbert
embed = mmbert.Embedder.load(sys.argv[1], precision=sys.argv[2])
embed(sys.argv[3])
"""

THEIRS = """
import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode(sys.argv[3])
"""

MEMORY = """
print([int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(("VmHWM", "RssAnon"))])
"""

SYSTEMS = {
    "import mmbert": ["-c", "import mmbert" + MEMORY],
    "mmbert --help": ["-m", "mmbert", "--help"],
    "mmbert doctor": ["-m", "mmbert", "doctor"],
    "floor: import torch": ["-c", "import torch" + MEMORY],
    "floor: tokenizers": ["-c", "import sys, tokenizers; tokenizers.Tokenizer.from_file(sys.argv[1])" + MEMORY, "JSON"],
    "sentence-transformers": ["-c", THEIRS + MEMORY, "MODEL", "fp32", TEXT],
    "Embedder, fp32": ["-c", OURS + MEMORY, "MODEL", "fp32", TEXT],
    "Embedder, bf16": ["-c", OURS + MEMORY, "MODEL", "bf16", TEXT],
    "Embedder, int8": ["-c", OURS + MEMORY, "MODEL", "int8", TEXT],
    "mmbert embed": ["-m", "mmbert", "embed", "MODEL", "--text", TEXT],
    "mmbert index query": ["-m", "mmbert", "index", "query", "INDEX", TEXT],
    "mmbert serve": ["-m", "mmbert", "serve", "MODEL", "--port", "PORT"],
}
PEER = "sentence-transformers"


@dataclass(frozen=True)
class Sample:
    """Seconds of processor, seconds on the wall, peak and private memory in MB (nan: not known)."""

    processor: float
    wall: float
    peak: float
    private: float = float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer.json")
    parser.add_argument("--shape", default="small", choices=["small", "base"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS], choices=[*SYSTEMS], metavar="SYSTEM")
    parser.add_argument("--home", type=Path, help="a folder that keeps the model; default: one that is removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loading-") as temporary:
        home = options.home or Path(temporary)
        folder, index = make_folder(home, options), home / "index"
        if "mmbert index query" in options.systems and not index.exists():
            (home / "text.txt").write_text(TEXT + "\n", encoding="utf-8")
            run("-m", "mmbert", "index", "build", str(folder), str(home / "text.txt"), "--out", str(index))
        samples: dict[str, list[Sample]] = {name: [] for name in options.systems}
        for turn in range(options.rounds + 1):  # the first round fills the caches of the system and of bytecode
            for name in options.systems if turn % 2 else reversed(options.systems):
                sample = measure(name, folder, index)
                if turn:
                    samples[name].append(sample)
        print(table(samples, folder, options.rounds))


def make_folder(home: Path, options: argparse.Namespace) -> Path:
    """A folder as sentence-transformers writes it: mean pooling and unit length."""
    folder: Path = home / options.shape
    if (folder / "modules.json").is_file():
        return folder
    folder.mkdir(parents=True)
    (packed,) = options.tokenizer.glob("tokenizer.json*")
    read = gzip.open if packed.suffix == ".gz" else open
    with read(packed, "rb") as file:
        (folder / "tokenizer.json").write_bytes(file.read())
    run("-c", MAKE, str(folder), options.shape)
    names = {"0": "Transformer", "1": "Pooling", "2": "Normalize"}
    modules = [
        {"idx": int(n), "name": n, "path": f"{n}_{name}" * (n != "0"), "type": f"sentence_transformers.models.{name}"}
        for n, name in names.items()
    ]
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}), encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment())


def measure(name: str, folder: Path, index: Path) -> Sample:
    """Start a system, and return what it needed."""
    port = _free_port()
    places = {"MODEL": folder, "JSON": folder / "tokenizer.json", "INDEX": index, "PORT": port}
    command = [sys.executable, *(str(places.get(part, part)) for part in SYSTEMS[name])]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
    if "PORT" in SYSTEMS[name]:
        return _until_ready(process, f"http://127.0.0.1:{port}/health", started)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    wall, peak, private = time.perf_counter() - started, usage.ru_maxrss * 1.024 / 1e3, float("nan")
    if MEMORY in "".join(SYSTEMS[name]):
        peak, private = (number * 1.024 / 1e3 for number in json.loads(output.splitlines()[-1]))
    return Sample(usage.ru_utime + usage.ru_stime, wall, peak, private)


def _until_ready(process: subprocess.Popen[bytes], url: str, started: float) -> Sample:
    """Wait until a server answers 200, and read its figures from /proc."""
    while time.perf_counter() - started < READY:
        try:
            with urllib.request.urlopen(url, timeout=5):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    else:
        process.kill()
        raise SystemExit(f"no answer from {url} within {READY:.0f} s")
    wall, place = time.perf_counter() - started, Path(f"/proc/{process.pid}")
    fields = (place / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    lines = [line.split() for line in (place / "status").read_text(encoding="ascii").splitlines()]
    memory = {words[0]: int(words[1]) * 1.024 / 1e3 for words in lines if words[0] in ("VmHWM:", "RssAnon:")}
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return Sample(processor, wall, memory["VmHWM:"], memory["RssAnon:"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def table(samples: dict[str, list[Sample]], folder: Path, rounds: int) -> str:
    """Markdown, with the ratio to sentence-transformers where it ran."""
    names = ("torch", "tokenizers", "transformers", "sentence-transformers")
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    chip = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in ("model.safetensors", "tokenizer.json")}
    rows = [
        f"    python benchmarks/loading.py {' '.join(sys.argv[1:])}\n",
        f"{chip}, one thread; {', '.join(f'{name} {version(name)}' for name in names)}; "
        f"{', '.join(f'{name} {size:.0f} MB' for name, size in sizes.items())}; medians of {rounds} rounds\n",
        "| process | CPU s | of sentence-transformers | wall s | peak MB | of sentence-transformers | private MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    medians = {
        name: Sample(*(statistics.median(getattr(s, field) for s in taken) for field in Sample.__dataclass_fields__))
        for name, taken in samples.items()
    }
    peer = medians.get(PEER)
    for name, found in medians.items():
        ratios = (
            (f"{found.processor / peer.processor:.2f}", f"{found.peak / peer.peak:.2f}")
            if peer is not None
            else ("", "")
        )
        private = "" if found.private != found.private else f"{found.private:,.0f}"
        rows.append(
            f"| {name} | {found.processor:.2f} | {ratios[0]} | {found.wall:.2f} | {found.peak:,.0f} | {ratios[1]} | "
            f"{private} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
