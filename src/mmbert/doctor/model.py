"""``mmbert doctor MODEL``: what a model folder contains, what is wrong with it, which libraries read it correctly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmbert.doctor.compatibility import Fault, Verdict, check_readers, stated_thetas
from mmbert.doctor.model_folder import Folder, Problem, check_shapes, read_folder
from mmbert.errors import MMBertError, WeightsError
from mmbert.inference.load import KINDS, Loaded, load
from mmbert.inference.pooling import Pooling
from mmbert.inference.precision import choose
from mmbert.inference.predictor import READERS, tuning
from mmbert.inference.sentence_transformers_folder import Dense
from mmbert.model.adapter import read_adapter
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.folder import is_adapter, read_labels
from mmbert.model.rope_parameters import LAYER_TYPES
from mmbert.model.weights import model_folder
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import Tokenizer

_SENTENCE = "All human beings are born free and equal in dignity and rights."
_FINE = ("rightly", "with an option", "not its kind")


@dataclass
class Examination:
    """What was found in one folder.

    facts     by name, in the order printed: texts, numbers, lists and tables of them
    problems  each with its fix; those of other readers included
    readers   the verdict of each
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    readers: list[Verdict] = field(default_factory=list)

    @property
    def portable(self) -> str | None:
        """The format of ``mmbert export`` that other readers would read; None where that would not help."""
        if self.readers[-1].reads != "rightly" or all(verdict.reads in _FINE for verdict in self.readers):
            return None
        return "sentence-transformers" if str(self.facts["kind"]).startswith("sentence") else "huggingface"


def examine(name: str, *, device: str = "auto") -> Examination:
    """Read, check and try a folder or hub name. Raises WeightsError only if there is no such folder."""
    path = model_folder(name)
    if is_adapter(path):
        return _examine_adapter(path, device)
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise WeightsError(f"no config.json in {path}: not a model folder")
    folder = read_folder(path)
    pools = any(name.endswith(".Pooling") for name, _ in folder.modules)
    kind = "sentence" if pools else KINDS.get(folder.architecture, "unknown")
    reader = f"for {READERS[kind]}" if kind in READERS else "no predictor reads it"
    examination = Examination(problems=folder.problems)
    examination.facts |= {"folder": str(path), "class": folder.architecture, "kind": f"{kind}: {reader}"}
    _look_at_weights(folder, kind, examination)
    _look_at_tokenizer(folder, examination)
    ours = _own_verdict(_try(name, device, examination))
    # last: problems of our own loader come before those of others
    examination.readers = [*check_readers(folder, kind), ours]
    examination.problems += _others(examination.readers[:-1])
    return examination


def _examine_adapter(path: Path, device: str) -> Examination:
    """Say what an adapter is and belongs to, and whether it works with its base; other readers need peft for it."""
    examination = Examination()
    examination.facts |= {"folder": str(path), "kind": "adapter of peft (LoRA)"}
    try:
        adapter = read_adapter(path)
    except WeightsError as error:
        examination.problems.append(Problem.of(error))
        examination.readers = [_own_verdict(error)]
        return examination
    ranks = sorted({change.down.shape[0] for change in adapter.low_rank.values()})
    dora = any(change.magnitude is not None for change in adapter.low_rank.values())
    examination.facts |= {
        "base": adapter.base or "not said: give it in Python (base=)",
        "class": adapter.architecture or "that of the base",
        "changes": f"{len(adapter.low_rank)} matrices, rank {', '.join(map(str, ranks))}{', DoRA' if dora else ''}",
        "replaces": sorted(adapter.replaced) or "nothing",
    }
    examination.readers = [_own_verdict(_try(str(path), device, examination))]
    return examination


def _own_verdict(error: MMBertError | None) -> Verdict:
    return Verdict("mmbert", "not", (Fault("not", str(error)),)) if error else Verdict("mmbert", "rightly")


def _others(verdicts: list[Verdict]) -> list[Problem]:
    """What keeps other readers from reading the folder, once for all that it keeps."""
    readers: dict[Fault, list[str]] = {}
    for verdict in verdicts:
        for fault in verdict.faults:
            if fault.amiss:
                readers.setdefault(fault, []).append(verdict.reader)
    said = {"wrongly": "would compute something else with it", "not": "cannot read it"}
    return [
        Problem(f"{' and '.join(names)} {said[fault.reads]}: {fault.why}", fault.fix)
        for fault, names in readers.items()
    ]


def _look_at_weights(folder: Folder, kind: str, examination: Examination) -> None:
    """Find size, shape, context and RoPE bases; whether the weights are finite and those that the config describes."""
    tensors, tied = folder.tensors, folder.config.get("tie_word_embeddings") is not False
    if tensors.shapes:
        examination.facts["size"] = {
            "parameters": tensors.parameters(tied=tied),
            "bytes": tensors.bytes,
            "dtype": tensors.dtype,
        }
    if tensors.nan:
        listed = ", ".join(tensors.nan[:3]) + (", ..." if tensors.nan[3:] else "")
        what = f"{len(tensors.nan)} weights hold NaN or infinite values ({listed})"
        examination.problems.append(Problem(what, "take an earlier checkpoint"))
    if not folder.config:
        return
    where = str(folder.place / "config.json")
    try:
        config = config_from_hf(folder.config, where)
        examination.facts |= _shape(folder, config)
        if tensors.shapes and not tensors.faults and kind in READERS:
            labels = 1 if kind == "choice" else len(read_labels(folder.config, where))
            examination.problems += check_shapes(tensors, config, kind, labels)
    except MMBertError as error:
        examination.problems.append(Problem.of(error))


