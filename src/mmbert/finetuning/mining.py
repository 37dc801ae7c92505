"""Hard negatives before training: documents of other queries that a model finds near a query, as a file.

``negatives.jsonl`` beside the run holds one example a line, ``query``, ``positive``, ``negative`` (a list) and
``language``: a data set that other runs can read. A resumed run reads it instead of mining again.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from torch import Tensor

from mmbert.errors import ConfigError, DataError, WeightsError, first_line
from mmbert.files import atomic_file
from mmbert.finetuning.ranking_examples import Group
from mmbert.finetuning.recipe_sentence import Mine
from mmbert.inference.embedder import Embedder
from mmbert.inference.reranker import Reranker
from mmbert.io.rows import read_rows

log = logging.getLogger(__name__)

MINED = "negatives.jsonl"


def mine(options: Mine, groups: Sequence[Group], folder: Path, device: str) -> list[Group]:
    """Return the examples with mined negatives instead of their own, without those for which too few were found.

    Raises WeightsError for a model that cannot be loaded, DataError where nothing is found.
    """
    path = folder / MINED
    if path.is_file():
        log.info("hard negatives of %s", path)
        return _read(path)
    pairs = list(dict.fromkeys((group.query, group.documents[0]) for group in groups))
    languages = {(group.query, group.documents[0]): group.language for group in groups}
    log.info("mining hard negatives of %s pairs with %s", f"{len(pairs):,}", options.model)
    reranker = None
    if options.reranker is not None:
        reranker = _load("reranker", options.reranker, device, Reranker.load, CrossEncoder)
    random.seed(0)  # which the library's "random" draws from
    try:
        found = mine_hard_negatives(
            Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]}),
            _load("model", options.model, device, _Miner, SentenceTransformer),
            corpus=list(dict.fromkeys(document for group in groups for document in group.documents)),
            cross_encoder=reranker, range_min=options.range_min, range_max=options.range_max,
            max_score=options.max_score, absolute_margin=options.margin, relative_margin=options.relative_margin,
            num_negatives=options.negatives, sampling_strategy=options.pick, output_format="n-tuple",
            batch_size=options.batch, verbose=False,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"mine: {first_line(error)}") from error
    rows = [dict(row) for row in found]
    if not rows:
        raise DataError(
            f"mine: no query has {options.negatives} negatives within the {options.range_max} nearest: "
            "ask for fewer, or look further (mine.range_max)"
        )
    if len(rows) < len(pairs):
        log.info("%s of %s pairs have %d negatives", f"{len(rows):,}", f"{len(pairs):,}", options.negatives)
    with atomic_file(path) as file:
        for row in rows:
            query, positive, *negatives = row.values()
            line = {"query": query, "positive": positive, "negative": negatives, "language": languages[query, positive]}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return _read(path)


def _load(option: str, name: str, device: str, ours: Callable[..., Any], theirs: Callable[..., Any]) -> Any:
    """Return a model on our engine if it is one of ours, else as sentence-transformers runs it."""
    try:
        return ours(name, device=device)
    except WeightsError as first:
        try:
            return theirs(name, device=device)
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"mine.{option} {name}: {first_line(error)} ({first})") from error


class _Miner:
    """Our Embedder as the library's miner takes it: vectors of unit length, compared as tensors."""

    def __init__(self, name: str, device: str) -> None:
        embedder = Embedder.load(name, device=device)
        self.device = embedder.device
        self.encode_query, self.encode_document = embedder.encode_query, embedder.encode_document

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Return (n, m)."""
        return torch.as_tensor(first) @ torch.as_tensor(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """Return (n,)."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(1)


def _read(path: Path) -> list[Group]:
    return [
        Group(row["query"], (row["positive"], *row["negative"]), None, row["language"], f"{path}:{number}")
        for number, row in read_rows(path)
    ]
