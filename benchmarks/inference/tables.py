"""The tables of the benchmark, as Markdown."""

from __future__ import annotations

import numpy as np
from guard import Figure
from texts import Work
from ways import NAMES

from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token

BASELINES = ("hf-fp32-32", "hf-fp32")


def speed_table(work: Work, figures: dict[str, Figure], batches: dict[str, int | str], memory: dict[str, float]) -> str:
    """tokens/s of real tokens, how much faster than transformers, the batch, clean samples, peak memory."""
    lengths = sorted(map(len, work.sequences))
    against = [name for name in BASELINES if name in figures]
    rows = [
        f"**{work.name}**: {len(lengths)} texts of {lengths[0]} to {lengths[-1]} tokens, {work.tokens:,} in all\n",
        "| way | tokens/s |"
        + "".join(f" x {'batches of 32' if name.endswith('-32') else 'best batch'} |" for name in against)
        + " batch | clean |" + (" peak memory |" if memory else ""),
        "| --- | ---: |" + " ---: |" * (len(against) + 2 + bool(memory)),
    ]  # fmt: skip
    for name, figure in figures.items():
        ratios = "".join(f" {figures[peer].seconds / figure.seconds:.2f} |" for peer in against)
        row = f"| {NAMES[name]} | {work.tokens / figure.seconds:,.0f} |{ratios} {batches[name]} | {figure.note} |"
        rows.append(row + (f" {memory[name]:,.0f} MiB |" if memory else ""))
    return "\n".join(rows) + "\n"


def latency_table(work: Work, figures: dict[str, Figure], times: dict[str, int]) -> str:
    """Milliseconds of one query."""
    base = figures.get("hf-fp32")
    rows = [
        f"**one query** of {work.tokens} tokens: median over samples of some {min(times.values())} to "
        f"{max(times.values())} queries each\n",
        "| way | ms | x transformers fp32 | clean |\n| --- | ---: | ---: | ---: |",
    ]
    for name, figure in figures.items():
        each = figure.seconds / times[name]
        ratio = f"{base.seconds / times['hf-fp32'] / each:.2f}" if base else ""
        rows.append(f"| {NAMES[name]} | {each * 1000:.1f} | {ratio} | {figure.note} |")
    return "\n".join(rows) + "\n"


def growth_table(shape: str, works: dict[int, Work], names: list[str], figures: dict[str, Figure]) -> str:
    """Cost of a token over that at the shortest length, beside what the global layers must add."""
    first = min(works)
    rows = [
        "| tokens of a text |" + "".join(f" {NAMES[name]}: tokens/s | cost | must |" for name in names),
        "| ---: |" + " ---: | ---: | ---: |" * len(names),
    ]
    for length in works:
        cells = ""
        for name in names:
            each, least = (figures[f"{name} {size}"].seconds / works[size].tokens for size in (length, first))
            must = _least_cost(shape, length, name) / _least_cost(shape, first, name)
            cells += f" {1 / each:,.0f} ({figures[f'{name} {length}'].note}) | {each / least:.2f} | {must:.2f} |"
        rows.append(f"| {length:,} |{cells}")
    return "\n".join(rows) + "\n"


def _least_cost(shape: str, length: int, name: str) -> float:
    """Of a token, in FLOPs of attention's precision; int8 products run at twice the speed of bf16's."""
    flops = flops_per_token(ModelConfig.preset(shape), length)
    return flops.matrices / (2 if "int8" in name else 1) + flops.attention


def equal_table(model: str, work: Work, wanted: np.ndarray, found: dict[str, np.ndarray]) -> str:
    """How near vectors are to transformers' in fp32, over real texts."""
    rows = [
        f"**equal**: vectors of {len(work.texts)} texts ({work.tokens:,} tokens) by the trained model {model}, beside "
        "transformers fp32\n",
        "| way | largest difference | smallest cosine | mean cosine |\n| --- | ---: | ---: | ---: |",
    ]
    for name, vectors in found.items():
        cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
        rows.append(
            f"| {NAMES[name]} | {np.abs(vectors - wanted).max():.1e} | {cosines.min():.6f} | {cosines.mean():.6f} |"
        )
    return "\n".join(rows) + "\n"
