"""A run's folder as the real program leaves it, with made-up figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from mmbert.evaluation.results import (
    Baseline,
    FilledMask,
    Guess,
    LanguageLoss,
    LanguageRetrieval,
    ModelResult,
    UnigramLoss,
    save,
)

RECIPE = """\
name: made-up
tokenizer: {vocab_size: 8192}
sources: {corpus: {kind: jsonl, path: corpus}}
model: {hidden_size: 192, intermediate_size: 384, num_layers: 4, num_heads: 6}
phases:
  pretrain: &phase
    tokens: 2M
    data: {temperature: 0.7, languages: 12}
    context: 256
    mask_rate: 0.3
    batch: 16384
    micro_batch: 8192
    peak_lr: 3e-3
    warmup: 100k
  extend: {<<: *phase, follows: pretrain, tokens: 1M, data: {temperature: 0.5, languages: 80}, context: 1024,
           mask_rate: 0.15, micro_batch: 8192, warmup: 0, rope_theta: 160_000}
  decay_all: &decay {<<: *phase, follows: extend, tokens: 500k, data: {temperature: 0.3}, mask_rate: 0.05, warmup: 0,
                     decay: {}}
  decay_cont: {<<: *decay, data: {temperature: 0.3, languages: 80}}
  decay_eng: {<<: *decay, data: {temperature: 0.3, languages: [eng_Latn]}}
