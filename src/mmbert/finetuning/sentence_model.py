"""Models of sentence tasks as sentence-transformers' own classes around a packed encoder.

A folder of ours, of transformers or of sentence-transformers comes in; what it already is (its pooling, its head) is
kept where the recipe does not say otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor, nn

from mmbert.errors import ConfigError, WeightsError, first_line
from mmbert.files import read_json
from mmbert.finetuning.packed_engine import PackedBody, pack_engine
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Embed, early_layers
from mmbert.model.folder import LISTING, read_labels, read_modules
from mmbert.model.weights import model_folder
from mmbert.training.distributed import pick_device


def build_model(recipe: FinetuneRecipe, begin: Path | None = None) -> BaseModel:
    """Return the fp32 model that a recipe trains, on its device; new parts are initialised from its seed.

    begin  the folder to begin with (``start_folder``); None: that of the recipe's model

    Raises WeightsError for a folder that cannot be read, ConfigError for options that do not fit it.
    """
    folder = model_folder(recipe.model, revision=recipe.model_revision) if begin is None else begin
    transformers.set_seed(recipe.training.seed)
    build = {"embed": _embed, "rerank": _cross, "sparse": _sparse, "late_interaction": _late}[recipe.task]
    try:
        with quiet():
            model: BaseModel = build(recipe, folder)
    except (OSError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{recipe.model} cannot be read by sentence-transformers: {first_line(error)}") from error
    return model.to(pick_device(recipe.training.device, "training.device"))


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers and sentence-transformers log only errors, and draw no progress bars."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    before = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def encoder_of(model: BaseModel) -> Any:
    """Return transformers' model inside."""
    first = model[0]
    if not isinstance(first, Transformer):
        raise WeightsError(f"the first module is a {type(first).__name__}, no Transformer: it cannot be tuned here")
    return first.model


def body_of(model: BaseModel) -> PackedBody:
    """Return the packed engine inside."""
    inner = encoder_of(model)
    body: PackedBody = getattr(inner, "model", inner).forward
    return body


def _embed(recipe: FinetuneRecipe, folder: Path) -> SentenceTransformer:
    return dense_model(recipe.model, folder, recipe.embed, recipe.training.max_tokens)


def dense_model(name: str, folder: Path, options: Embed, longest: int) -> SentenceTransformer:
    """Return the model of a folder with one vector a text, packed, on the CPU; ``name`` is said in errors.

    longest  tokens of the longest text
    Raises WeightsError or ConfigError.
    """
    prompts = options.prompts
    tuned = (folder / LISTING).is_file()
    if tuned and options.pooling is None and not options.mix_layers:
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        model.max_seq_length = longest
        model.prompts = {**model.prompts, **{name: text for name, text in prompts.items() if text}}
        _check(model, (Transformer, Pooling, WeightedLayerPooling, Dense, Normalize))
        modules = list(model.children())
    else:
        transformer = _transformer(encoder_folder(folder), "feature-extraction", longest)
        width = transformer.get_embedding_dimension()
        modules = [transformer, Pooling(width, pooling_mode=options.pooling or "mean")]
        if options.mix_layers:
            modules.insert(1, _layer_mix(width, transformer.config.num_hidden_layers))
        model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    if options.normalize and not any(isinstance(module, Normalize) for module in modules):
        model.append(Normalize())
    body = pack_engine(encoder_of(model))
    for module in modules:
        if isinstance(module, WeightedLayerPooling):
            _mix_inside(body, module)
            encoder_of(model).config.output_hidden_states = False  # what is mixed inside is not listed
            if options.layers:
                raise ConfigError(f"embed.layers: {name} pools a mix of all layers, none can be left out")
    body.layers = early_layers("embed", options.layers, body.encoder.config.num_layers)
    too_wide = [width for width in options.matryoshka if width > (model.get_embedding_dimension() or 0)]
    if too_wide:
        raise ConfigError(
            f"embed.matryoshka {too_wide[0]}: the model's vectors have {model.get_embedding_dimension()} dimensions"
        )
    return model


def _layer_mix(width: int, layers: int) -> WeightedLayerPooling:
    """Return equal weights of the embeddings and all layers but the last, whose weight stays 0."""
    module = WeightedLayerPooling(width, num_hidden_layers=layers, layer_start=0)
    with torch.no_grad():
        module.layer_weights[-1] = 0
    return module


