"""One base with many LoRA adapters: memory, and the speed of mixed requests, beside merged models and peft.

    python benchmarks/adapters.py [--shape small] [--adapters 1 4 10] [--rank 8] [--rows 120] [--rounds 5]

Classifiers over one base of a published shape (random weights, 32,000 rows), each an adapter of the four matrices of
every layer with a classifier of its own. ``rows`` requests of 8 to 64 tokens are spread over them evenly, in turn.

merged, one   all requests by one merged model: what the speed would be without adapters
shared        one encoder for all, requests of different adapters in common batches (``mmbert serve --adapter``)
merged, each  a merged model for each adapter, which computes its own requests in batches
peft, turn    transformers and peft: ``set_adapter`` and a forward pass for each request, as routers do
peft, grouped the same with the requests of each adapter in one padded batch

One thread, seconds of processor, systems alternate, medians. Memory: resident memory of a process of its own that has
loaded the models and computed the requests once, less that of one which has only imported the libraries.
Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mmbert.inference.adapters import load_adapters
from mmbert.inference.classifier import Classifier
from mmbert.model.adapter import FILE
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.folder import ADAPTER
from mmbert.model.tasks import SequenceClassifier
from mmbert.packed import Packed

MATRICES = ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
LABELS = 8
BUDGET = 2048
"""Tokens of a batch, as in the library."""

Rows = list[tuple[int, list[int]]]
"""The adapter and the ids of each request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=["small", "base"])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), help="default: all")
    parser.add_argument("--home", type=Path, help="a folder that keeps the models; default: one that is removed")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a child process: the system whose memory is measured
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="adapters-") as temporary:
        options.home = options.home or Path(temporary)
        write_models(options)
        if options.only:
            print(json.dumps(private_memory(options)))
        else:
            print(report(options))


def write_models(options: argparse.Namespace) -> None:
    """Write the base and the adapters, unless they are there."""
    home = options.home
    config = ModelConfig.preset(options.shape, vocab_size=32_000)
    if not (home / "base").exists():
        torch.manual_seed(0)
        SequenceClassifier(Encoder(config), LABELS, pooling="mean").save(home / "base", list("abcdefgh"))
        tokenizer(home / "base")
    for number in range(max(options.adapters)):
        folder = home / f"adapter-{options.rank}-{number}"
        if not folder.exists():
            write_adapter(folder, home / "base", config, options.rank, number)


def tokenizer(folder: Path) -> None:
    """Write a small tokenizer: the requests are ids already, and a folder needs one."""
    from mmbert.recipe import TokenizerTraining
    from mmbert.tokenizer.train import train_tokenizer

    text = [("eng_Latn", "a few words that make a vocabulary " * 3)]
    train_tokenizer(text, TokenizerTraining(vocab_size=512)).save(folder)


def write_adapter(folder: Path, base: Path, config: ModelConfig, rank: int, seed: int) -> None:
    """Write what peft writes, with random numbers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(shape, generator=generator)

    width, inner = config.hidden_size, config.intermediate_size
    shapes = dict(zip(MATRICES, ((3 * width, width), (width, width), (2 * inner, width), (width, inner)), strict=True))
    state = {"classifier.weight": random(LABELS, width), "classifier.bias": random(LABELS)}
    for layer in range(config.num_layers):
        for name, (out, into) in shapes.items():
            state[f"model.layers.{layer}.{name}.lora_A.weight"] = random(rank, into)
            state[f"model.layers.{layer}.{name}.lora_B.weight"] = random(out, rank)
    folder.mkdir()
    save_file({f"base_model.model.{name}": value for name, value in state.items()}, folder / FILE)
    values = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": rank, "lora_alpha": 2 * rank,
              "base_model_name_or_path": str(base), "target_modules": list(MATRICES),
              "modules_to_save": ["classifier"], "inference_mode": True}  # fmt: skip
    (folder / ADAPTER).write_text(json.dumps(values), encoding="utf-8")


def requests(options: argparse.Namespace, adapters: int) -> Rows:
    generator = np.random.default_rng(0)
    lengths = generator.integers(8, 65, options.rows)
    return [(n % adapters, generator.integers(5, 32_000, length).tolist()) for n, length in enumerate(lengths)]


def folders(options: argparse.Namespace, count: int) -> dict[str, Path]:
    return {str(number): options.home / f"adapter-{options.rank}-{number}" for number in range(count)}


def cut(rows: Rows) -> list[Rows]:
    """Batches of ``BUDGET`` tokens, in the order of the requests."""
    found: list[Rows] = [[]]
    for row in rows:
        if found[-1] and sum(len(ids) for _, ids in found[-1]) + len(row[1]) > BUDGET:
            found.append([])
        found[-1].append(row)
    return found


def merged(options: argparse.Namespace, adapters: int, *, models: int) -> Callable[[], object]:
    """Merged models, each of which computes its own requests; one model computes all."""
    rows = requests(options, adapters)
    made = [Classifier.load(place, precision=options.precision) for place in folders(options, models).values()]
    batches = [(model, batch) for n, model in enumerate(made)
               for batch in cut([row for row in rows if models == 1 or row[0] == n])]  # fmt: skip
    packed = [(model, Packed.from_lists([ids for _, ids in batch]).to()) for model, batch in batches]
    return lambda: [model.logits_of(each) for model, each in packed]


def shared(options: argparse.Namespace, adapters: int) -> Callable[[], object]:
    """One encoder, mixed batches, then the head of each adapter."""
    base, own = load_adapters(options.home / "base", folders(options, adapters), precision=options.precision)
    heads = [Classifier(loaded) for loaded in own.values()]
    batches = [(Packed.from_lists([ids for _, ids in batch]).to(), [n for n, _ in batch])
               for batch in cut(requests(options, adapters))]  # fmt: skip

    def compute() -> list[Any]:
        found = []
        for packed, numbers in batches:
            states = base.encoder(replace(packed, adapters=numbers))
            for number in set(numbers):
                part, places = packed.part([row for row, own in enumerate(numbers) if own == number])
                found.append(heads[number].logits_of(part, states=states[places]))
        return found

    return compute


def with_peft(options: argparse.Namespace, adapters: int, *, grouped: bool) -> Callable[[], object]:
    """transformers' model with all adapters of peft, one of which is active at a time."""
    import transformers
    from peft import PeftModel

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(options.home / "base")
    wrapped: Any = None
    for name, folder in folders(options, adapters).items():
        if wrapped is None:
            wrapped = PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            wrapped.load_adapter(folder, adapter_name=name)
    wrapped.eval()
    rows = requests(options, adapters)
    if grouped:
        batches = [(n, sorted((ids for own, ids in rows if own == n), key=len)) for n in range(adapters)]
    else:
        batches = [(n, [ids]) for n, ids in rows]

    def compute() -> list[Any]:
        found = []
        for number, texts in batches:
            wrapped.set_adapter(str(number))
            longest = max(map(len, texts))
            ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
            mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
            found.append(wrapped(input_ids=ids, attention_mask=mask).logits)
        return found

    return compute


