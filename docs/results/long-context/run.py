"""A needle test of ``recipes/extend-32k.yaml`` in small: does a model find a clue that is further than its old context?

    python docs/results/long-context/run.py CORPUS HELDOUT --work WORK

CORPUS, HELDOUT  folders with <language>.jsonl.gz
WORK             text that is made, and the folders of the runs; the same command continues what was stopped

A needle is a passage of real text that stands twice in a text of 1,000 tokens. Tokens of the second copy are masked;
the clue is the first copy, some distance before. The control has other text in place of the clue. Four models:

base        trained on texts of at most 64, 128, then 256 tokens, most of which quote a passage twice
unscaled    the base trained on, on texts of up to 1,024 tokens, with the angles of RoPE as they were
scaled      the base with YaRN's angles (factor 4), not trained further
extended    the same, trained further by the recipe extend-32k: as many tokens as ``unscaled``

Writes figures.json and needle.svg beside this script, and prints the tables of its README.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbert import log
from mmbert.evaluation.heldout_loss import losses, masked_lm
from mmbert.evaluation.results import ModelResult, read
from mmbert.files import atomic_file, atomic_folder, write_json, write_text
from mmbert.inference.load import load
from mmbert.packed import Packed
from mmbert.pipeline import run
from mmbert.recipe import Recipe
from mmbert.reporting.charts import ROWS, Row, dress, load_library
from mmbert.reporting.markdown import svg
from mmbert.reporting.palette import phase_colour
from mmbert.rope_scaling import RopeScaling

HERE = Path(__file__).parent
LANGUAGES = ("eng_Latn", "fra_Latn", "deu_Latn", "spa_Latn", "por_Latn")
PASSAGE, SHORT, LONG = 160, 380, 2000
"""Characters of a quoted passage, and of the text around the quotations of a short text and of a long one: about 3.2
characters are a token, so that texts are within 256 and 1,024 tokens."""

NEAR, MIDDLE = ((30, 80), (0, 40)), ((60, 160), (0, 160))
"""Characters of a passage, and of the text between its two copies, in texts of one passage alone. A small model finds
out what copying is where there is little to choose from: trained on quotations within 256 tokens from the start, it
did not copy after 6M tokens."""

NEEDLE, WHOLE = 32, 1000
"""Tokens of a needle, and of the text that it is in."""

DISTANCES = (96, 192, 288, 448, 640, 896)
"""Tokens from the clue to the copy that is masked; the base model was trained on at most 256."""

NEEDLES = 16
"""For each language and distance."""

MASKED = 0.3
CONTROL = "extended, without the clue"


def main() -> None:
    """Make the text, train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--tokens", type=int, nargs=2, help="of each phase of the base, and of its extension, to try the script"
    )
    options = parser.parse_args()
    log.setup()
    torch.set_num_threads(1)
    text = options.work / "text"
    if not text.is_dir():
        with atomic_folder(text) as partial:
            write_texts(options.corpus, partial)
    folders = train(text, options.heldout, options.work, options.tokens)
    figures: dict[str, Any] = {"short": short_losses(options.work)}
    figures["needles"] = {name: measure(folder, options.heldout) for name, folder in folders.items()}
    write_json(HERE / "figures.json", figures)
    draw(figures["needles"], HERE / "needle.svg")
    print(tables(figures))


# Text


