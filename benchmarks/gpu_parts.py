"""What ``gpu.py`` measures, as rows of its table: a matrix product, training steps and inference, ours and peers."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from gpu_attention import VARLEN, best_attention

from mmbert.device import HALF_DTYPES, autocast, native_half
from mmbert.inference.pooling import pool
from mmbert.inference.precision import apply_precision
from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token
from mmbert.model.encoder import Encoder, compile_model
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import config_to_hf
from mmbert.packed import Packed
from mmbert.training.loss import loss_sum
from mmbert.training.optim import StableAdamW, parameter_groups

transformers.utils.logging.set_verbosity_error()

FIRST_ID = 300
FAILURES = (RuntimeError, ImportError, ValueError, KeyError, TypeError, AttributeError)
"""What a peer raises where it does not fit this machine or this version; its row then says so."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: on a GPU, or in a rehearsal."""

    device: torch.device
    precision: str
    scale: int
    """Contexts and lengths are divided by it."""
    vocabulary: int
    tokens: int
    """Of a pass of inference."""
    step_tokens: int
    rounds: int
    seconds: float
    """After these a system gets no further round."""

    @property
    def dtype(self) -> torch.dtype:
        return HALF_DTYPES.get(self.precision, torch.float32)


def sizes(*, rehearse: bool) -> Sizes:
    """Return the sizes; without ``rehearse`` on the first CUDA device, which must be there."""
    if rehearse:
        return Sizes(torch.device("cpu"), "fp32", 32, 1000, 256, 64, 1, 0.0)
    device = torch.device("cuda", 0)
    return Sizes(device, native_half(device) or "fp32", 1, 256_000, 1 << 19, 1 << 15, 5, 5.0)


def matrix(*, rehearse: bool) -> Iterator[Row]:
    """Yield the speed of a plain product, and what machine this is."""
    here = sizes(rehearse=rehearse)
    size = 8192 // here.scale
    a, b = (torch.randn(size, size, device=here.device, dtype=here.dtype) for _ in range(2))
    seconds = timed(lambda: a @ b, here, times=20)
    chip = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    machine = (
        f"{chip}, torch {torch.__version__}, transformers {transformers.__version__}, Python {sys.version.split()[0]}"
    )
    yield {
        "system": f"{here.precision} product of {size:,} x {size:,}",
        "flops": 2 * size**3 / seconds,
        "machine": machine,
    }