SYSTEMS: dict[str, Callable[[argparse.Namespace, int], Callable[[], object]]] = {
    "merged, one": lambda options, count: merged(options, count, models=1),
    "shared": shared,
    "merged, each": lambda options, count: merged(options, count, models=count),
    "peft, turn": lambda options, count: with_peft(options, count, grouped=False),
    "peft, grouped": lambda options, count: with_peft(options, count, grouped=True),
}


def private_memory(options: argparse.Namespace) -> float:
    """MB of this process, after it has loaded a system and run it once."""
    name, _, count = options.only.rpartition(":")
    if name == "imports of peft":
        import peft  # noqa: F401
        import transformers.models.modernbert.modeling_modernbert  # noqa: F401
    elif name != "imports":
        with torch.inference_mode():
            kept = SYSTEMS[name](options, int(count))  # so that nothing is freed before the memory is read
            kept()
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    # all resident pages: weights stay in the map of their file, or lie in huge pages of their own
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1.024 / 1e3


def child(options: argparse.Namespace, name: str, count: int) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--home", str(options.home), "--only", f"{name}:{count}"]
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return float(json.loads(done.stdout.splitlines()[-1]))


def report(options: argparse.Namespace) -> str:
    """Measure everything, and return Markdown."""
    imports = {peft: child(options, "imports of peft" if peft else "imports", 0) for peft in (False, True)}
    lines = [
        f"    python benchmarks/adapters.py {shlex.join(sys.argv[1:])}\n",
        f"{options.shape} shape, rank {options.rank}, {options.precision}, {options.rows} requests, one thread\n",
        "| adapters | system | requests/s | of one merged model | of peft in turn | MB | of one merged model |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count in options.adapters:
        runs = {name: SYSTEMS[name](options, count) for name in options.systems}
        times: dict[str, list[float]] = {name: [] for name in runs}
        with torch.inference_mode():
            for turn in range(options.rounds + 1):
                for name in runs if turn % 2 else reversed(runs):
                    begun = time.process_time()
                    runs[name]()
                    if turn:
                        times[name].append(time.process_time() - begun)
        memory = {name: child(options, name, count) - imports["peft" in name] for name in runs}
        rates = {name: options.rows / statistics.median(taken) for name, taken in times.items()}
        lines += [
            f"| {count} | {name} | {rates[name]:.1f} | {_ratio(rates, name, 'merged, one')} | "
            f"{_ratio(rates, name, 'peft, turn')} | {memory[name]:,.0f} | {_ratio(memory, name, 'merged, one')} |"
            for name in runs
        ]
    return "\n".join(lines)


def _ratio(figures: dict[str, float], name: str, other: str) -> str:
    return f"{figures[name] / figures[other]:.2f}" if other in figures else "-"


if __name__ == "__main__":
    main()
