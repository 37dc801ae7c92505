"""Merge saved models chunk by chunk, so that memory does not grow with the model.

Every tensor is read in chunks of ``CHUNK`` entries, from all models at once, and the result is written as it comes.
TIES with a trim over the whole model reads the files several times, since a chunk can only be trimmed when the
threshold of the whole model is known:

1. and 2.  the exact threshold of each variant, by counting the bits of magnitudes (``select.py``);
3.         which sign wins most parameters: it decides votes that are exactly even (``ties.py``);
4.         trim, elect, average, write.

With a trim per tensor the same passes run over one tensor at a time (without the third: even votes are positive).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from mmbert.errors import ConfigError, WeightsError
from mmbert.files import atomic_folder, read_json
from mmbert.log import progress
from mmbert.model.mapped import TensorInfo
from mmbert.model.weights import EMBEDDING, TIED, WEIGHTS, load_config, tensor_writer
from mmbert.recipe import START, Merge
from mmbert.surgery.average import average, fading_weights
from mmbert.surgery.report import MergeReport, Tally
from mmbert.surgery.select import Selection, Threshold, Trim
from mmbert.surgery.tensor_files import TensorFile
from mmbert.surgery.ties import disjoint_mean, elect, entries_kept

CHUNK = 1 << 18
"""Entries of a tensor in memory at once, per model (1 MiB in float32)."""

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
)  # fmt: skip
_FREE_FIELDS = {
    "max_context", "embed_dropout", "attention_out_dropout", "mlp_dropout", "initializer_range", "initializer_cutoff",
}  # fmt: skip
"""Fields of a configuration that do not change what the trained weights compute."""

logger = logging.getLogger(__name__)


_Variant = tuple[Path, float]
"""Folder and weight of a model."""


def merge(spec: Merge, phases: dict[str, list[Path]], base: Path | None, out: Path) -> MergeReport:
    """Merge models as ``spec`` says and write the result to the folder ``out`` (Hugging Face form, atomic).

    ``phases`` gives each phase of ``spec.phases`` its saved models, oldest first: ``ties`` takes the last, ``average``
    the last ``spec.checkpoints`` (of ``start`` there is one). ``base`` is the model that all variants of ``ties``
    started from; for ``average`` it is optional and only serves the report. The configuration and tokenizer are those
    of the first variant, weights keep its types and are computed in float32 (``average``: float64).

    Raises ConfigError if ``spec`` and the folders do not fit, WeightsError naming the tensor if the models do not.
    """
    variants = _variants(spec, phases)
    if spec.method == "ties" and base is None:
        raise ConfigError("ties needs the folder of the base model: the phase that the merged ones follow")
    with ExitStack() as stack:
        files = [stack.enter_context(TensorFile(folder)) for folder, _ in variants]
        reference = None if base is None else stack.enter_context(TensorFile(base))
        models = files if reference is None else [*files, reference]
        _same_configs([file.folder for file in models])
        tensors = _layout(models, out)
        with atomic_folder(out) as folder, tensor_writer(folder / WEIGHTS, tensors) as write:
            job = _Job(spec, variants, files, reference, tensors, write)
            report = job.ties() if spec.method == "ties" else job.average()
            _copy_side_files(files[0].folder, folder)
    logger.info("merged %d models by %s into %s", len(variants), spec.method, out)
    return report


class _Job:
    """One merge: open files and the sums of its report."""

    def __init__(
        self,
        spec: Merge,
        variants: list[_Variant],
        files: list[TensorFile],
        reference: TensorFile | None,
        tensors: list[TensorInfo],
        write: Callable[[Tensor], object],
    ) -> None:
        self._spec = spec
        self._variants = variants
        self._files = files
        self._reference = reference
        self._tensors = tensors
        self._write = write
        self._weights = torch.tensor([weight for _, weight in variants], dtype=torch.float32)
        self._tallies = {info.name: Tally(len(variants)) for info in tensors}
        floating = sum(info.numel for info in tensors if info.dtype.is_floating_point)
        # TIES: two passes for the thresholds if entries are trimmed, one for the majority sign, one to merge and write.
        passes = 1 if spec.method == "average" else 1 + 2 * (spec.density < 1) + (spec.trim == "model")
        self._bar: progress[None] = progress(total=floating * passes, desc=f"merge ({spec.method})", unit="w")

    def ties(self) -> MergeReport:
        """Merge by TIES, in the passes that the module's docstring lists."""
        whole = self._spec.trim == "model"
        thresholds: list[Threshold | None] = []
        with self._bar:
            for group in [self._tensors] if whole else [[info] for info in self._tensors]:
                thresholds = self._thresholds(group)
                # mergekit's form (trim per tensor) has no majority: its even votes are positive, see ties.py.
                even = self._majority(group, thresholds) if whole else 1.0
                self._merge_group(group, thresholds, even)
        magnitudes = [0.0 if threshold is None else threshold.magnitude for threshold in thresholds]
        return self._report(magnitudes if whole else None)

    def average(self) -> MergeReport:
        """Merge by the weighted mean."""
        weights = [weight for _, weight in self._variants]
        with self._bar:
            for info in self._tensors:
                if not info.dtype.is_floating_point:
                    self._copy(info)
                    continue
                for start, stop in _chunks(info):
                    chunks = [_finite(file, info.name, start, stop) for file in self._files]
                    merged = average(chunks, weights)
                    self._write(merged)
                    reference = merged if self._reference is None else self._reference.read(info.name, start, stop)
                    # Without a base the report measures each model's distance from the mean.
                    differences = torch.stack([chunk.float() for chunk in chunks]) - reference.float()
                    self._tallies[info.name].add(reference, differences, differences)
                    self._bar.update(stop - start)
        return self._report(None)

    def _thresholds(self, group: list[TensorInfo]) -> list[Threshold | None]:
        """Return each variant's trim threshold over the tensors of a group."""
        count = sum(info.numel for info in group if info.dtype.is_floating_point)
        # Two passes over all entries find the exact k-th largest magnitude without keeping them (select.py).
        keep = entries_kept(count, self._spec.density)
        if keep >= count:
            return [None] * len(self._files)
        selections = [Selection(keep) for _ in self._files]
        for _ in range(2):
            for _, _, differences in self._differences(group):
                for selection, difference in zip(selections, differences, strict=True):
                    selection.count(difference)
            for selection in selections:
                selection.next_pass()
        return [selection.threshold for selection in selections]

    def _majority(self, group: list[TensorInfo], thresholds: list[Threshold | None]) -> float:
        """Return the sign that wins most parameters."""
        trims = [Trim(threshold) for threshold in thresholds]
        balance = 0
        for _, _, differences in self._differences(group):
            trimmed = torch.stack([trim(row) for trim, row in zip(trims, differences, strict=True)])
            # even=0.0 leaves undecided parameters out of the count; their sign is what this pass decides.
            balance += int(elect(trimmed, self._weights, even=0.0).sum(dtype=torch.float64))
        return 1.0 if balance > 0 else -1.0  # a tie of ties is negative in the authors' notebook

    def _merge_group(self, group: list[TensorInfo], thresholds: list[Threshold | None], even: float) -> None:
        trims = [Trim(threshold) for threshold in thresholds]
        # A Trim counts the entries equal to its threshold as they pass: chunks come in the order of the first pass.
        for info in group:
            if not info.dtype.is_floating_point:
                self._copy(info)
                continue
            dtype = self._files[0].tensors[info.name].dtype
            for _, base, differences in self._differences([info]):
                trimmed = torch.stack([trim(row) for trim, row in zip(trims, differences, strict=True)])
                # merged = the mean of the task vectors that carry the elected sign; result = base + scale * merged
                merged = disjoint_mean(trimmed, self._weights, elect(trimmed, self._weights, even))
                self._write((base + self._spec.scale * merged).to(dtype))
                self._tallies[info.name].add(base, differences, trimmed)

    def _differences(self, group: list[TensorInfo]) -> Iterator[tuple[TensorInfo, Tensor, Tensor]]:
        """Yield chunks of a group's floating tensors: (n,) base and (K, n) differences from it, float32."""
        assert self._reference is not None
        for info in group:
            if not info.dtype.is_floating_point:
                continue
            for start, stop in _chunks(info):
                base = _finite(self._reference, info.name, start, stop).float()
                # Differences are formed in fp32: in bf16 a small update of a large weight would be rounded away before
                # the trim.
                variants = torch.stack([_finite(file, info.name, start, stop).float() for file in self._files])
                yield info, base, variants.sub_(base)
                self._bar.update(stop - start)

    def _copy(self, info: TensorInfo) -> None:
        """Write a tensor of whole numbers, which must be the same in every model."""
        for start, stop in _chunks(info):
            chunks = [file.read(info.name, start, stop) for file in self._files]
            for file, chunk in zip(self._files, chunks, strict=True):
                # A mean of whole numbers would be a third value that no model was trained with.
                if not torch.equal(chunk, chunks[0]):
                    raise WeightsError(f"cannot merge: whole numbers of {info.name} differ in {file.folder}")
            self._write(chunks[0])

    def _report(self, thresholds: list[float] | None) -> MergeReport:
        spec, is_ties = self._spec, self._spec.method == "ties"

        # Sums, not means of ratios: a tensor counts in the total by its number of entries.
        def absorb(total: Tally, tally: Tally) -> Tally:
            total.absorb(tally)
            return total

        return MergeReport(
            method=spec.method,
            reference="mean" if self._reference is None else str(self._reference.folder),
            variants=[str(folder) for folder, _ in self._variants],
            weights=[weight for _, weight in self._variants],
            trim=spec.trim if is_ties else None,
            density=spec.density if is_ties else None,
            scale=spec.scale if is_ties else None,
            thresholds=thresholds,
            total=reduce(absorb, self._tallies.values(), Tally(len(self._variants))).result(),
            tensors={name: tally.result() for name, tally in self._tallies.items()},
        )