def documents(folder: Path, language: str) -> Iterator[str]:
    """Yield the texts of a language."""
    with gzip.open(folder / f"{language}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def write_texts(corpus: Path, out: Path) -> None:
    """Write short texts as they are, and short and long ones that quote passages twice."""
    for language in LANGUAGES:
        texts = list(documents(corpus, language))
        rng = np.random.default_rng([2309, 71, *language.encode()])
        words = " ".join(texts).split()
        made = {
            "short": texts,
            "near": [echo(words, *NEAR, rng) for _ in range(len(words) // 16)],
            "middle": [echo(words, *MIDDLE, rng) for _ in range(len(words) // 40)],
            "quoted": [quoting(words, SHORT, 1, rng) for _ in range(len(words) // 80)],
            "long": [quoting(words, LONG, 3, rng) for _ in range(len(words) // 400)],
        }
        for kind, rows in made.items():
            with atomic_file(out / kind / f"{language}.jsonl") as file:
                for row in rows:
                    file.write((json.dumps({"text": row}, ensure_ascii=False) + "\n").encode())


def echo(words: Sequence[str], passage: tuple[int, int], between: tuple[int, int], rng: np.random.Generator) -> str:
    """Return a passage twice, with some text between."""
    copy, filler = cut(words, int(rng.integers(*passage)), rng), cut(words, int(rng.integers(*between)), rng)
    return "\n".join(" ".join(part) for part in (copy, filler, copy) if part)


def quoting(words: Sequence[str], size: int, passages: int, rng: np.random.Generator) -> str:
    """Return running text of ``size`` characters in which each of some passages from elsewhere stands twice."""
    text = cut(words, size, rng)
    copies = [passage for _ in range(passages) for passage in [cut(words, PASSAGE, rng)] * 2]
    places = np.sort(rng.integers(0, len(text), len(copies)))
    parts = np.split(np.array(text, dtype=object), places)
    order = rng.permutation(len(copies))
    lines = [" ".join(parts[0])]
    for number, part in zip(order, parts[1:], strict=True):
        lines += [" ".join(copies[number]), " ".join(part)]
    return "\n".join(line for line in lines if line)


def cut(words: Sequence[str], size: int, rng: np.random.Generator) -> list[str]:
    """Return running words of about ``size`` characters, from a place that is drawn."""
    start = int(rng.integers(0, len(words) - size))
    taken, length = start, 0
    while length < size:
        length += len(words[taken]) + 1
        taken += 1
    return list(words[start:taken])


# Models


def train(text: Path, heldout: Path, work: Path, tokens: Sequence[int] | None) -> dict[str, Path]:
    """Train the base and its two extensions. Returns model -> folder."""
    paths = [f"sources.{kind}.path={text / kind}" for kind in ("short", "near", "middle", "quoted", "long")]
    kept = f"sources.short.heldout={chosen(heldout, work / 'heldout')}"
    little: list[list[str]] = [[], []]
    if tokens is not None:
        last = [f"phases.decay_all.decay.tokens={tokens[0] // 3}", "phases.pretrain.warmup=0"]
        little = [[f"phases.{name}.tokens={tokens[0]}" for name in ("pretrain", "extend", "decay_all")] + last]
        little += [[f"phases.extend.tokens={tokens[1]}", "phases.extend.warmup=0"]]
    base = run(Recipe.load(HERE / "base.yaml", [*paths[:-1], kept, *little[0]]), out=work / "base").model
    longer = [f"start={base}", paths[0], paths[-1], kept, *little[1]]
    extended = run(Recipe.load(HERE / "extended.yaml", longer), out=work / "extended").model
    unscaled = run(
        Recipe.load(HERE / "extended.yaml", [*longer, "name=unscaled", "phases.extend.rope=null"]),
        out=work / "unscaled",
    ).model
    return {"base": base, "unscaled": unscaled, "scaled": scale(base, work / "scaled"), "extended": extended}


def chosen(heldout: Path, out: Path) -> Path:
    """Return a folder with the held-out text of the languages of this test."""
    if not out.is_dir():
        with atomic_folder(out) as partial:
            for language in LANGUAGES:
                shutil.copy(heldout / f"{language}.jsonl.gz", partial)
    return out


def scale(base: Path, out: Path) -> Path:
    """Return the base with YaRN's angles, as the extension has them before its first step."""
    if not out.is_dir():
        loaded = load(base, precision="plain")
        model = masked_lm(loaded)
        scaling = RopeScaling(rope_type="yarn", factor=4, original_max_position_embeddings=256)
        model.config = loaded.config.model_copy(update={"rope_scaling": scaling, "max_context": 1024})
        with atomic_folder(out) as partial:
            model.save(partial)
            loaded.tokenizer.save(partial)
    return out


# Measures


def needles(folder: Path, heldout: Path, distance: int, *, clue: bool) -> Iterator[Packed]:
    """Yield a batch for each language, the same for all models: texts with a needle twice, or with no first copy."""
    tokenizer = load(folder, precision="plain").tokenizer
    for language in LANGUAGES:
        ids = np.concatenate([tokenizer.encode(text) for text in documents(heldout, language)])
        rng = np.random.default_rng([distance, *language.encode()])
        rows, targets, labels = [], [], []
        for number in range(NEEDLES):
            places = rng.choice(len(ids) - WHOLE, 3, replace=False)
            row, needle, other = (
                ids[place : place + size].copy() for place, size in zip(places, (WHOLE, NEEDLE, NEEDLE), strict=True)
            )
            second = WHOLE - NEEDLE - int(rng.integers(1, 32))
            first = second - distance
            row[first : first + NEEDLE] = needle if clue else other
            row[second : second + NEEDLE] = needle
            hidden = second + np.flatnonzero(rng.random(NEEDLE) < MASKED)
            labels.append(row[hidden].copy())
            row[hidden] = tokenizer.mask_id
            targets.append(hidden + number * WHOLE)
            rows.append(row)
        yield replace(Packed.from_lists(rows), targets=np.concatenate(targets), labels=np.concatenate(labels))


def measure(folder: Path, heldout: Path) -> dict[str, dict[str, float]]:
    """Return "clue" and "control" -> distance -> loss in nats of a masked token of the second copy."""
    model = masked_lm(load(folder, precision="plain")).eval()
    found: dict[str, dict[str, float]] = {}
    for name, clue in (("clue", True), ("control", False)):
        for distance in DISTANCES:
            batches = needles(folder, heldout, distance, clue=clue)
            with torch.inference_mode():
                nats = [losses(model, packed.to("cpu"), "fp32")[0] for packed in batches]
            found.setdefault(name, {})[str(distance)] = round(float(np.concatenate(nats).mean()), 4)
    return found


def short_losses(work: Path) -> dict[str, float]:
    """Return bits per byte on held-out text of at most 256 tokens, mean over languages, as the runs evaluated them."""
    places = {"base": "extended/evaluation/start", "unscaled": "unscaled/evaluation/extend"}
    results = {
        name: read(ModelResult, work / f"{place}.json")
        for name, place in {**places, "extended": "extended/evaluation/extend"}.items()
    }
    assert len({result.heldout for result in results.values()}) == 1, "measured on different text"
    return {
        name: round(float(np.mean([loss.bits_per_byte for loss in result.losses.values()])), 4)
        for name, result in results.items()
    }


def draw(needles_found: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    """Draw the loss over the distance of the clue, a line for each model; the control of the extended one is dashed."""
    alt = load_library("altair")
    rows: list[Row] = [
        {"model": name, "tokens": int(distance), "loss": loss}
        for name, found in (*needles_found.items(), (CONTROL, {"clue": needles_found["extended"]["control"]}))
        for distance, loss in found["clue"].items()
    ]
    names = [*needles_found, CONTROL]
    scale = alt.Scale(domain=names, range=[phase_colour(place) for place in range(len(names))])
    line = alt.Chart(alt.NamedData(ROWS)).mark_line(strokeWidth=1.6, point={"size": 22})
    line = line.encode(
        x=alt.X("tokens:Q", title="tokens from the clue to the masked copy"),
        y=alt.Y("loss:Q", title="loss of a masked token, nats"),
        color=alt.Color("model:N", scale=scale, legend=alt.Legend(orient="top", title=None, symbolType="circle")),
    )
    known = alt.Chart(alt.Data(values=[{"tokens": 256}])).mark_rule(strokeDash=[4, 4]).encode(x="tokens:Q")
    write_text(out, svg(dress((known + line).properties(width="container", height=280), rows)))


def tables(figures: dict[str, Any]) -> str:
    """Return the tables of the README."""
    head = ["model", *(str(distance) for distance in DISTANCES)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(DISTANCES)}"]
    for name, found in (*figures["needles"].items(), (CONTROL, {"clue": figures["needles"]["extended"]["control"]})):
        lines.append(f"| {name} | {' | '.join(f'{loss:.2f}' for loss in found['clue'].values())} |")
    lines += ["", "| model | bits per byte on short text | relative to base |", "| --- | ---: | ---: |"]
    first = figures["short"]["base"]
    lines += [f"| {name} | {loss:.4f} | {loss / first - 1:+.2%} |" for name, loss in figures["short"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