def train(context: int, *, rehearse: bool) -> Iterator[Row]:
    """Yield one step at base shape of ours, of ours compiled, and of transformers with each attention it has here."""
    here = sizes(rehearse=rehearse)
    length = context // here.scale
    config = shape("base", here, length)
    rows = max(1, here.step_tokens // length)
    random = np.random.default_rng(0)
    texts = [random.integers(FIRST_ID, config.vocab_size, length) for _ in range(rows)]
    hidden = random.random(rows * length) < 0.3
    flops = flops_per_token(config, length, mask_rate=0.3).training
    systems: dict[str, Callable[[], Callable[[], object]]] = {
        "ours": lambda: our_step(config, texts, hidden, here),
        "ours, compiled": lambda: our_step(config, texts, hidden, here, compiled=True),
        **{
            f"transformers {attention}": lambda attention=attention: their_step(config, texts, hidden, here, attention)
            for attention in ("sdpa", flash(here))
        },
    }
    for name, make in systems.items():
        if rehearse and name == "ours, compiled":
            continue  # the compiler takes minutes on a CPU
        row: Row = {"system": name, "texts": f"{rows} of {length:,}", "flops_per_token": flops}
        yield row | attempt(make, rows * length, here)


def our_step(
    config: ModelConfig, texts: Sequence[np.ndarray], hidden: np.ndarray, here: Sizes, *, compiled: bool = False
) -> Callable[[], object]:
    """Return one optimiser step as ``training/loop.py`` takes it."""
    model = MaskedLM(config).to(here.device).train()
    model.tie()
    if compiled:
        compile_model(model)
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-4)
    whole = Packed.from_lists(texts)
    targets = np.flatnonzero(hidden)
    packed = Packed(whole.ids, whole.offsets, whole.longest, targets, whole.ids[targets]).to(here.device)

    def step() -> None:
        with autocast(here.device, here.precision):
            loss = loss_sum(model, packed)
        (loss / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(
    config: ModelConfig, texts: Sequence[np.ndarray], hidden: np.ndarray, here: Sizes, attention: str
) -> Callable[[], object]:
    """Return one step of transformers' model with fused AdamW, sparse prediction and autocast; no padding is needed."""
    values = config_to_hf(config) | {"sparse_prediction": True}
    model = transformers.ModernBertForMaskedLM._from_config(
        transformers.ModernBertConfig(**values), attn_implementation=attention
    )
    model = model.to(here.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.from_numpy(np.stack(texts)).to(here.device)
    labels = ids.where(torch.from_numpy(hidden.reshape(ids.shape)).to(here.device), -100)

    def step() -> None:
        with autocast(here.device, here.precision):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def infer(name: str, context: int, *, rehearse: bool) -> Iterator[Row]:
    """Yield the speeds of mean vectors of texts of fixed and of variable length, ours and the peers'."""
    here = sizes(rehearse=rehearse)
    config = shape(name, here, context // here.scale)
    drawn = {kind: draw(kind, context, config.vocab_size, here) for kind in ("fixed", "variable")}
    makers: dict[str, Callable[[Sequence[np.ndarray]], Ours | Padded]] = {
        f"ours, {here.precision}": lambda texts: Ours(config, texts, here),
        "transformers sdpa": lambda texts: Padded(modern_bert(config, "sdpa"), texts, here),
        f"transformers {flash(here)}": lambda texts: Padded(modern_bert(config, flash(here)), texts, here),
    }
    if context <= 512:
        makers["XLM-R base shape sdpa"] = lambda texts: Padded(xlm_r(here), texts, here)
    if not rehearse:  # the compiler takes minutes on a CPU; here it comes last, as what can be cut off
        makers[f"ours, {here.precision}, compiled"] = lambda texts: Ours(config, texts, here, compiled=True)
    for system, make in makers.items():
        for kind, texts in drawn.items():
            tokens = sum(map(len, texts))
            row: Row = {"system": system, "texts": f"{len(texts)}, {kind} {context // here.scale:,}"}
            if not system.startswith("XLM-R"):
                squares = sum(len(text) ** 2 for text in texts)
                row["flops_per_token"] = flops_per_token(config, squares / tokens).forward
            yield row | attempt(lambda make=make, texts=texts: make(texts).tuned(), tokens, here)


def draw(kind: str, context: int, vocab_size: int, here: Sizes) -> list[np.ndarray]:
    """Return texts longest first, of ``here.tokens`` tokens, of half as many for long ones.

    Variable lengths are normally distributed around half the context, as in ModernBERT's efficiency script.
    """
    random = np.random.default_rng(42)
    budget, spread = (here.tokens, 64) if context <= 512 else (here.tokens // 2, 1024)
    lengths: list[int] = []
    while sum(lengths) < budget:
        drawn = context if kind == "fixed" else min(context, max(16, random.normal(context / 2, spread)))
        lengths.append(max(4, int(drawn) // here.scale))
    return [random.integers(FIRST_ID, vocab_size, length) for length in sorted(lengths, reverse=True)]


class Ours:
    """Our encoder over packed batches of a budget of tokens."""

    def __init__(
        self, config: ModelConfig, texts: Sequence[np.ndarray], here: Sizes, *, compiled: bool = False
    ) -> None:
        self.encoder = Encoder(config).eval().requires_grad_(False)
        apply_precision(self.encoder, here.device, "auto")
        if compiled:
            compile_model(self.encoder)
        self.texts, self.here = texts, here

    def tuned(self) -> Callable[[], object]:
        """Return a pass over all texts in the fastest budget of several."""
        longest = len(self.texts[0])
        budgets = sorted({max(longest, self.here.tokens // share) for share in (64, 16, 4)})
        return fastest([partial(self.run, self.pack(budget)) for budget in budgets], self.here)

    def pack(self, budget: int) -> list[Packed]:
        batches: list[list[np.ndarray]] = [[]]
        for text in self.texts:
            if batches[-1] and sum(map(len, batches[-1])) + len(text) > budget:
                batches.append([])
            batches[-1].append(text)
        return [Packed.from_lists(batch) for batch in batches]

    @torch.inference_mode()
    def run(self, batches: Sequence[Packed]) -> torch.Tensor:
        """Copies of the ids to the device are part of the time, as for the peers."""
        parts = (packed.to(self.here.device) for packed in batches)
        return torch.cat([pool(self.encoder(packed), packed, ("mean",)) for packed in parts])


class Padded:
    """A model of transformers over padded batches of texts of like length."""

    def __init__(self, model: torch.nn.Module, texts: Sequence[np.ndarray], here: Sizes) -> None:
        self.model = model.to(here.device, here.dtype).eval().requires_grad_(False)
        self.texts, self.here = texts, here

    def tuned(self) -> Callable[[], object]:
        """Return a pass over all texts with the fastest batch of several."""
        longest = len(self.texts[0])
        batches = sorted({max(1, self.here.tokens // share // longest) for share in (64, 16, 4)})
        return fastest([partial(self.run, batch) for batch in batches], self.here)

    @torch.inference_mode()
    def run(self, batch: int) -> torch.Tensor:
        return torch.cat([self.vectors(self.texts[n : n + batch]) for n in range(0, len(self.texts), batch)])

    def vectors(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
        width = len(texts[0])
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text), 1
        full = len(texts[-1]) == width  # without padding no mask is given, which is the faster way of every kernel
        ids, mask = ids.to(self.here.device), mask.to(self.here.device)
        states = self.model(input_ids=ids, attention_mask=None if full else mask).last_hidden_state.float()
        kept = mask[:, :, None].float()
        return (states * kept).sum(1) / kept.sum(1)


def modern_bert(config: ModelConfig, attention: str) -> torch.nn.Module:
    values = transformers.ModernBertConfig(**config_to_hf(config))
    return transformers.ModernBertModel._from_config(values, attn_implementation=attention)


def xlm_r(here: Sizes) -> torch.nn.Module:
    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    values = transformers.XLMRobertaConfig(
        vocab_size=min(here.vocabulary, 250_002), max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
        **(small if here.scale > 1 else {}),
    )  # fmt: skip
    return transformers.XLMRobertaModel._from_config(values, attn_implementation="sdpa")


def shape(name: str, here: Sizes, context: int) -> ModelConfig:
    """Return a published shape, or a tiny one in a rehearsal."""
    values: dict[str, Any] = {"vocab_size": here.vocabulary, "max_context": max(context, 512)}
    if here.scale > 1:
        values |= {"hidden_size": 48, "intermediate_size": 64, "num_layers": 4, "num_heads": 4, "window": 16}
        return ModelConfig(**values)
    return ModelConfig.preset(name, **values)


def flash(here: Sizes) -> str:
    """Return the name of transformers' flash attention: of its package, else of torch's kernel."""
    return best_attention(here.device) or VARLEN


def attempt(make: Callable[[], Callable[[], object]], tokens: int, here: Sizes) -> Row:
    """Return the median speed and the peak memory of a system; what it raised, if it does not run here."""
    try:
        call = make()
        if here.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(here.device)  # what the search for the best batch took does not count
        seconds = timed(call, here)
    except FAILURES as error:
        said = (str(error).splitlines() or [""])[0]
        return {"note": f"{type(error).__name__}: {said}"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    row: Row = {"tokens_per_second": tokens / seconds}
    if here.device.type == "cuda":
        row["memory_gib"] = torch.cuda.max_memory_allocated(here.device) / 2**30
    return row


def fastest(calls: Sequence[Callable[[], object]], here: Sizes) -> Callable[[], object]:
    """Return the fastest of several calls; of those that do not fit into memory, none."""
    times: list[tuple[float, int]] = []
    for number, call in enumerate(calls):
        try:
            call()  # warms up
            times.append((once(call, here), number))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    if not times:
        raise torch.OutOfMemoryError("no batch fits")
    return calls[min(times)[1]]


def timed(call: Callable[[], object], here: Sizes, times: int = 1) -> float:
    """Return the median seconds of a call after two that warm up; fewer rounds if they take long."""
    for _ in range(2):
        call()
    samples: list[float] = []
    until = time.perf_counter() + here.seconds
    while not samples or (len(samples) < here.rounds and time.perf_counter() < until):
        samples.append(once(lambda: [call() for _ in range(times)], here) / times)
    return statistics.median(samples)


def once(call: Callable[[], object], here: Sizes) -> float:
    """Return the seconds of one call, work on the device included."""
    wait(here)
    started = time.perf_counter()
    call()
    wait(here)
    return time.perf_counter() - started


def wait(here: Sizes) -> None:
    if here.device.type == "cuda":
        torch.cuda.synchronize(here.device)
