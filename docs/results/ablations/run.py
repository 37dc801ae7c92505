"""Train every configuration of the ablations with three seeds, and write what each run leaves as one JSON file.

    python docs/results/ablations/run.py CORPUS HELDOUT --work WORK

CORPUS, HELDOUT  folders with <language>.jsonl.gz
WORK             prepared text, tokenizer and shards (``data``, shared by all runs) and the folders of the runs

Runs come in the order seed 1 of all configurations, then seed 2, then 3. A run whose JSON is there is skipped, and one
that was stopped goes on from its last checkpoint, so the same command continues, on another day too. A run borrows a
phase from another one of its seed where phase, what it follows, model and seed are the same: training it again would
give the same weights. ``--steps 24`` tries the script in minutes.

runs/<configuration>-<seed>.json:
  recipe, text, heldout   hashes; the summary refuses runs of another recipe, and runs that differ in the last two
  languages               code -> [tier, bits per byte, bits per byte of its unigram model, tokens seen]
  curve                   [{"phase", "tokens", "sample": {code: [bits per byte, tokens seen]}}, ...] at every checkpoint
  loss                    [[tokens, loss], ...] over the phases in order, thinned
  before_merge            for TIES: tier -> mean bits per byte of decay_all before the merge
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from configurations import CONFIGURATIONS, REFERENCE, STAGES, STEP, identity, lineage, recipe, tokens_of
from exposure import exposure

from mmbert import log
from mmbert.data.mixture import choose_languages
from mmbert.data.prepare import prepare_data
from mmbert.evaluation.heldout_evaluation import HeldoutSet, build_heldout_set, evaluate_baseline, evaluate_model
from mmbert.evaluation.heldout_loss import evaluate_mlm, masked_lm
from mmbert.evaluation.results import MERGED, Baseline
from mmbert.evaluation.tiers import tiers
from mmbert.files import atomic_folder, read_json, sha256, write_json, write_sums, write_text
from mmbert.inference.load import load
from mmbert.pipeline import merge_phases
from mmbert.recipe import Recipe
from mmbert.reporting.record import read_record
from mmbert.training import checkpoint
from mmbert.training.export import as_model
from mmbert.training.pretrain import FINAL, pretrain
from mmbert.training.run_folder import recipe_hash

logger = logging.getLogger("mmbert.ablations")

SAMPLE = 24
"""Languages of the last tier that are measured at every checkpoint."""


class Shared(NamedTuple):
    """What all runs share: the text as shards, and what every model is evaluated on."""

    data: Path
    heldout: HeldoutSet
    baseline: Baseline
    tier_of: Mapping[str, str]
    """Tier of each language with held-out text in the annealed configuration, the largest language first."""
    sample: tuple[str, ...]
    text: str
    """Hash of the shards' manifest, which covers text and tokenizer."""

    @property
    def shards(self) -> Path:
        return self.data / "shards"


