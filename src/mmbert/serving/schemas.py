"""What requests look like: types and limits, checked before anything is computed, and the source of the OpenAPI page.

Shapes that others defined ignore fields they do not know, as their servers do; our own refuse them. Types are strict,
as in text-embeddings-inference: ``true`` is no number, ``"3"`` and ``3.0`` are no whole numbers, ``1`` is no ``true``.
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
"""A list that is refused at its first fault, however many follow."""


def _refuse_ids(value: Any) -> Any:
    """Token ids, which OpenAI's own models take, are numbers of another vocabulary."""
    first = value[0] if isinstance(value, list) and value else value
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(IDS_FIX)
    return value


Texts = Annotated[str | Many[str], BeforeValidator(_refuse_ids)]
"""One text or many."""


def _refuse_three(value: Any) -> Any:
    """Two strings are a pair, so three are nothing."""
    if isinstance(value, list) and len(value) > 2 and all(isinstance(text, str) for text in value):
        raise ValueError(
            f"{len(value)} strings: expected a text, a pair of texts [a, b], or a list of both, [[a], [b, c], ...]"
        )
    return value


TextOrPair = Annotated[list[str], Field(min_length=1, max_length=2, fail_fast=True)]
"""``[text]`` or ``[text, text]``."""

ModelName = Annotated[str | None, Field(description="A served name; default: the first model that can do this.")]
Direction = Annotated[
    Literal["Left", "Right", "left", "right"], Field(description="From where a text that is too long is cut.")
]
Truncate = Annotated[
    bool | None, Field(description="Leave out the rest of a text that is too long; default: as the server was started.")
]
PromptName = Annotated[str | None, Field(description="A name of the model's prompts; default: the model's default.")]
Dimensions = Annotated[
    int | None, Field(ge=1, le=1_000_000, description="Keep the first so many dimensions of a vector (Matryoshka).")
]
Count = Annotated[int, Field(ge=1, le=100)]


class Foreign(BaseModel):
    """A shape that others defined."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, strict=True)


class Own(BaseModel):
    """A shape of ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Embeddings(Foreign):
    """OpenAI's ``/v1/embeddings``, with Jina's ``late_chunking``."""

    input: Texts
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Dimensions = None
    user: str | None = None
    prompt_name: PromptName = None
    truncate: Truncate = None
    late_chunking: Annotated[
        bool | None, Field(description="The inputs are chunks of one document, which is read as a whole.")
    ] = None


class Embed(Foreign):
    """text-embeddings-inference's ``/embed``."""

    inputs: Texts
    normalize: bool | None = True
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    prompt_name: PromptName = None
    dimensions: Dimensions = None
    model: ModelName = None


class EmbedAll(Foreign):
    """text-embeddings-inference's ``/embed_all``: vectors of all tokens, and ``/embed_sparse``."""

    inputs: Texts
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    prompt_name: PromptName = None
    model: ModelName = None


class Rerank(Foreign):
    """text-embeddings-inference's ``/rerank``."""

    query: str
    texts: Many[str]
    raw_scores: bool | None = False
    return_text: bool | None = False
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    model: ModelName = None


class Predict(Foreign):
    """text-embeddings-inference's ``/predict``: a text, or ``[text]``; a pair ``[text, text]``; or a list of both."""

    inputs: Annotated[str | TextOrPair | Many[TextOrPair], BeforeValidator(_refuse_three)]
    raw_scores: bool | None = False
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    model: ModelName = None


class Sentences(Foreign):
    source_sentence: str
    sentences: Many[str]


class SimilarityParameters(Foreign):
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


class RerankDocuments(Foreign):
    """``/v1/rerank`` as Cohere and Jina have it."""

    query: str
    documents: Many[str | Document]
    model: ModelName = None
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool | None = False
    raw_scores: bool | None = False
    truncate: Truncate = None


class Classify(Foreign):
    """infinity's ``/classify``."""

    input: str | Many[str]
    model: ModelName = None
    raw_scores: bool | None = False
    truncate: Truncate = None


class TokenClassify(Own):
    """Entities of texts."""

    inputs: str | Many[str]
    strategy: Annotated[Strategy, Field(description="What a word of several tokens is.")] = "first"
    model: ModelName = None


class FillMaskRequest(Own):
    """What stands behind each ``<mask>``."""

    inputs: str | Many[str]
    top_k: Count = 5
    model: ModelName = None


class Question(Own):
    question: str
    context: str


class AnswerRequest(Own):
    """Answers to questions as spans of texts."""

    inputs: Question | Many[Question]
    top_k: Count = 1
    model: ModelName = None


class PassagesRequest(Own):
    """Passages of long texts with their vectors, by late chunking."""

    inputs: str | Many[str]
    by: Literal["sentence", "paragraph", "size"] = "sentence"
    size: Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens of a passage, for by=size.")] = None
    normalize: bool = True
    prompt_name: PromptName = None
    dimensions: Dimensions = None
    model: ModelName = None


class RootParameters(Foreign):
    """What InferenceClient sends beside ``inputs``, as far as it changes an answer here."""

    truncate: Truncate = None
    truncation_direction: Direction | None = None
    prompt_name: PromptName = None
    normalize: bool | None = None
    function_to_apply: Literal["none", "softmax", "sigmoid"] | None = None
    top_k: Count | None = None
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None


class Root(Foreign):
    """What huggingface_hub's InferenceClient posts to ``/``, by the model's kind and the shape of ``inputs``."""

    inputs: Any
    parameters: RootParameters | None = None
    normalize: bool | None = None
    truncate: Truncate = None
    truncation_direction: Direction | None = None
    prompt_name: PromptName = None
    dimensions: Dimensions = None
    model: ModelName = None
