"""Which other libraries read a model folder correctly, by the keys that each of them takes from its files.

What each takes was tried or read in its source: transformers 4.57 and 5.23, sentence-transformers 5.1 and 6.2,
text-embeddings-inference 1.9, vLLM of 2025 and 2026. Some fail on a key that is absent; some take a default in its
place and compute something else without a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mmbert.doctor.model_folder import Folder
from mmbert.errors import WeightsError
from mmbert.model.config import config_from_hf
from mmbert.model.rope_parameters import LAYER_TYPES
from mmbert.model.weights import WEIGHTS

Reads = Literal["rightly", "with an option", "wrongly", "not", "not its kind"]


@dataclass(frozen=True)
class Fault:
    """One thing that keeps a reader from reading a folder as it is meant, and what to write instead."""

    reads: Reads
    why: str
    fix: str = ""

    @property
    def amiss(self) -> bool:
        """Whether it is more than a matter of asking the reader in another way."""
        return self.reads in ("wrongly", "not")


@dataclass(frozen=True)
class Verdict:
    """How one reader reads a folder: by the gravest of its faults."""

    reader: str
    reads: Reads
    faults: tuple[Fault, ...] = ()

    @property
    def why(self) -> str:
        return "; ".join(fault.why for fault in self.faults if fault.reads == self.reads)


_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend", None)
"""Classes of tokenizers that take ``tokenizer.json`` as it is."""

_NEW_PLACES = ("sentence_transformers.base", "sentence_transformers.sentence_transformer")
"""Where the modules of sentence-transformers lie from 5.4 on."""

_HEADS_ON_TOKENS = ("tokens", "span", "choice")
_SERVED_BY_VLLM = ("ModernBertModel", "ModernBertForSequenceClassification", "ModernBertForTokenClassification")
_VLLM_CONFIG = ("layer_norm_eps", "global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")
"""Keys without which vLLM does not start."""
_TEI_CONFIG = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_activation",
    "max_position_embeddings", "initializer_range", "initializer_cutoff_factor", "norm_eps", "norm_bias",
    "pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id", "global_rope_theta",
    "attention_bias", "attention_dropout", "global_attn_every_n_layers", "local_attention", "local_rope_theta",
    "classifier_activation", "architectures",
)  # fmt: skip
"""Keys without which text-embeddings-inference does not start."""
_TEI_POOLING = (
    "pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
)  # fmt: skip
_MEAN = 'write "pooling_mode_mean_tokens": true (or which it is)'


def check_readers(folder: Folder, kind: str) -> list[Verdict]:
    """Return the verdict of each reader; ``kind`` as in :mod:`mmbert.inference.load`."""
    readers: dict[str, Callable[[Folder, str], Iterator[Fault]]] = {
        "transformers 4": _transformers_4,
        "transformers 5": _transformers_5,
        "sentence-transformers 5": _sentence_5,
        "sentence-transformers 6": _sentence_6,
        "text-embeddings-inference": _tei,
        "vLLM": _vllm,
    }
    return [_verdict(name, list(find(folder, kind))) for name, find in readers.items()]


def _verdict(reader: str, faults: list[Fault]) -> Verdict:
    order = ("not its kind", "not", "wrongly", "with an option")
    faults.sort(key=lambda fault: order.index(fault.reads))
    if not faults:
        return Verdict(reader, "rightly")
    own = faults[:1] if faults[0].reads == "not its kind" else faults
    return Verdict(reader, faults[0].reads, tuple(own))


def stated_thetas(config: dict[str, Any]) -> dict[str, float | None]:
    """Return RoPE bases as written, the newer form first; None where neither is."""
    newer = config.get("rope_parameters")
    thetas: dict[str, float | None] = {}
    for kind, (older, _) in LAYER_TYPES.items():
        entry = newer.get(kind) if isinstance(newer, dict) else None
        value = entry.get("rope_theta") if isinstance(entry, dict) else None
        stated = config.get(older) if value is None else value
        thetas[kind] = float(stated) if isinstance(stated, int | float) else None
    return thetas


def _older_keys(folder: Folder) -> Iterator[Fault]:
    """What readers of the older form take where only the newer one is written, and it is something else."""
    config = folder.config
    for kind, (older, default) in LAYER_TYPES.items():
        meant = stated_thetas(config)[kind]
        if meant is not None and config.get(older, default) != meant:
            taken = f"{config[older]} of {older}" if older in config else f"{default:g}, for {older} is not written"
            why = f"takes the RoPE base {taken}; the model's is {meant:g}"
            yield Fault("wrongly", why, f'write "{older}": {meant:g}')
    types = config.get("layer_types")
    every = config.get("global_attn_every_n_layers", 3)
    if isinstance(types, list) and isinstance(every, int) and every > 0:
        read = ["sliding_attention" if layer % every else "full_attention" for layer in range(len(types))]
        if read != types:
            why = f"takes every {every}. layer as global, layer_types says otherwise"
            yield Fault("wrongly", why, 'write "global_attn_every_n_layers"')


def _scaled_rope(folder: Folder) -> dict[str, dict[str, Any]]:
    """Return the scaled tables by kind of layer, as this package reads them."""
    try:
        config = config_from_hf(folder.config)
    except WeightsError:
        return {}  # told as a problem of the folder
    scaled = {kind: config.rope(local=kind == "sliding_attention").scaling for kind in LAYER_TYPES}
    return {kind: scaling.to_hf() for kind, scaling in scaled.items() if scaling}


def _base_only(folder: Folder) -> Iterator[Fault]:
    """Readers that take RoPE's base and pass over its scaling."""
    if _scaled_rope(folder):
        why = "takes RoPE's base and ignores its scaling, so vectors differ at every length"
        yield Fault("wrongly", why, "serve it with mmbert serve or with transformers")