def _shape(folder: Folder, config: ModelConfig) -> dict[str, Any]:
    written = stated_thetas(folder.config)
    thetas = {"global": config.rope_theta, "local": config.local_rope_theta}
    unsaid = [name for name, kind in zip(thetas, LAYER_TYPES, strict=True) if written[kind] is None]
    angles: dict[str, Any] = {name: f"{theta:,.0f}" for name, theta in thetas.items()}
    scalings = {"global": config.rope_scaling, "local": config.local_rope_scaling}
    for name, scaling in scalings.items():
        if scaling:
            angles[f"{name} scaling"] = f"{scaling.rope_type}, factor {scaling.factor:g}"
    if unsaid:
        angles["not written"] = f"{' and '.join(unsaid)} (this is the default of every reader)"
    return {
        "shape": {
            "layers": config.num_layers, "width": config.hidden_size, "heads": config.num_heads,
            "mlp": config.intermediate_size, "vocabulary": config.vocab_size, "window": config.window,
            "global layer every": config.global_every,
        },
        "context": f"{config.max_context:,} tokens",
        "rope bases": angles,
    }  # fmt: skip


def _look_at_tokenizer(folder: Folder, examination: Examination) -> None:
    path = folder.place / "tokenizer.json"
    if not path.is_file():
        return
    try:
        tokenizer = Tokenizer.load(path)
    except MMBertError as error:
        examination.problems.append(Problem.of(error))
        return
    examination.facts["tokenizer"] = {
        "tokens": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "model": type(tokenizer.written.model).__name__,
        "class": folder.tokenizer_config.get("tokenizer_class", "not written"),
        "byte fallback": _byte_fallback(tokenizer),
    }
    examination.facts["specials"] = " ".join(
        f"{token} {tokenizer.role_ids[role]}" for role, token in tokenizer.specials.items()
    )
    examination.facts["spaces"] = spaces(tokenizer)


def spaces(tokenizer: Tokenizer) -> str:
    """Return what a tokenizer does with spaces, found by trying."""
    (spaced,) = tokenizer.encode_batch([" a"])
    written = f"written {SPACE}" if any(SPACE in (tokenizer.id_to_token(i) or "") for i in spaced) else "kept"
    if tokenizer.continuing_prefix:
        written = f"dropped, {tokenizer.continuing_prefix} goes on with a word"
    put = "one is put before every text" if tokenizer.puts_space else "none is put before a text"
    exact = all(tokenizer.decode(tokenizer.encode(text)) == text for text in ("a", " a", "a  b", "a \n b "))
    return f"{written}; {put}; {'decoding gives the text back' if exact else 'decoding loses some'}"


def _byte_fallback(tokenizer: Tokenizer) -> bool | str:
    """Whether each byte of UTF-8 has a token, or which have none: a character with such a byte becomes <unk>."""
    missing = [f"{byte:02X}" for byte, index in enumerate(tokenizer.byte_ids) if index == tokenizer.unk_id]
    needed = [byte for byte in missing if byte not in ("C0", "C1") and byte < "F5"]  # no UTF-8 has those
    return f"none for {' '.join(needed)}" if needed else bool(tokenizer.byte_ids)


def _try(name: str, device: str, examination: Examination) -> MMBertError | None:
    """Load the folder as the predictors do, and run a sentence through it. Return the error if that fails."""
    try:
        loaded = load(name, device=device)
        packed = loaded.tokenizer.pack([_SENTENCE]).to(loaded.device)
        with torch.inference_mode():
            states = loaded.encoder(packed)
    except MMBertError as error:
        if not examination.problems:  # else it says once more what was found already
            examination.problems.append(Problem.of(error))
        return error
    if not bool(torch.isfinite(states).all()):
        examination.problems.append(
            Problem("a plain sentence comes out as NaN", "try precision fp32, or another checkpoint")
        )
    examination.facts |= _use(loaded)
    return None


def _use(loaded: Loaded) -> dict[str, Any]:
    """What only the loaded model tells."""
    facts: dict[str, Any] = {}
    if loaded.kind in ("sentence", "encoder", "masked_lm"):
        pooling = loaded.pooling or Pooling()
        facts["pooling"] = {
            "of": "the folder" if loaded.pooling else "none in the folder; taken here",
            "modes": list(pooling.modes),
            "then": [_module(module) for module in loaded.after] or "nothing",
            "similarity": loaded.similarity,
            **({"dimensions kept": loaded.truncate_dim} if loaded.truncate_dim else {}),
        }
        facts["prompts"] = {key: repr(text) for key, text in loaded.prompts.items()} or "none"
        facts["tuned"] = "for embeddings" if loaded.tuned else f"never for embeddings: {tuning('embed', loaded.folder)}"
    if loaded.labels is not None:
        labels = list(loaded.labels.values())
        facts["labels"] = labels[:12] + [f"and {len(labels) - 12} more"] * (len(labels) > 12)
    facts["longest text"] = f"{loaded.max_tokens:,} tokens"
    why = choose(loaded.device)[1]
    facts["here"] = {"device": str(loaded.device), "precision": f"{loaded.precision} ({why})"}
    return facts


def _module(module: torch.nn.Module) -> str:
    sizes = f" {module.linear.in_features} to {module.linear.out_features}" if isinstance(module, Dense) else ""
    return type(module).__name__ + sizes
