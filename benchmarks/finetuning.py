"""Steps of fine-tuning, ours beside plain transformers on the same texts, and what both learn.

    python benchmarks/finetuning.py speed [--shape small] [--batch 16] [--context 256] [--rounds 3] [--precision bf16]
    python benchmarks/finetuning.py accuracy --model MODEL --data FOLDER --language eng_Latn [--seeds 3] [--epochs 3]

``speed``: one process, the ways take turns on the same batches of one classification task; a step is forward, loss,
backward and AdamW. Figures are tokens (never padding) per second of processor, for one thread: what neighbours take of
the machine counts little. Lengths are log-normal around a quarter of the context, as in web text.
  ours      PackedModel on packed batches
  padded    ModernBertForSequenceClassification, DataCollatorWithPadding to the longest of each batch: the plain Trainer
  grouped   the same, batches of like lengths (train_sampling_strategy=group_by_length), its best setting
``accuracy``: both trainers with the same options and seeds on a folder of sequences with labels.
Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.trainer_pt_utils import LengthGroupedSampler

from mmbert import cpu
from mmbert.finetuning.collate import collate, texts_as_rows
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.finetune import finetune
from mmbert.finetuning.init_model import Start
from mmbert.finetuning.labels import Fields, label_names
from mmbert.finetuning.losses import ClassLoss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.metrics.classes import accuracy
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import SequenceClassifier
from mmbert.model.weights import config_to_hf

CLASSES, BATCHES, POOL = 4, 4, 48
"""Classes; batches that are timed; batches of an epoch."""
FIRST_ID = 300

Step = Callable[[int], None]


def texts(count: int, context: int, vocab_size: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(context / 4), 0.8, count), 8, context).astype(int)
    return [random.integers(FIRST_ID, vocab_size, length) for length in lengths]


def stepper(model: Any, batches: list[dict[str, Any]], precision: str) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    model.train()

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batches[number])["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def padded(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """As DataCollatorWithPadding does it."""
    longest = max(len(feature["ids"]) for feature in features)
    ids = torch.zeros(len(features), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, feature in enumerate(features):
        ids[row, : len(feature["ids"])] = torch.from_numpy(feature["ids"])
        mask[row, : len(feature["ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([f["labels"] for f in features])}


def grouped(features: list[dict[str, Any]], batch: int) -> list[list[dict[str, Any]]]:
    """Batches as the trainer's own sampler of like lengths makes them."""
    lengths = [len(feature["ids"]) for feature in features]
    order = list(LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    return [[features[index] for index in order[at : at + batch]] for at in range(0, len(order), batch)]


def speed(options: argparse.Namespace) -> None:
    config = ModelConfig.preset(options.shape, vocab_size=options.vocab_size)
    rows = texts(options.batch * POOL, options.context, options.vocab_size)
    features = [{"ids": ids, "labels": number % CLASSES} for number, ids in enumerate(rows)]
    random = [features[at : at + options.batch] for at in range(0, options.batch * BATCHES, options.batch)]
    # of an epoch of like lengths, batches from the longest to the shortest, at equal distances
    every = sorted(grouped(features, options.batch), key=lambda batch: sum(len(each["ids"]) for each in batch))
    like = every[POOL // (2 * BATCHES) :: POOL // BATCHES]
    torch.manual_seed(0)
    ours = SequenceClassifier(Encoder(config), CLASSES, pooling="mean", dropout=0.1)
    names = [str(number) for number in range(CLASSES)]
    start = Start(ours, None, tuple(names), options.context)  # type: ignore[arg-type]
    packed = PackedModel(start, ClassLoss(), texts_as_rows)
    values = {**config_to_hf(config), "num_labels": CLASSES, "classifier_dropout": 0.1, "attn_implementation": "sdpa"}
    their_config = transformers.ModernBertConfig(**values)
    theirs = transformers.ModernBertForSequenceClassification(their_config)
    ways = {
        "ours, packed": stepper(packed, [collate(batch) for batch in random], options.precision),
        "transformers, padded to the longest": stepper(theirs, [padded(batch) for batch in random], options.precision),
        "transformers, grouped by length": stepper(theirs, [padded(batch) for batch in like], options.precision),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, step in ways.items():
            begun = time.process_time()
            for number in range(BATCHES):
                step(number)
            seconds[name].append(time.process_time() - begun)
            sys.stderr.write(f"{name}: {seconds[name][-1]:.1f} s\n")
    print(
        f"**{options.shape}, {options.precision}**: texts of up to {options.context} tokens, {options.batch} a batch\n"
    )
    print("| way | tokens/s | ours is faster | padding |\n| --- | ---: | ---: | ---: |")
    own = 0.0
    for name, taken in seconds.items():
        batches = like if "grouped" in name else random
        tokens = sum(len(each["ids"]) for batch in batches for each in batch)
        cells = sum(len(batch) * max(len(each["ids"]) for each in batch) for batch in batches)
        rate = tokens / statistics.median(taken)
        own = own or rate
        wasted = 0.0 if "packed" in name else 1 - tokens / cells
        print(f"| {name} | {rate:,.0f} | {own / rate:.2f}x | {wasted:.0%} |")


def plain(options: argparse.Namespace, seed: int, out: Path) -> float:
    """The plain trainer: AutoModel, tokenizer, padding collator; its accuracy on test."""
    words = transformers.AutoTokenizer.from_pretrained(options.model)
    fields = Fields(("text", "label"))
    found = {
        role: read_examples(DataSpec(path=options.data, languages=(options.language,)), role, fields).rows
        for role in ("train", "test")
    }
    names = label_names([row["label"] for row in found["train"]])
    sets = {
        role: [
            {**words(row["text"], truncation=True, max_length=options.max_tokens, return_token_type_ids=False),
             "labels": names.index(row["label"])}
            for row in rows
        ]
        for role, rows in found.items()
    }  # fmt: skip
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=len(names), classifier_dropout=0.1, dtype=torch.float32
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(out), num_train_epochs=options.epochs, per_device_train_batch_size=32, seed=seed, use_cpu=True,
        learning_rate=options.learning_rate, warmup_steps=0.06, report_to="none", save_strategy="no",
        bf16=options.precision == "bf16", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=sets["train"], eval_dataset=sets["test"],
        data_collator=transformers.DataCollatorWithPadding(words),
        compute_metrics=lambda said: {
            "accuracy": accuracy(said.predictions.argmax(-1).tolist(), said.label_ids.tolist())
        },
    )  # fmt: skip
    trainer.train()
    return float(trainer.evaluate()["eval_accuracy"])


def packed_run(options: argparse.Namespace, seed: int, out: Path) -> float:
    """Ours; its accuracy on test."""
    place = {"path": options.data, "languages": [options.language]}
    recipe = FinetuneRecipe.model_validate({
        "name": "accuracy", "task": "classify", "model": options.model, "data": {"train": place, "test": place},
        "training": {"epochs": options.epochs, "learning_rate": options.learning_rate, "seed": seed, "device": "cpu",
                     "max_tokens": options.max_tokens, "precision": options.precision},
    })  # fmt: skip
    return finetune(recipe, out=out).metrics["test"]["accuracy"]


def compare(options: argparse.Namespace) -> None:
    print("| way | accuracy on test, by seed | mean | standard deviation | processor seconds |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, run in (("ours, packed", packed_run), ("transformers, padded", plain)):
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found = [run(options, seed, Path(folder) / str(seed)) for seed in range(options.seeds)]
        each = ", ".join(f"{100 * value:.1f}" for value in found)
        print(f"| {name} | {each} | {100 * statistics.mean(found):.1f} | {100 * statistics.stdev(found):.1f} | "
              f"{time.process_time() - begun:.0f} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "accuracy"])
    parser.add_argument("--shape", default="small")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    best = "bf16" if cpu.bf16_instructions() else "fp32"  # of both sides: emulated bf16 is slower than fp32
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=best)
    parser.add_argument("--model", default=None)
    parser.add_argument("--data", default=None)
    parser.add_argument("--language", default="eng_Latn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (speed if options.what == "speed" else compare)(options)


if __name__ == "__main__":
    main()