def _variants(spec: Merge, phases: dict[str, list[Path]]) -> list[_Variant]:
    """Return the models to merge with their weights; checkpoints of one phase share its weight."""
    variants = []
    for name, weight in spec.phases.items():
        if weight <= 0:
            raise ConfigError(f"merge.phases.{name}: a weight must be above 0, not {weight}; or leave the phase out")
        folders = phases.get(name, [])
        wanted = spec.checkpoints if spec.method == "average" and name != START else 1
        if not folders:
            raise ConfigError(f"merge: phase {name} has no saved model yet: train it first")
        if len(folders) < wanted:
            raise ConfigError(
                f"merge.checkpoints is {wanted} but phase {name} has {len(folders)}: lower it, or save more often"
            )
        # Checkpoints of one phase divide the weight of the phase: their fading weights sum to 1.
        fading = fading_weights(wanted, spec.fading)
        variants += [(folder, weight * part) for folder, part in zip(folders[-wanted:], fading, strict=True)]
    return variants


def _layout(models: list[TensorFile], out: Path) -> list[TensorInfo]:
    """Return the tensors to write: wide types first, then by name. Raises WeightsError if the models differ in them."""
    names = [_names(file) for file in models]
    for file, own in zip(models[1:], names[1:], strict=True):
        for name in sorted(names[0] ^ own):
            lacking = file if name in names[0] else models[0]
            raise WeightsError(f"cannot merge: {lacking.folder} has no tensor {name}; all must be of one architecture")
        for name in sorted(own):
            one, two = models[0].tensors[name], file.tensors[name]
            if one.shape != two.shape or one.dtype.is_floating_point != two.dtype.is_floating_point:
                forms = [f"{info.dtype} {list(info.shape)}".removeprefix("torch.") for info in (one, two)]
                raise WeightsError(
                    f"cannot merge: {name} is {forms[0]} in {models[0].folder} but {forms[1]} in {file.folder}"
                )
    if out.resolve() in [file.folder.resolve() for file in models]:
        raise ConfigError(f"{out} is one of the models to merge: give another folder for the result")
    infos = [models[0].tensors[name] for name in names[0]]
    # Wide types first: each tensor then begins at a multiple of its item size, as safetensors readers expect.
    return sorted(infos, key=lambda info: (-info.dtype.itemsize, info.name))