def _one_scaling(folder: Folder) -> Iterator[Fault]:
    """transformers 4 has one scaling, ``rope_scaling``, for all layers, and none with its flash attention."""
    scaled = _scaled_rope(folder)
    if not scaled:
        return
    if len(scaled) < len(LAYER_TYPES) or len({str(table) for table in scaled.values()}) > 1:
        yield Fault("wrongly", "has one scaling of RoPE for all layers; here the two kinds differ", "use version 5")
    elif not folder.config.get("rope_scaling"):
        yield Fault("wrongly", "reads a scaled RoPE from rope_scaling only", "write it there as well")
    else:
        why = "flash_attention_2 of version 4 ignores the scaling of RoPE"
        yield Fault("with an option", why, 'load it with attn_implementation="sdpa"')


def _all_dimensions(folder: Folder, option: str) -> Iterator[Fault]:
    """Readers that pass over ``truncate_dim``."""
    kept = folder.files.get("config_sentence_transformers.json", {}).get("truncate_dim")
    if kept is not None:
        why = f"passes over truncate_dim and gives all dimensions: ask for them, {option.format(kept)}"
        yield Fault("with an option", why)


def _absent(config: dict[str, Any], keys: Iterable[str]) -> Iterator[Fault]:
    """Keys that ``config.json`` lacks, and what to write there, with values where other keys tell them."""
    absent = [key for key in keys if config.get(key) is None]
    if not absent:
        return
    thetas = stated_thetas(config)
    known: dict[str, Any] = {older: thetas[kind] or default for kind, (older, default) in LAYER_TYPES.items()}
    known["layer_norm_eps"] = config.get("norm_eps", 1e-5)
    types = config.get("layer_types")
    if isinstance(types, list) and types.count("full_attention") > 1:
        known["global_attn_every_n_layers"] = types.index("full_attention", 1)
    words = [f'"{key}": {known[key]}' if key in known else f'"{key}"' for key in absent]
    yield Fault("not", f"config.json has no {', '.join(absent)}", f"write {', '.join(words)}")


def _transformers_4(folder: Folder, kind: str) -> Iterator[Fault]:
    name = folder.tokenizer_config.get("tokenizer_class")
    if name == "TokenizersBackend":
        why = f"tokenizer_config.json names the class {name}, which only version 5 has"
        yield Fault("not", why, 'write "PreTrainedTokenizerFast"')
    yield from _transformers_5(folder, kind)
    yield from _older_keys(folder)
    yield from _one_scaling(folder)


def _transformers_5(folder: Folder, kind: str) -> Iterator[Fault]:
    name = folder.tokenizer_config.get("tokenizer_class")
    if name not in _PLAIN:
        why = f"tokenizer_config.json names the class {name}, which may build its own rules over tokenizer.json"
        yield Fault("with an option", why, "compare ids, or load it with PreTrainedTokenizerFast")
    # transformers knows special tokens from these files only, not from tokenizer.json
    named = {**folder.files.get("special_tokens_map.json", {}), **folder.tokenizer_config}
    if not named.get("pad_token"):
        why = "names no pad_token: texts cannot stand in one batch"
        yield Fault("not", why, 'write "pad_token" in tokenizer_config.json')


