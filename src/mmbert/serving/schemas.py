"""Schemas of requests: types and limits, checked before anything is computed, and described by the OpenAPI document.

Schemas that others defined ignore unknown fields, as their servers do; our own refuse them. Types are strict, as in
text-embeddings-inference: ``true`` is no number, ``"3"`` and ``3.0`` are no integers, ``1`` is no boolean.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmbert.inference.entities import Strategy

IDS_FIX = (
    "the input holds token ids of another tokenizer, which mean nothing here: send strings. In LangChain: "
    "OpenAIEmbeddings(..., check_embedding_ctx_length=False)"
)


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is refused at its first fault, without a look at the rest."""


def _refuse_ids(value: Any) -> Any:
    """Refuse token ids, which OpenAI's own models take: they are of another vocabulary."""
    first = value[0] if isinstance(value, list) and value else value
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(IDS_FIX)
    return value


Texts = Annotated[str | Many[str], BeforeValidator(_refuse_ids)]
"""One text or many."""


def _refuse_three(value: Any) -> Any:
    """Refuse three strings or more: two are a pair."""
    if isinstance(value, list) and len(value) > 2 and all(isinstance(text, str) for text in value):
        raise ValueError(
            f"{len(value)} strings: expected a text, a pair of texts [a, b], or a list of both, [[a], [b, c], ...]"
        )
    return value


TextOrPair = Annotated[list[str], Field(min_length=1, max_length=2, fail_fast=True)]
"""``[text]`` or ``[text, text]``."""

ModelName = Annotated[str | None, Field(description="A served name; default: the first model that can answer.")]
Direction = Annotated[
    Literal["Left", "Right", "left", "right"], Field(description="The side at which a text that is too long is cut.")
]
Truncate = Annotated[bool | None, Field(description="Cut texts that are too long; default: as the server.")]
PromptName = Annotated[
    str | None, Field(description="The name of a prompt of the model; default: the model's default.")
]
Dimensions = Annotated[
    int | None, Field(ge=1, le=1_000_000, description="Keep the first so many dimensions of a vector (Matryoshka).")
]
Count = Annotated[int, Field(ge=1, le=100)]


class Foreign(BaseModel):
    """A schema that others defined."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, strict=True)


class ForeignRequest(Foreign):
    model: ModelName = None
    truncate: Truncate = None


class DirectedRequest(ForeignRequest):
    truncation_direction: Direction | None = None


class Own(BaseModel):
    """A schema of mmbert, for one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: ModelName = None


class Embeddings(ForeignRequest):
    """OpenAI's ``/v1/embeddings``, with Jina's ``late_chunking``."""

    input: Texts
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Dimensions = None
    user: str | None = None
    prompt_name: PromptName = None
    late_chunking: Annotated[
        bool | None, Field(description="The inputs are chunks of one document, which is read whole.")
    ] = None


class EmbedAll(DirectedRequest):
    """text-embeddings-inference's ``/embed_all``."""

    inputs: Texts
    prompt_name: PromptName = None


class Embed(EmbedAll):
    """text-embeddings-inference's ``/embed``."""

    normalize: bool | None = True
    dimensions: Dimensions = None


class Rerank(DirectedRequest):
    """text-embeddings-inference's ``/rerank``."""

    query: str
    texts: Many[str]
    raw_scores: bool | None = False
    return_text: bool | None = False


class Predict(DirectedRequest):
    """text-embeddings-inference's ``/predict``: a text, or ``[text]``; a pair ``[text, text]``; or a list of both."""

    inputs: Annotated[str | TextOrPair | Many[TextOrPair], BeforeValidator(_refuse_three)]
    raw_scores: bool | None = False


class Sentences(Foreign):
    source_sentence: str
    sentences: Many[str]


class SimilarityParameters(Foreign):  # without the model's name, which is beside them
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    prompt_name: PromptName = None


class Similarity(Foreign):
    """text-embeddings-inference's ``/similarity``."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None
    model: ModelName = None


class Tokenize(Foreign):
    """text-embeddings-inference's ``/tokenize``."""

    inputs: str | Many[str]
    add_special_tokens: bool | None = True
    prompt_name: PromptName = None
    model: ModelName = None


Ids = Many[Annotated[int, Field(ge=0, lt=2**31)]]


class Decode(Foreign):
    """text-embeddings-inference's ``/decode``."""

    ids: Ids | Many[Ids]
    skip_special_tokens: bool | None = True
    model: ModelName = None


class Document(Foreign):
    text: str


class RerankDocuments(ForeignRequest):
    """``/v1/rerank`` of Cohere and Jina."""

    query: str
    documents: Many[str | Document]
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool | None = False
    raw_scores: bool | None = False


class Classify(ForeignRequest):
    """infinity's ``/classify``."""

    input: str | Many[str]
    raw_scores: bool | None = False


class TokenClassify(Own):
    """Entities of texts."""

    inputs: str | Many[str]
    strategy: Annotated[Strategy, Field(description="How a word of several tokens gets its label.")] = "first"


class FillMaskRequest(Own):
    """Tokens for each ``<mask>``."""

    inputs: str | Many[str]
    top_k: Count = 5


class Question(BaseModel):
    model_config = Own.model_config

    question: str
    context: str


class AnswerRequest(Own):
    """Answers to questions as spans of texts."""

    inputs: Question | Many[Question]
    top_k: Count = 1


class SearchRequest(Own):
    """The nearest texts of an index."""

    inputs: str | Many[str]
    index: Annotated[str | None, Field(description="The name of an index; default: the first.")] = None
    top_k: Count = 10
    where: Annotated[dict[str, Any] | None, Field(description="A filter on metadata, as of SearchIndex.")] = None


class PassagesRequest(Own):
    """Passages of long texts with their vectors, by late chunking."""

    inputs: str | Many[str]
    by: Literal["sentence", "paragraph", "size"] = "sentence"
    size: Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens of a passage, for by=size.")] = None
    normalize: bool = True
    prompt_name: PromptName = None
    dimensions: Dimensions = None


class RootParameters(SimilarityParameters):
    """Parameters that InferenceClient sends beside ``inputs``, as far as they change an answer here."""

    normalize: bool | None = None
    function_to_apply: Literal["none", "softmax", "sigmoid"] | None = None
    top_k: Count | None = None
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None


class Root(DirectedRequest):
    """What huggingface_hub's InferenceClient posts to ``/``; the model decides what ``inputs`` may be."""

    inputs: Any
    parameters: RootParameters | None = None
    normalize: bool | None = None
    prompt_name: PromptName = None
    dimensions: Dimensions = None