def prepare(base: Recipe, work: Path) -> Shared:
    """Prepare text, tokenizer, shards and held-out set once, or open what is there. ``base``: the annealed recipe.

    The held-out masks are those of seed 0, whatever the seed of a run is: all models are evaluated on the same masks.
    """
    base = base.model_copy(update={"seed": 0})
    data = work / "data"
    manifest, tokenizer = prepare_data(base, data)
    heldout = build_heldout_set(base, data, tokenizer)
    baseline = evaluate_baseline(heldout, data / "shards", work / "evaluation")
    sizes: Counter[str] = Counter()
    for (_, language), tokens in manifest.sizes().items():
        sizes[language] += tokens
    drawn = [(name, choose_languages(base.phases[name].data.languages, sizes)) for name in STAGES]
    by_size = sorted(baseline.losses, key=lambda code: (-sizes[code], code))
    tier_of = tiers(drawn, by_size)
    last = [code for code in by_size if tier_of[code] == STAGES[-1]]
    # Equally far apart by size of text, from the middle of the first part to that of the last.
    number = min(SAMPLE, len(last))
    sample = tuple(last[(2 * place + 1) * len(last) // (2 * number)] for place in range(number))
    return Shared(data, heldout, baseline, tier_of, sample, sha256(data / "shards" / "manifest.json")[:16])


def train(made: Recipe, folder: Path, shared: Shared) -> None:
    """Train what is left of a run, borrowing finished phases of other runs of this seed beside its folder."""
    for phase in made.order():
        borrow(made, phase, folder)
        pretrain(made, folder, shared.data, phases=[phase])


def borrow(made: Recipe, phase: str, folder: Path) -> bool:
    """Copy a finished phase of the same lineage from a run beside ``folder``, if there is one and the phase is not.

    Checkpoints name the recipe that made them; the copies name this one.
    """
    if (folder / phase).exists():
        return False
    wanted = lineage(made, phase)
    for other in sorted(folder.parent.glob("*")):
        if other == folder or not (other / phase / FINAL).is_dir():
            continue
        theirs = Recipe.load(other / "recipe.yaml")
        # The folder of text is the same for all runs of this work folder.
        if phase not in theirs.phases or lineage(theirs, phase) != wanted:
            continue
        with atomic_folder(folder / phase) as partial:
            shutil.copytree(other / phase, partial, dirs_exist_ok=True)
            for path in checkpoint.checkpoints(partial):
                state = replace(checkpoint.read_state(path), recipe=recipe_hash(made))
                write_json(path / checkpoint.STATE, state.to_json())
                write_sums(path)
        logger.info("%s: %s is that of %s", folder.name, phase, other.name)
        return True
    return False


def measure(made: Recipe, folder: Path, shared: Shared) -> dict[str, Any]:
    """Evaluate the final model on all languages, and every checkpoint on the sample; return the JSON of the run."""
    out = folder / "evaluation"
    last = STAGES[-1]
    before_merge = None
    if made.merge is None:
        final = evaluate_model(last, folder / last / FINAL, shared.heldout, out, retrieval=False)
    else:
        merge_phases(made, folder, folder / FINAL)
        unmerged = evaluate_model(last, folder / last / FINAL, shared.heldout, out, retrieval=False)
        before_merge = by_tier({code: loss.bits_per_byte for code, loss in unmerged.losses.items()}, shared)
        final = evaluate_model(MERGED, folder / FINAL, shared.heldout, out, retrieval=False)
    curve, seen = follow(made, folder, shared)
    bits = {code: loss.bits_per_byte for code, loss in final.losses.items()}
    record = read_record(folder)
    environment = {key: record.environment[key] for key in ("device", "threads", "precision", "versions")}
    return {
        "configuration": made.name, "seed": made.seed, "recipe": identity(made), "text": shared.text,
        "heldout": shared.heldout.fingerprint, "steps": tokens_of(made) // STEP, "tokens": record.tokens_seen(),
        "seconds": round(sum(record.seconds(phase) or 0 for phase in made.order())), **environment,
        "tiers": by_tier(bits, shared), "before_merge": before_merge,
        "languages": {
            code: [tier, round(bits[code], 4), round(shared.baseline.losses[code].bits_per_byte, 4), seen[code]]
            for code, tier in shared.tier_of.items()
        },
        "curve": curve,
        "loss": [
            [record.start_of(phase) + line["tokens"], round(line["loss"], 4)]
            for phase in STAGES for line in record.metrics[phase]
        ],
    }  # fmt: skip


def by_tier(bits: Mapping[str, float], shared: Shared) -> dict[str, float]:
    """Return the mean over the languages of each tier."""
    groups: dict[str, list[float]] = {tier: [] for tier in STAGES}
    for code, tier in shared.tier_of.items():
        groups[tier].append(bits[code])
    return {tier: round(sum(values) / len(values), 4) for tier, values in groups.items() if values}


def follow(made: Recipe, folder: Path, shared: Shared) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the curve of the sample over the stages, and the tokens seen of each language over all phases."""
    batches = {code: shared.heldout.batches[code] for code in shared.sample}
    token_bytes = shared.heldout.tokenizer.token_bytes()
    curve, before, total, seen = [], 0, Counter[str](), Counter[str]()
    for phase in made.order():
        saved = [(path, checkpoint.read_state(path)) for path in checkpoint.checkpoints(folder / phase)]
        # One that was saved because the run was stopped there is not a point of the curve.
        saved = [(path, state) for path, state in saved if state.due or state.finished]
        cursors = [state.cursor for _, state in saved]
        seen_here = exposure(made, phase, shared.shards, shared.heldout.tokenizer, cursors)
        total += seen_here[-1]
        if phase not in STAGES:
            continue
        for (path, state), here in zip(saved, seen_here, strict=True):
            model = masked_lm(load(as_model(path), device="cpu", precision="plain"))
            losses = evaluate_mlm(model, batches, token_bytes, batch=shared.heldout.options.batch)
            sample = {code: [round(losses[code].bits_per_byte, 4), seen[code] + here[code]] for code in shared.sample}
            curve.append({"phase": phase, "tokens": before + state.cursor.tokens, "sample": sample})
        before += cursors[-1].tokens
        seen += seen_here[-1]
    return curve, total


def write_run(values: Mapping[str, Any], path: Path) -> None:
    """Write the JSON of a run with one line for each key and language, so that differences can be read."""

    def line(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    def block(value: Any) -> str:
        if isinstance(value, dict) and len(value) > 9:
            return "{\n" + ",\n".join(f"{line(key)}:{line(entry)}" for key, entry in value.items()) + "\n}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(line(entry) for entry in value) + "\n]"
        return line(value)

    write_text(path, "{\n" + ",\n".join(f"{line(key)}: {block(value)}" for key, value in values.items()) + "\n}\n")


def is_made(path: Path, made: Recipe, shared: Shared) -> bool:
    """Return whether the JSON of this run is there. One of another recipe or text is made again, with a log line."""
    if not path.is_file():
        return False
    values = read_json(path)
    fits = (values["recipe"], values["text"]) == (identity(made), shared.text)
    if not fits:
        logger.info("%s is of another recipe or text: making it again", path)
    return fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--out", type=Path, help="where the JSONs are; default: WORK/runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--steps", type=int, help=f"of {STEP} tokens each, over all phases; default: 14M tokens")
    options = parser.parse_args()
    log.setup()
    torch.set_num_threads(1)  # for evaluation too
    sources = [f"sources.corpus.path={options.corpus}", f"sources.corpus.heldout={options.heldout}"]
    shared = prepare(recipe(REFERENCE, 0, sources, options.steps), options.work)
    out = options.out or options.work / "runs"
    for seed in options.seeds:
        for name in options.only:
            made = recipe(name, seed, sources, options.steps)
            path = out / f"{name}-{seed}.json"
            folder = options.work / f"seed-{seed}" / name
            if is_made(path, made, shared):
                continue
            logger.info("%s, seed %d: %d tokens", name, seed, tokens_of(made))
            train(made, folder, shared)
            write_run(measure(made, folder, shared), path)
            logger.info("%s is written", path)


if __name__ == "__main__":
    main()