def _sentence_5(folder: Folder, kind: str) -> Iterator[Fault]:
    yield from _sentence(folder, kind)
    yield from _all_dimensions(folder, "truncate_dim={}")
    new = [path for path, _ in folder.modules if path.startswith(_NEW_PLACES)]
    if new:
        why = f"modules.json names {new[0]}, which versions before 5.4 do not have"
        yield Fault("not", why, f'write "sentence_transformers.models.{new[0].rpartition(".")[2]}" and so on')
    for name, values in _poolings(folder):
        if "word_embedding_dimension" not in values:
            why = f"{name} has embedding_dimension and pooling_mode, which version 5 does not know"
            yield Fault("not", why, _MEAN.replace("write ", 'write "word_embedding_dimension" and '))
    yield from _transformers_4(folder, kind)


def _sentence_6(folder: Folder, kind: str) -> Iterator[Fault]:
    yield from _sentence(folder, kind)
    yield from _transformers_5(folder, kind)


def _sentence(folder: Folder, kind: str) -> Iterator[Fault]:
    if kind in _HEADS_ON_TOKENS:
        yield Fault("not its kind", "it has no class for this head")
    elif kind in ("encoder", "masked_lm"):
        yield Fault("with an option", "no modules.json: it adds mean pooling, with a warning")


def _poolings(folder: Folder) -> list[tuple[str, dict[str, Any]]]:
    names = [f"{where}/config.json" for path, where in folder.modules if path.endswith(".Pooling")]
    return [(name, folder.files[name]) for name in names if name in folder.files]


def _tei(folder: Folder, kind: str) -> Iterator[Fault]:
    if kind in _HEADS_ON_TOKENS:
        yield Fault("not its kind", "it serves vectors, classes and rankings")
        return
    config = folder.config
    yield from _absent(config, _TEI_CONFIG)
    if folder.place != folder.path:
        yield Fault("not", f"the encoder lies in {folder.place.name}/, not in the folder itself", "move its files up")
    if not any(file.name.startswith(WEIGHTS.removesuffix(".safetensors")) for file in folder.tensors.files):
        yield Fault("not", f"no {WEIGHTS}", "save the model as safetensors")
    yield from _private(folder)
    sentence = folder.files.get("sentence_bert_config.json")
    if sentence is not None and sentence.get("max_seq_length") is None:
        longest = config.get("max_position_embeddings", 8192)
        yield Fault("not", "sentence_bert_config.json has no max_seq_length", f'write "max_seq_length": {longest}')
    yield from _older_keys(folder)
    yield from _base_only(folder)
    yield from _all_dimensions(folder, '"dimensions": {} in requests')
    yield from _tei_classes(config) if kind == "sequence" else _tei_pooling(folder)


def _tei_classes(config: dict[str, Any]) -> Iterator[Fault]:
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not isinstance(config.get("label2id"), dict):
        yield Fault("not", "config.json has no id2label and label2id", "write the names of the classes")
    elif len(labels) > 1 and config.get("num_labels") != len(labels):
        yield Fault("not", "takes one class where num_labels is not written", f'write "num_labels": {len(labels)}')


def _tei_pooling(folder: Folder) -> Iterator[Fault]:
    pooling = folder.files.get("1_Pooling/config.json")
    if pooling is None:
        yield Fault("with an option", "no 1_Pooling/config.json: start it with --pooling mean")
        return
    absent = [key for key in _TEI_POOLING if not isinstance(pooling.get(key), bool)]
    if absent:
        why = f"1_Pooling/config.json has no {', '.join(absent)}"
        yield Fault("not", why, "write true for the one that it is, else false")
    elif not (pooling["pooling_mode_cls_token"] or pooling["pooling_mode_mean_tokens"]):
        yield Fault("not", "it pools by mean or first token only", "use another reader")


def _vllm(folder: Folder, kind: str) -> Iterator[Fault]:
    if folder.architecture not in _SERVED_BY_VLLM:
        yield Fault("not its kind", f"it has no class {folder.architecture}")
        return
    yield from _absent(folder.config, _VLLM_CONFIG)
    yield from _private(folder)
    yield from _older_keys(folder)
    yield from _base_only(folder)
    yield from _all_dimensions(folder, '"dimensions": {} in requests, with "is_matryoshka": true in config.json')
    for name, values in _poolings(folder):
        if not any(key.startswith("pooling_mode_") and value for key, value in values.items()):
            why = f"{name} has no pooling_mode_*: versions before September 2026 take the first token"
            yield Fault("wrongly", why, _MEAN)
    if kind == "encoder":
        yield Fault("with an option", "it takes the first token: ask it for mean pooling")


def _private(folder: Folder) -> Iterator[Fault]:
    """Files that only their owner may read: a server often runs as somebody else."""
    closed = [file.name for file in folder.tensors.files if not file.stat().st_mode & 0o044]
    if closed:
        yield Fault("not", f"{closed[0]} may be read by its owner only", f"chmod 644 {closed[0]}")
