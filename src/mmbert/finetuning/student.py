"""The student of a distillation as a model folder: a fresh encoder, or some layers of a larger mmBERT.

A fresh student reads the tokens of the model that it is made from, and begins with that model's token embeddings. They
are most of what a small encoder knows of 100 languages: 96 of the 118 million weights of multilingual-e5-small.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mmbert.errors import ConfigError, WeightsError, first_line
from mmbert.files import atomic_folder, write_json
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_distil import Student
from mmbert.finetuning.sentence_model import encoder_folder, encoder_of, quiet
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.folder import read_config
from mmbert.model.init import init_weights
from mmbert.model.weights import WEIGHTS, config_to_hf, load_config, load_state, model_folder, save_state
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

STUDENT = "student"


def student_folder(recipe: FinetuneRecipe, folder: Path) -> Path:
    """Return the model folder that a run starts from: the recipe's model, or ``folder/student`` made from it once.

    Raises ConfigError for a shape that cannot be made, WeightsError or TokenizerError for a model that cannot be read.
    """
    if recipe.student is None:
        return model_folder(recipe.model, revision=recipe.model_revision)
    place = folder / STUDENT
    if not is_made(folder):
        with atomic_folder(place) as partial:
            if recipe.student.keep is not None:
                _keep_layers(recipe, recipe.student.keep, partial)
            else:
                _fresh(recipe, recipe.student, partial)
    return place


def is_made(folder: Path) -> bool:
    """Return whether a run's folder has its student."""
    return (folder / STUDENT / "config.json").is_file()


def _keep_layers(recipe: FinetuneRecipe, count: int, folder: Path) -> None:
    source = encoder_folder(model_folder(recipe.model, revision=recipe.model_revision))
    config, values = load_config(source), read_config(source)
    kept = spread(config, count)
    log.info("student: layers %s of %s", ", ".join(map(str, kept)), recipe.model)
    state: dict[str, Tensor] = {}
    for name, value in load_state(source).items():
        prefix, layer, rest = name.partition("layers.")
        index, _, leaf = rest.partition(".")
        if not layer:  # embeddings, the last norm, and the head: a student of a tuned model begins with its answers
            state[name] = value.float()
        elif int(index) in kept:
            state[f"{prefix}layers.{kept.index(int(index))}.{leaf}"] = value.float()
    architecture = values.get("architectures", ["ModernBertModel"])[0]
    smaller = config_to_hf(config.model_copy(update={"num_layers": count}), architecture, "float32")
    save_state(state, folder / WEIGHTS)
    write_json(folder / "config.json", {**values, **smaller})
    Tokenizer.load(source).save(folder, max_tokens=config.max_context, as_written=True)


def spread(config: ModelConfig, count: int) -> list[int]:
    """Return ``count`` layers of a model, ascending: as evenly spread as can be with each kind in its place.

    Layers 0, 3, 6, ... of a ModernBERT attend globally and the others locally, so that a layer can only stand where
    one of its kind is expected. The sum of distances from the even places is minimal (dynamic programming).
    Raises ConfigError where there are not so many layers.
    """
    total = config.num_layers
    if not 1 <= count < total:
        raise ConfigError(f"student.keep {count}: name a number from 1 to {total - 1}, the model has {total} layers")
    ideal = [0.0] if count == 1 else [place * (total - 1) / (count - 1) for place in range(count)]
    best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
    for place, wanted in enumerate(ideal):
        found: dict[int, tuple[float, list[int]]] = {}
        for layer in range(total):
            before = [best[last] for last in best if last < layer]
            if before and config.is_global(layer) == config.is_global(place):
                cost, chosen = min(before)
                found[layer] = (cost + abs(layer - wanted), [*chosen, layer])
        best = found
    if not best:
        raise ConfigError(f"student.keep {count}: there are not enough layers of each kind among {total}: keep fewer")
    return min(best.values())[1]


def _fresh(recipe: FinetuneRecipe, shape: Student, folder: Path) -> None:
    try:
        with quiet():
            source = SentenceTransformer(recipe.model, revision=recipe.model_revision, device="cpu")
            table = encoder_of(source).get_input_embeddings().weight.detach().float()
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"model {recipe.model}: sentence-transformers: {first_line(error)}") from error
    place = Path(encoder_of(source).name_or_path)
    tokenizer = Tokenizer.load(encoder_folder(place) if place.is_dir() else recipe.model, recipe.model_revision)
    if shape.hidden_size > table.shape[1]:
        raise ConfigError(
            f"student.hidden_size {shape.hidden_size} is more than the {table.shape[1]} of the token embeddings of "
            f"{recipe.model}: take at most {table.shape[1]}"
        )
    heads = shape.num_heads or max(1, shape.hidden_size // 64)
    if shape.hidden_size % heads or shape.hidden_size // heads % 2:
        raise ConfigError(f"student.hidden_size {shape.hidden_size} is not an even multiple of {heads} heads")
    config = ModelConfig.preset(
        "small", vocab_size=len(table), hidden_size=shape.hidden_size, num_layers=shape.num_layers, num_heads=heads,
        intermediate_size=shape.intermediate_size or 3 * shape.hidden_size, max_context=shape.max_context,
        attention_out_dropout=0.0,
        **{f"{role}_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "eos", "bos", "unk", "mask")},
    )  # fmt: skip
    encoder = Encoder(config)
    init_weights(encoder, config, torch.Generator().manual_seed(recipe.training.seed))
    with torch.no_grad():
        encoder.embeddings.tok_embeddings.weight.copy_(reduce_width(table, shape.hidden_size))
    encoder.save(folder)
    tokenizer.save(folder, max_tokens=shape.max_context, as_written=True)
    log.info(
        "student: %d layers of %d, fresh, with the tokenizer and the %s token embeddings of %s",
        shape.num_layers, shape.hidden_size, f"{len(table):,}", recipe.model,
    )  # fmt: skip


def reduce_width(table: Tensor, width: int) -> Tensor:
    """Return rows (V, D) on their first ``width`` principal axes (V, width); as they are if that is D."""
    if table.shape[1] == width:
        return table
    centred = (table - table.mean(0)).double()
    axes = torch.linalg.eigh(centred.T @ centred)[1]  # ascending
    reduced: Tensor = (centred @ axes[:, -width:].flip(1)).float()
    return reduced