def _mix_inside(body: PackedBody, module: WeightedLayerPooling) -> None:
    """Let the engine sum the layers as they pass, packed; the module then finds no list of layers and does nothing."""
    start = module.layer_start

    def mix() -> Tensor:
        weights = nn.functional.pad(module.layer_weights[:-1], (start, 1))
        return weights / weights.sum()

    body.mix = mix


def _cross(recipe: FinetuneRecipe, folder: Path) -> CrossEncoder:
    place = encoder_folder(folder)
    values = read_json(place / "config.json")
    names = values.get("architectures") or []
    labels = read_labels(values, str(place / "config.json"))
    headed = "ModernBertForSequenceClassification" in names and len(labels) == 1
    config = {} if headed else {"classifier_pooling": recipe.rerank.pooling, "num_labels": 1}
    model = CrossEncoder(
        str(folder if headed else place), num_labels=1, device="cpu", max_length=recipe.training.max_tokens,
        config_kwargs=config, model_kwargs={"dtype": torch.float32, "ignore_mismatched_sizes": True},
    )  # fmt: skip
    inner = encoder_of(model)
    inner.drop.p = recipe.training.dropout
    body = pack_engine(inner)
    body.layers = early_layers("rerank", recipe.rerank.layers, body.encoder.config.num_layers)
    return model


def _sparse(recipe: FinetuneRecipe, folder: Path) -> SparseEncoder:
    longest, prompts = recipe.training.max_tokens, recipe.sparse.prompts
    names = read_json(encoder_folder(folder) / "config.json").get("architectures") or []
    if "ModernBertForMaskedLM" not in names:
        raise WeightsError(
            f"{recipe.model} is a {', '.join(names) or 'bare encoder'}: sparse models begin with a language-model head "
            "(ModernBertForMaskedLM), as pretraining leaves it"
        )
    if (folder / LISTING).is_file():
        model = SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        model.max_seq_length = longest
        _check(model, (Transformer, SpladePooling))
    else:
        transformer = _transformer(folder, "fill-mask", longest)
        pooling = SpladePooling("max", embedding_dimension=transformer.config.vocab_size)
        model = SparseEncoder(modules=[transformer, pooling], device="cpu", prompts=prompts)
    if model[1].pooling_strategy != "max":
        raise ConfigError(f"{recipe.model} pools by {model[1].pooling_strategy}: only max is supported")
    pack_engine(encoder_of(model))
    return model


def _late(recipe: FinetuneRecipe, folder: Path) -> MultiVectorEncoder:
    options, longest, prompts = recipe.late_interaction, recipe.training.max_tokens, recipe.late_interaction.prompts
    if (folder / LISTING).is_file():
        model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        _check(model, (Transformer, Dense, MultiVectorMask, Normalize))
        expansion = model[0].query_expansion
        if expansion is not None and not expansion.get("attend"):
            raise ConfigError(f"{recipe.model} scores tokens that it does not attend to: packed training cannot")
    else:
        transformer = _transformer(folder, "feature-extraction", longest)
        transformer.query_length, transformer.document_length = options.query_tokens, longest
        if options.expand_queries and options.query_tokens is not None:
            transformer.query_expansion = {"strategy": "fixed", "attend": True, "length": options.query_tokens}
        project = Dense(
            transformer.get_embedding_dimension(), options.dimensions, bias=False, activation_function=nn.Identity(),
            module_input_name="token_embeddings", module_output_name="token_embeddings",
        )  # fmt: skip
        scored = MultiVectorMask(skiplist_words=list(options.skip))
        unit = Normalize(module_input_name="token_embeddings", module_output_name="token_embeddings")
        model = MultiVectorEncoder(modules=[transformer, project, scored, unit], device="cpu", prompts=prompts)
    pack_engine(encoder_of(model))
    return model


def _transformer(folder: Path, task: Any, longest: int) -> Transformer:
    return Transformer(
        str(folder), transformer_task=task, max_seq_length=longest, model_kwargs={"dtype": torch.float32}
    )


def encoder_folder(folder: Path) -> Path:
    """Return where config.json and weights are: the folder, or that of its first module."""
    if (folder / "config.json").is_file() or not (folder / LISTING).is_file():
        return folder
    return folder / read_modules(folder)[0][1]


def _check(model: BaseModel, known: tuple[type, ...]) -> None:
    for module in model.children():
        if not isinstance(module, known):
            raise WeightsError(f"the model has a {type(module).__name__} module: packed fine-tuning does not know it")
