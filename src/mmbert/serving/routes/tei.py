"""Routes as text-embeddings-inference has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel

from mmbert.serving.abilities.embedding import Embedding
from mmbert.serving.abilities.judging import Judging, Ranking
from mmbert.serving.abilities.texts import characters
from mmbert.serving.call import Call
from mmbert.serving.models import WrongModel
from mmbert.serving.routes.route import Route
from mmbert.serving.schemas import (
    Decode,
    Embed,
    EmbedAll,
    Predict,
    Rerank,
    Similarity,
    SimilarityParameters,
    Tokenize,
)
from mmbert.serving.tokens import text_of, tokens_of


class Label(BaseModel):
    label: str
    score: float


class Ranked(BaseModel):
    index: int
    score: float
    text: str | None = None


class Token(BaseModel):
    """``bytes``: of the text that it stands for; 0 for special tokens. ``token``: as the vocabulary writes it."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None
    token: str
    bytes: int


class SparseValue(BaseModel):
    index: int
    value: float


def check_vectors(call: Call, embedding: Embedding, texts: int, dimensions: int | None = None) -> None:
    """Raises what ``Call.check_count`` raises for so many vectors."""
    call.check_count(texts, texts * min(dimensions or embedding.embedder.dimensions, embedding.embedder.dimensions))


def check_scores(call: Call, labels: list[str], texts: int) -> None:
    """Raises what ``Call.check_count`` raises for the scores of all classes of so many texts."""
    call.check_count(texts, texts * 2 * len(labels), texts * characters(labels))


def named_scores(labels: list[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """``[{"label", "score"}]`` of one text, the highest first."""
    order = np.argsort(-scores, kind="stable").tolist()
    return [{"label": labels[index], "score": float(scores[index])} for index in order]


async def embed(asked: Embed, call: Call) -> Any:
    """A vector for each text."""
    served, embedding = call.able(Embedding, asked.model)
    texts = listed(asked.inputs)
    check_vectors(call, embedding, len(texts), asked.dimensions)
    task = embedding.embed(
        texts,
        prompt=asked.prompt_name,
        dimensions=asked.dimensions,
        normalize=asked.normalize is not False,
        cut=call.cut(asked.truncate, asked.truncation_direction),
    )
    return await call.ask(served, task)


async def embed_all(asked: EmbedAll, call: Call) -> Any:
    """Of each text a vector for each of its tokens, <bos> and <eos> included."""
    served, embedding = call.able(Embedding, asked.model)
    texts = listed(asked.inputs)
    call.check_count(len(texts))
    width = embedding.embedder.loaded.config.hidden_size
    task = embedding.tokens(
        texts,
        prompt=asked.prompt_name,
        cut=call.cut(asked.truncate, asked.truncation_direction),
        most=call.most // width,
    )
    return await call.ask(served, task)


async def embed_sparse(asked: EmbedAll, call: Call) -> Any:
    """Refused: no head of these models gives sparse vectors."""
    served, _ = call.able(Embedding, asked.model)
    raise WrongModel(f"{served.name} gives dense vectors only, there is no SPLADE head: use /embed")


async def rerank(asked: Rerank, call: Call) -> list[dict[str, Any]]:
    """Texts by how well they answer the query, best first."""
    served, ranking = call.able(Ranking, asked.model)
    call.check_count(len(asked.texts), 2 * len(asked.texts), characters(asked.texts) if asked.return_text else 0)
    cut = call.cut(asked.truncate, asked.truncation_direction)
    scores = await call.ask(served, ranking.rank(asked.query, asked.texts, raw=bool(asked.raw_scores), cut=cut))
    order = np.argsort(-scores, kind="stable").tolist()
    found: list[dict[str, Any]] = [{"index": index, "score": float(scores[index])} for index in order]
    if asked.return_text:
        for ranked in found:
            ranked["text"] = asked.texts[ranked["index"]]
    return found


async def predict(asked: Predict, call: Call) -> Any:
    """Classes of a text or pair, best first; for a list of them a list. ``[a, b]`` is one pair."""
    served, judging = call.able(Judging, asked.model)
    inputs: list[Any] = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
    alone = isinstance(asked.inputs, str) or any(isinstance(text, str) for text in inputs)
    items = [_item(inputs)] if alone else [_item(item) for item in inputs]
    check_scores(call, judging.labels, len(items))
    cut = call.cut(asked.truncate, asked.truncation_direction)
    scores = await call.ask(served, judging.classify(items, raw=bool(asked.raw_scores), cut=cut))
    found = [named_scores(judging.labels, row) for row in scores]
    return found[0] if alone else found


def _item(item: list[str]) -> str | tuple[str, str]:
    return item[0] if len(item) == 1 else (item[0], item[1])


async def similarity(asked: Similarity, call: Call) -> Any:
    """Cosines of one sentence and others."""
    served, embedding = call.able(Embedding, asked.model)
    call.check_count(len(asked.inputs.sentences))
    texts = [asked.inputs.source_sentence, *asked.inputs.sentences]
    options = asked.parameters or SimilarityParameters()
    cut = call.cut(options.truncate, options.truncation_direction)
    vectors = await call.ask(served, embedding.embed(texts, prompt=options.prompt_name, cut=cut))
    return vectors[1:] @ vectors[0]


async def tokenize(asked: Tokenize, call: Call) -> list[list[dict[str, Any]]]:
    """The tokens of each text as the model sees them."""
    served = call.service.models.find(asked.model)
    texts = listed(asked.inputs)
    call.check_count(len(texts))
    specials = asked.add_special_tokens is not False
    return await call.ask(served, tokens_of(served, texts, specials, asked.prompt_name, call.most))


async def decode(asked: Decode, call: Call) -> list[str]:
    """The text of token ids."""
    served = call.service.models.find(asked.model)
    rows: Any = asked.ids if asked.ids and isinstance(asked.ids[0], list) else [asked.ids]
    call.check_count(len(rows))
    return await call.ask(served, text_of(served, rows, asked.skip_special_tokens is not False, call.most))


def listed(inputs: str | list[str]) -> list[str]:
    """One text as a list of it."""
    return [inputs] if isinstance(inputs, str) else inputs


ROUTES = (
    Route("/embed", "Vectors of texts", Embed, list[list[float]], embed, "embed"),
    Route("/embed_all", "Vectors of all tokens", EmbedAll, list[list[list[float]]], embed_all, "embed"),
    Route("/embed_sparse", "Sparse vectors: refused", EmbedAll, list[list[SparseValue]], embed_sparse, "embed"),
    Route("/rerank", "Texts by how well they answer", Rerank, list[Ranked], rerank, "rerank"),
    Route("/predict", "Classes of texts and pairs", Predict, list[Label] | list[list[Label]], predict, "predict"),
    Route("/similarity", "Cosines of a sentence and others", Similarity, list[float], similarity, "embed"),
    Route("/tokenize", "Tokens as the model sees them", Tokenize, list[list[Token]], tokenize, "tokenize"),
    Route("/decode", "Text of token ids", Decode, list[str], decode, "tokenize"),
)
