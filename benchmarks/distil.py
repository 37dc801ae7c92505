"""A distilled student beside its teacher: texts a second, one query, and memory of the weights.

    python benchmarks/distil.py TEACHER STUDENT TEXTS [--texts 512] [--rounds 3] [--batch 8 32]

TEACHER is run by sentence-transformers in fp32 and, where the processor is fast in it, bf16, at each ``--batch``;
STUDENT by our Embedder in every precision. TEXTS is a file of rows with ``text``. One thread, this process's own time
(neighbours do not count), medians over rounds in which the systems take turns. Prints a Markdown table; ratios are to
the teacher's faster precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from sentence_transformers import SentenceTransformer

from mmbert import Embedder
from mmbert.cpu import bf16_instructions
from mmbert.io.rows import read_rows

Encode = Callable[[Sequence[str]], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("file")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = [str(row["text"]) for _, row in read_rows(options.file)][-options.texts :]
    systems = {**teachers(options.teacher, options.batch), **students(options.student)}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    queries: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(options.rounds + 1):
        for name in systems if number % 2 else reversed(systems):
            taken = timed(systems[name], texts), statistics.median(timed(systems[name], [texts[i]]) for i in range(9))
            if number:  # the first round warms up
                seconds[name].append(taken[0])
                queries[name].append(taken[1])
    rate = {name: len(texts) / statistics.median(found) for name, found in seconds.items()}
    query = {name: 1000 * statistics.median(found) for name, found in queries.items()}
    taught = [name for name in systems if name.startswith("teacher")]
    rates, times = max(rate[name] for name in taught), min(query[name] for name in taught)
    print(f"{len(texts):,} texts of {sum(map(len, texts)) / len(texts):.0f} characters, one thread\n")
    print("| system | texts/s | x teacher | one text, ms | x teacher |\n| --- | ---: | ---: | ---: | ---: |")
    for name in systems:
        print(
            f"| {name} | {rate[name]:,.0f} | {rate[name] / rates:.2f} | {query[name]:.1f} | {times / query[name]:.2f} |"
        )


def timed(encode: Encode, texts: Sequence[str]) -> float:
    start = time.process_time()
    encode(texts)
    return time.process_time() - start


def teachers(name: str, batches: Sequence[int]) -> dict[str, Encode]:
    found: dict[str, Encode] = {}
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if kind == "bf16" and not bf16_instructions():
            continue
        model = SentenceTransformer(name, device="cpu", model_kwargs={"dtype": dtype})
        prompt = str(model.prompts.get("query") or "")
        for batch in batches:
            found[f"teacher, {kind}, batch {batch}"] = lambda texts, model=model, batch=batch, prompt=prompt: (
                model.encode(list(texts), prompt=prompt, batch_size=batch, convert_to_tensor=True)
            )
    return found


def students(name: str) -> dict[str, Encode]:
    found: dict[str, Encode] = {}
    for precision in ("fp32", "bf16", "int8"):
        model = Embedder.load(name, device="cpu", precision=precision)
        found[f"student, {precision}"] = lambda texts, model=model: model(list(texts), progress=False)
    return found


if __name__ == "__main__":
    main()
