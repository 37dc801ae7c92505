"""Steps of sentence tasks, packed beside sentence-transformers as it is, taking turns on the same batches.

    python benchmarks/finetuning_sentence.py [--kinds embed layers cached rerank sparse late] [--rounds 5]

Both are sentence-transformers: the same loss, features and optimiser; one model has the packed engine inside, the other
is transformers' own, padded to the longest text of each column. A step is forward, backward and AdamW. Queries are
log-normal around 10 tokens and documents around 70, as in MS MARCO; ids are drawn at random, which speed does not
depend on. Figures are tokens (never padding) per second of this process's own time (``--clock cpu``, for machines with
neighbours) or of the wall clock: medians over rounds, the order reversed each round. ``border`` is the part of a packed
step that unpacking the table of ids and laying out the vectors takes. Prints a Markdown table for RECORDS.md.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer

from mmbert import MaskedLM, ModelConfig, train_tokenizer
from mmbert.finetuning.packed_engine import lay_out, pack_table
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.sentence_model import build_model, encoder_of, quiet
from mmbert.finetuning.sentence_tasks import SPECS
from mmbert.recipe import TokenizerTraining

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("embed", {"mini_batch": None}),
    "layers": ("embed", {"mini_batch": None, "layers": [1, 2, 3]}),
    "cached": ("embed", {"mini_batch": 16}),
    "rerank": ("rerank", {}),
    "sparse": ("sparse", {}),
    "late": ("late_interaction", {"loss": "contrastive"}),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    print(f"{options.shape}, batch {options.batch}, {options.threads} thread(s), {options.clock} time\n")
    print("| kind | real tokens | padding | padded, tokens/s | packed, tokens/s | ratio | border |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as place:
        folder = _pretrained(Path(place), options.shape, options.vocab)
        for kind in options.kinds:
            print(_measure(kind, folder, options, clock), flush=True)


def _measure(kind: str, folder: Path, options: argparse.Namespace, clock: Callable[[], float]) -> str:
    task, block = KINDS[kind]
    values = {"name": "speed", "task": task, "model": str(folder), "data": {"train": {"path": "-"}}, task: block}
    recipe = FinetuneRecipe.model_validate({**values, "training": {"max_tokens": 512, "device": "cpu"}})
    packed = build_model(recipe)
    padded = copy.deepcopy(packed)
    with quiet():
        inner = Transformer(str(folder), transformer_task=packed[0].transformer_task, max_seq_length=512,
                            config_kwargs={"num_labels": 1} if task == "rerank" else {})  # fmt: skip
    inner.model.load_state_dict(encoder_of(packed).state_dict())
    padded[0].model = inner.model
    features = _features(kind, options)
    real = sum(int(column["attention_mask"].sum()) for column in features)
    table = sum(column["attention_mask"].numel() for column in features)
    steps = [_step(model, SPECS[task].make_loss(model, recipe.options), features, kind) for model in (padded, packed)]
    times: list[list[float]] = [[], []]
    for round_number in range(options.rounds + 1):
        for way in (0, 1) if round_number % 2 else (1, 0):
            start = clock()
            steps[way]()
            if round_number:  # the first warms up
                times[way].append(clock() - start)
    slow, fast = (statistics.median(each) for each in times)
    border = _border(features, encoder_of(packed).config.hidden_size, clock) / fast
    return (
        f"| {kind} | {real:,} | {1 - real / table:.0%} | {real / slow:,.0f} | {real / fast:,.0f} | "
        f"{slow / fast:.2f} | {border:.1%} |"
    )


def _step(model: Any, loss: Any, features: list[dict[str, torch.Tensor]], kind: str) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    labels = torch.rand(len(features[0]["input_ids"])).round() if kind == "rerank" else None
    model.train()

    def step() -> None:
        columns = [dict(column) for column in features]
        found = loss(columns, labels) if kind != "rerank" else _rerank_loss(model, columns[0], labels)
        (torch.stack(list(found.values())).sum() if isinstance(found, dict) else found).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _rerank_loss(model: Any, features: dict[str, torch.Tensor], labels: Any) -> torch.Tensor:
    """The library's loss takes texts and tokenises them in the step; here both ways get the same ids."""
    scores = model(features)["scores"].view(-1)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, pos_weight=torch.tensor(5.0))


def _border(features: list[dict[str, torch.Tensor]], width: int, clock: Callable[[], float]) -> float:
    """Time of table to packed texts and back, forward and backward."""
    seen = []
    for _ in range(5):
        start = clock()
        for column in features:
            packed, places = pack_table(column["input_ids"], column["attention_mask"])
            x = torch.zeros(packed.tokens, width, requires_grad=True)
            lay_out(x, places, tuple(column["input_ids"].shape)).sum().backward()
        seen.append(clock() - start)
    return statistics.median(seen)


def _features(kind: str, options: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """Padded columns as the collator makes them: queries, and documents."""
    random = np.random.default_rng(0)
    queries = random.lognormal(np.log(10), 0.4, options.batch).clip(4, 512).astype(int)
    documents = random.lognormal(np.log(70), 0.6, options.batch).clip(8, 512).astype(int)
    columns = [queries + documents] if kind == "rerank" else [queries, documents]
    return [_column(lengths, random, options.vocab) for lengths in columns]


def _column(lengths: np.ndarray, random: np.random.Generator, vocab: int) -> dict[str, Any]:
    mask = torch.from_numpy((np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64))
    ids = torch.from_numpy(random.integers(300, min(vocab, 512), mask.shape)) * mask
    return {"input_ids": ids, "attention_mask": mask, "modality": "text"}


def _pretrained(place: Path, shape: str, vocab: int) -> Path:
    words = train_tokenizer(
        [("eng_Latn", "all human beings are born free and equal")], TokenizerTraining(vocab_size=512)
    )
    MaskedLM(ModelConfig.preset(shape, vocab_size=vocab, max_context=1024, attention_out_dropout=0.0)).save(place)
    words.save(place, max_tokens=512)
    return place


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Steps of sentence tasks, packed beside padded.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--shape", default="nano", help="nano, small or base")
    parser.add_argument("--vocab", type=int, default=32_000, help="rows of the embedding")
    parser.add_argument("--batch", type=int, default=32, help="queries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