merge: {base: extend, phases: {decay_all: 1, decay_cont: 1, decay_eng: 1}, density: 0.2}
"""

LANGUAGES = [
    "eng_Latn", "fra_Latn", "rus_Cyrl", "deu_Latn", "jpn_Jpan", "spa_Latn", "cmn_Hani", "kor_Hang", "guj_Gujr",
    "yor_Latn", "swh_Latn", "por_Latn", "heb_Hebr", "arb_Arab", "hin_Deva", "tam_Taml", "tha_Thai", "ell_Grek",
    "amh_Ethi", "kat_Geor", "pol_Latn", "tel_Telu", "ben_Beng", "fin_Latn", "fao_Latn", "tir_Ethi", "quy_Latn",
    "bod_Tibt", "nqo_Nkoo", "chr_Cher", "div_Thaa", "khm_Khmr", "lao_Laoo", "sin_Sinh", "mya_Mymr", "kal_Latn",
]  # fmt: skip
"""The largest first."""

GAINS = {
    "pretrain": (0.22, 0.05, 0.01),
    "extend": (0.24, 0.17, 0.08),
    "decay_all": (0.27, 0.23, 0.21),
    "decay_cont": (0.28, 0.24, 0.10),
    "decay_eng": (0.25, 0.15, 0.06),
    "merged": (0.29, 0.25, 0.19),
}
"""Per model: how far below the unigram baseline it is in each tier."""


def tier(language: str) -> int:
    """0, 1, 2: pretrain, extend, decay."""
    return LANGUAGES.index(language) // 12


def write_run(folder: Path, *, seed: int = 0) -> Path:
    """Write every file that the report reads; returns ``folder``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    sizes = {language: int(3e6 / (place + 1) ** 1.6) for place, language in enumerate(LANGUAGES)}
    _write_mixture(folder, sizes)
    _write_metrics(folder, rng)
    _write_results(folder, sizes, rng)
    _write_merge(folder)
    (folder / "pretrain" / "final").mkdir()
    (folder / "pretrain" / "final" / "config.json").write_text('{"vocab_size": 8192}')
    environment = {
        "date": "2026-01-31",
        "commit": "0123abc",
        "machine": "x86_64, 2 cores, 16 GB",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.0"},
        "commands": ["mmbert run recipes/made-up.yaml"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def _write_mixture(folder: Path, sizes: dict[str, int]) -> None:
    drawn = {"pretrain": 12, "extend": 24, "decay_all": 36, "decay_cont": 24, "decay_eng": 1}
    exponent = {"pretrain": 0.7, "extend": 0.5, "decay_all": 0.3, "decay_cont": 0.3, "decay_eng": 0.3}
    mixture = {}
    for phase, number in drawn.items():
        weights = np.array([sizes[language] ** exponent[phase] for language in LANGUAGES[:number]])
        mixture[phase] = [
            {"source": "corpus", "language": language, "share": float(share), "tokens": sizes[language],
             "epochs": float(share) * 1e6 / sizes[language], "capped": language == "kal_Latn"}
            for language, share in zip(LANGUAGES, weights / weights.sum(), strict=False)
        ]  # fmt: skip
    (folder / "mixture.json").write_text(json.dumps(mixture))


def _write_metrics(folder: Path, rng: np.random.Generator) -> None:
    for phase, tokens, start, mask in (
        ("pretrain", 2_000_000, 9.0, 0.3), ("extend", 1_000_000, 5.2, 0.15), ("decay_all", 500_000, 4.6, 0.05),
        ("decay_cont", 500_000, 4.5, 0.05), ("decay_eng", 500_000, 4.1, 0.05),
    ):  # fmt: skip
        lines = []
        for step, seen in enumerate(range(16384, tokens + 1, 16384), start=1):
            part = seen / tokens
            falling = 0.02 + 0.98 * (1 - math.sqrt(part)) if phase.startswith("decay") else 1.0
            lines.append(
                {"step": step, "tokens": seen,
                 "loss": 4.2 + (start - 4.2) * math.exp(-4 * part) + float(rng.normal(0, 0.05)), "mask_rate": mask,
                 "learning_rate": 3e-3 * min(1.0, seen / 100_000 if phase == "pretrain" else 1.0) * falling,
                 "batch": 16384, "tokens_per_second": 15_000 + float(rng.normal(0, 400)), "seconds": seen / 15_000,
                 "grad_norm": 1.0}
            )  # fmt: skip
        (folder / phase).mkdir(exist_ok=True)
        (folder / phase / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_results(folder: Path, sizes: dict[str, int], rng: np.random.Generator) -> None:
    unigram: dict[str, UnigramLoss] = {}
    for language in LANGUAGES:
        tokens = int(rng.integers(200, 600))
        loss = LanguageLoss.of(
            nats=tokens * float(rng.normal(6.8, 0.3)), tokens=tokens, num_bytes=tokens * 4, hits=tokens // 20
        )
        unigram[language] = UnigramLoss(**loss.model_dump(), train_tokens=sizes[language], alpha=0.1)
    save(Baseline(heldout="e", training_text="t", losses=unigram), folder / "evaluation" / "unigram.json")
    for name, gains in GAINS.items():
        losses = {
            language: LanguageLoss.of(
                nats=base.nats * (1 - gains[tier(language)] + float(rng.normal(0, 0.02))),
                tokens=base.tokens, num_bytes=base.bytes, hits=base.tokens * 0.2,
            )
            for language, base in unigram.items()
        }  # fmt: skip
        result = ModelResult(
            model=name,
            weights="w",
            heldout="e",
            losses=losses,
            retrieval=_retrieval(rng),
            filled=_filled(),
            seconds=12.5,
        )
        save(result, folder / "evaluation" / f"{name}.json")


def _retrieval(rng: np.random.Generator) -> list[LanguageRetrieval]:
    found = []
    for language in LANGUAGES[1:]:
        model = float(rng.uniform(0.03, 0.25))
        spelling = float(rng.uniform(0.0, 0.2 if language.endswith("Latn") else 0.03))
        found.append(
            LanguageRetrieval(
                language=language, pairs=200, to_english=model, from_english=model * 0.9,
                centred_to_english=model * 1.4, centred_from_english=model * 1.3, spelling_to_english=spelling,
                spelling_from_english=spelling,
            )
        )  # fmt: skip
    return found


def _filled() -> list[FilledMask]:
    def sample(language: str, before: str, truth: str, after: str, *guesses: str) -> FilledMask:
        listed = [Guess(token=token, probability=0.4 / (place + 1)) for place, token in enumerate(guesses)]
        return FilledMask(language=language, before=before, after=after, truth=truth, guesses=listed)

    return [
        sample("eng_Latn", "All human beings are ", "▁born", " free and equal.", "▁born", "▁made", "s", "▁not", "▁in"),
        sample("heb_Hebr", "כל בני האדם נולדו ", "▁בני", " חורין ושווים", "▁בני", "ים", "▁את", "▁על", "ה"),
        sample(
            "hin_Deva", "सभी मनुष्यों को गौरव और अधिकारों के ", "▁मामले", " में स्वतन्त्रता है।", "▁लिए", "▁मामले", "ों", "▁में", "▁साथ"
        ),
        sample("cmn_Hani", "人人生而自由,在尊严和", "权利", "上一律平等。", "权利", "法律", "的", "<0xE4>", "国家"),
        sample("arb_Arab", "يولد جميع الناس ", "▁أحرارا", "ً متساوين", "▁في", "▁أحرارا", "▁من", "ة", "▁على"),
        sample(
            "ell_Grek",
            "Όλοι οι άνθρωποι γεννιούνται ",
            "▁ελεύθεροι",
            " και ίσοι <script>",
            "▁και",
            "▁να",
            "▁στην",
            "▁ελεύθεροι",
            "ς",
        ),
    ]


def _write_merge(folder: Path) -> None:
    names = ["decay_all", "decay_cont", "decay_eng"]
    total = {
        "parameters": 2_918_400, "kept": [0.2, 0.2, 0.2], "conflict": 0.31, "unchanged": 0.01,
        "distance": [0.08, 0.07, 0.09], "cosine": [[1.0, 0.42, 0.21], [0.42, 1.0, 0.25], [0.21, 0.25, 1.0]],
    }  # fmt: skip
    report = {
        "method": "ties", "reference": "extend", "variants": [f"{name}/final" for name in names],
        "weights": [1.0, 1.0, 1.0], "trim": "model", "density": 0.2, "scale": 1.0, "thresholds": [0.001, 0.001, 0.001],
        "total": total, "tensors": {},
    }  # fmt: skip
    (folder / "merge").mkdir(exist_ok=True)
    (folder / "merge" / "report.json").write_text(json.dumps(report))


TAUGHT_RECIPE = """\
name: adapted
start: jhu-clsp/mmBERT-base
sources: {new: {kind: jsonl, path: new}, keep: {kind: jsonl, path: keep}, other: {kind: jsonl, path: other}}
model: {hidden_size: 192, intermediate_size: 384, num_layers: 4, num_heads: 6, max_context: 8192}
phases:
  teach:
    tokens: 100k
    data: {temperature: 0.5, mixture: {new: {tokens: 1}, keep: {tokens: 1}}}
    context: 1024
    mask_rate: 0.15
    batch: 8192
    micro_batch: 8192
    peak_lr: 3e-4
    decay: {}
merge: {method: average, base: start, phases: {teach: 1, start: 1}}
evaluation: {kept: [keep]}
"""

TAUGHT_BITS = {
    "hye_Armn": (2.0, 1.4, 1.5), "tir_Ethi": (4.0, 2.8, 3.0), "eng_Latn": (1.0, 1.1, 1.005),
    "swh_Latn": (3.0, 3.3, 3.0), "fra_Latn": (2.0, 2.4, 2.1),
}  # fmt: skip
"""Bits per byte of start, teach, merged: two new languages, two kept ones, one that is not mixed in."""


def write_taught_run(folder: Path) -> Path:
    """A run that goes on from a model; returns ``folder``."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(TAUGHT_RECIPE)
    drawn = {"new": ["hye_Armn", "tir_Ethi"], "keep": ["eng_Latn", "swh_Latn"]}
    shares = [
        {"source": source, "language": code, "share": 0.25, "tokens": 5000, "epochs": None, "capped": False}
        for source, codes in drawn.items()
        for code in codes
    ]
    (folder / "mixture.json").write_text(json.dumps({"teach": shares}))

    def loss(bits: float) -> LanguageLoss:
        return LanguageLoss.of(nats=bits * 400 * math.log(2), tokens=100, num_bytes=400, hits=20)

    unigram = {
        code: UnigramLoss(**loss(5.0).model_dump(), train_tokens=5000 if code != "fra_Latn" else 0, alpha=0.1)
        for code in TAUGHT_BITS
    }
    save(Baseline(heldout="e", training_text="t", losses=unigram), folder / "evaluation" / "unigram.json")
    for place, name in enumerate(("start", "teach", "merged")):
        losses = {code: loss(bits[place]) for code, bits in TAUGHT_BITS.items()}
        result = ModelResult(model=name, weights="w", heldout="e", losses=losses, retrieval=[], filled=[], seconds=1.0)
        save(result, folder / "evaluation" / f"{name}.json")
    (folder / "teach" / "final").mkdir(parents=True)
    (folder / "teach" / "final" / "config.json").write_text('{"vocab_size": 8192}')
    return folder