def _names(file: TensorFile) -> set[str]:
    """Return the names of a model's tensors, without a tied decoder."""
    config = read_json(file.folder / "config.json")
    tied = config.get("tie_word_embeddings", True) and EMBEDDING in file.tensors
    return set(file.tensors) - ({TIED} if tied else set())  # some writers store the tied decoder, others do not


def _same_configs(folders: list[Path]) -> None:
    """Raise WeightsError for models that compute different things from the same weights or tokenize differently."""
    first, *rest = folders
    expected = load_config(first).model_dump(exclude=_FREE_FIELDS)
    words = _tokenizer(first)
    for folder in rest:
        other_config = load_config(folder).model_dump(exclude=_FREE_FIELDS)
        for field, value in expected.items():
            if other_config[field] != value:
                raise WeightsError(f"cannot merge: {field} is {value} in {first} but {other_config[field]} in {folder}")
        other = _tokenizer(folder)
        if words is not None and other is not None and words != other:
            raise WeightsError(f"cannot merge: {first} and {folder} have different tokenizers")


def _tokenizer(folder: Path) -> str | None:
    """Return the parts of a folder's tokenizer that determine ids, as text; truncation and padding are left out."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = {key: value for key, value in read_json(path).items() if key not in ("truncation", "padding")}
    return json.dumps(content, sort_keys=True)


def _copy_side_files(source: Path, target: Path) -> None:
    for name in ("config.json", *_TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _chunks(info: TensorInfo) -> Iterator[tuple[int, int]]:
    for start in range(0, info.numel, CHUNK):
        yield start, min(start + CHUNK, info.numel)


def _finite(file: TensorFile, name: str, start: int, stop: int) -> Tensor:
    chunk = file.read(name, start, stop)
    if not chunk.isfinite().all():
        raise WeightsError(f"cannot merge: {name} in {file.folder} holds NaN or infinity")
    return chunk
