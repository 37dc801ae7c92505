"""The options of ``distil``: a student whose vectors are like those of a teacher, any sentence encoder.

Papers are named where a loss or a trick is theirs; docs/results/distil has a run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mmbert.finetuning.recipe_sentence import Layers
from mmbert.recipe_file import Spec
from mmbert.recipe_text import Share


class Student(Spec):
    """A new student, when it is not the model of ``model:`` as it is.

    ``{num_layers: 6, hidden_size: 384}`` is a fresh encoder with the tokenizer of ``model`` and its token embeddings
    (reduced by PCA where it is wider). ``{keep: 6}`` is ``model`` with 6 of its layers, at even distances.
    """

    keep: int | None = Field(None, ge=1)
    """Number of layers to take over from ``model``, an mmBERT: the first, the last and those between at even distances
    (DistilBERT, 1910.01108, takes every second). null: a fresh encoder."""
    num_layers: int = Field(6, ge=1)
    """Fresh: number of layers."""
    hidden_size: int = Field(384, ge=8)
    """Fresh: width of the layers."""
    intermediate_size: int | None = Field(None, ge=8)
    """Fresh: width inside the MLP; null: three times the hidden size, as in mmBERT small."""
    num_heads: int | None = Field(None, ge=1)
    """Fresh: attention heads; null: one for every 64 dimensions, as in mmBERT."""
    max_context: int = Field(8192, ge=16)
    """Fresh: longest text in tokens. RoPE has no table of positions, so that it may be longer than the teacher's."""

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("keep") is not None:
            for name, value in values.items():  # a saved recipe states the defaults
                if name != "keep" and name in cls.model_fields and value != cls.model_fields[name].default:
                    raise ValueError(f"keep takes layers of the model, whose shape stays: remove {name}")
        return values


class Distil(Spec):
    """``distil``: vectors like a teacher's, learned from texts alone."""

    teacher: str = ""
    """Folder or hub name that sentence-transformers loads, of any architecture; with ``endpoint`` the model's name
    there."""
    teacher_revision: str | None = None
    """Commit of ``teacher``, if that is a hub name."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server that gives the teacher's vectors: ``http://127.0.0.1:8080/v1``. Its key
    is read from the variable OPENAI_API_KEY."""
    vectors: str | None = None
    """Vectors that were computed elsewhere, instead of a teacher: a Parquet or JSON-lines file with columns ``text``
    and ``vector``, and perhaps ``language``; or a ``.npy`` array (n, d), whose texts are the rows of the one file in
    ``text``: a row's ``id`` is its row in the array (from 0), without ``id`` rows and array have one order. All these
    texts are learned from."""
    prompt: str | None = None
    """Name of the teacher's prompt, or the prompt itself, before every text. null: the teacher's default prompt or, if
    it has none, the one that it calls ``query``. The student needs none."""
    batch: int = Field(32, ge=1)
    """Texts that the teacher encodes at once."""

    text: tuple[str, ...] = ()
    """Files, folders or globs of text (JSON lines, Parquet or plain text; the file's name tells the language), or a run
    with prepared text."""
    languages: tuple[str, ...] = ()
    """Only these languages of it; empty: all."""
    language_field: str | None = None
    """The field of each text that names its language; null: the file's name does."""
    texts: int = Field(200_000, ge=8)
    """Number of texts to learn from, fewer if there are not so many. Whole sentences; some are several sentences."""
    vocabulary: Share = 0.2
    """So many more texts, as a part of ``texts``, that are lists of words drawn from the student's vocabulary: words
    that no text says are learned too. Not with ``vectors``, which come with their texts."""
    temperature: Share = 0.5
    """Share of a language = its number of texts ** temperature, as in the phases of pretraining (mmBERT section 3)."""
    shortest: int = Field(16, ge=1)
    """Characters of the shortest text."""
    longest: int = Field(600, ge=16)
    """Characters of the longest. Lengths are drawn evenly on a logarithmic scale, so that most texts are sentences."""
    exclude: tuple[str, ...] = ()
    """Files or globs with evaluation data: sentences that occur in any of their fields are not learned from."""
    heldout: int = Field(1000, ge=0)
    """Number of texts that are not learned from, on which the student is compared with the teacher."""

    loss: Literal["cosine", "mse"] = "cosine"
    """What a vector is compared with the teacher's by. mse: Reimers and Gurevych, 2004.09813."""
    center: bool = True
    """Subtract the mean of the teacher's vectors first. Encoders leave all texts in a narrow cone (1909.00512), where
    cosines of unrelated texts are far above 0; the mean carries no meaning, and a student need not learn it."""
    relational: float = Field(0.0, ge=0)
    """Weight of a loss on the similarities within a batch: the KL divergence of their softmax from the teacher's
    (1904.05068 compares them likewise)."""
    relational_temperature: float = Field(0.05, gt=0)
    """Temperature of both softmaxes."""
    tokens: float | None = Field(None, ge=0)
    """Weight of a loss on the vectors of single tokens, whose mean is the vector of a text: many targets a text in
    place of one (TinyBERT, 1909.10351, learns the states of tokens). For a teacher that takes the mean and a student
    with its tokenizer. The teacher's vectors of all tokens are kept on disk meanwhile: 2 bytes a token and dimension.
    null: 1 where it is possible and the student is a fresh one; 0: without."""
    matryoshka: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Widths at which truncated vectors are trained too (2205.13147). The teacher's vectors are then turned onto their
    principal axes, which changes no similarity and puts most of it into the first dimensions."""
    layers: Layers = ()
    """Numbers of layers that are trained too, so that ``num_layers`` of them may be loaded (2402.14776)."""
    documents: int = Field(1, ge=1)
    """Above 1: every fourth batch is read as documents of so many of its texts, and the mean of each text's tokens in
    its document learns the text's vector. The student is then better at late chunking (2409.04701), and reads longer
    texts than the teacher."""
    dimensions: int | None = Field(None, ge=1)
    """Width of the student's vectors; null: the teacher's, or the student's hidden size if that is less. A teacher with
    more is reduced to its principal axes."""
    projection: bool | None = None
    """A linear layer after pooling, from the hidden size to the width of the vectors. null: only where these differ."""
    train_embeddings: bool | None = None
    """Whether the token embeddings are trained. null: not those that a fresh student has from the teacher, which hold
    most of its weights."""

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.endpoint is not None and self.vectors is not None:
            raise ValueError("distil: endpoint and vectors are two sources of vectors: give one")
        if self.vectors is not None:
            array = self.vectors.endswith(".npy")
            if self.exclude or (self.text and not array):
                raise ValueError("distil: vectors come with their texts: remove text and exclude")
            if array and len(self.text) != 1:
                raise ValueError("distil: vectors is an array: name the one file of its texts in text")
        if self.tokens and (self.endpoint is not None or self.vectors is not None):
            raise ValueError("distil: tokens needs a teacher that runs here: remove endpoint and vectors, or tokens")
        if self.longest < self.shortest:
            raise ValueError(f"distil: longest {self.longest} is less than shortest {self.shortest}")
        return self
