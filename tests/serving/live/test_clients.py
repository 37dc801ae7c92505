"""The clients that teams have already, over a real socket: what each of them gets is what the library computes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest

import mmbert

TEXTS = ["All human beings are born free.", "Watu wote wamezaliwa huru.", "人人生而自由"]


@pytest.fixture(scope="module")
def vectors(models: dict[str, Any]) -> np.ndarray:
    """What the library says of TEXTS."""
    found: np.ndarray = mmbert.Embedder.load(models["pretrained"], precision="fp32")(TEXTS)
    return found


def near(found: Any, wanted: np.ndarray) -> bool:
    return bool(np.allclose(np.asarray(found, np.float32), wanted, atol=2e-6))


def test_openai(served: str, vectors: np.ndarray) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{served}v1", api_key="any", max_retries=0) as client:
        assert "pretrained" in [model.id for model in client.models.list()]
        packed = client.embeddings.create(input=TEXTS, model="pretrained")  # base64, as the client asks by itself
        plain = client.embeddings.create(input=TEXTS, model="pretrained", encoding_format="float")
        short = client.embeddings.create(input=TEXTS[0], model="pretrained", dimensions=8)
        assert near([one.embedding for one in packed.data], vectors)
        assert near([one.embedding for one in plain.data], vectors)
        assert [one.index for one in packed.data] == [0, 1, 2]
        assert packed.usage.prompt_tokens == packed.usage.total_tokens > 10
        assert len(short.data[0].embedding) == 8
        with pytest.raises(openai.NotFoundError, match="pretrained"):  # what there is
            client.embeddings.create(input=TEXTS, model="gpt")
        with pytest.raises(openai.UnprocessableEntityError, match="check_embedding_ctx_length"):
            client.embeddings.create(input=[[101, 2023, 102]], model="pretrained")


def test_openai_in_parallel(served: str, vectors: np.ndarray) -> None:
    openai = pytest.importorskip("openai")
    import asyncio

    async def many() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served}v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(client.embeddings.create(input=TEXTS, model="pretrained") for _ in range(16)))

    for found in asyncio.run(many()):
        assert near([one.embedding for one in found.data], vectors)


def test_langchain(served: str, vectors: np.ndarray) -> None:
    langchain = pytest.importorskip("langchain_openai")
    embed = langchain.OpenAIEmbeddings(
        base_url=f"{served}v1", api_key="any", model="pretrained", check_embedding_ctx_length=False
    )
    assert near(embed.embed_documents(TEXTS), vectors)
    assert near(embed.embed_query(TEXTS[1]), vectors[1])


def test_what_langchain_sends_without_that_is_refused_with_the_cure(served: str) -> None:
    """By default it posts the ids of OpenAI's tokenizer, which it would have to download here."""
    for ids in ([[791, 3823], [100]], [791, 3823]):
        body = json.dumps({"input": ids, "model": "pretrained", "encoding_format": "base64"}).encode()
        request = urllib.request.Request(f"{served}v1/embeddings", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as answer:
            assert answer.code in (400, 422)
            assert "check_embedding_ctx_length=False" in json.loads(answer.read())["error"]["message"]


def test_llama_index(served: str, vectors: np.ndarray) -> None:
    llama = pytest.importorskip("llama_index.embeddings.openai")
    embed = llama.OpenAIEmbedding(model_name="pretrained", api_base=f"{served}v1", api_key="any", max_retries=0)
    assert near(embed.get_text_embedding_batch(TEXTS), vectors)
    assert near(embed.get_query_embedding(TEXTS[2]), vectors[2])


def test_haystack(served: str, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    embedders = pytest.importorskip("haystack.components.embedders")
    from haystack import Document
    from haystack.utils import Secret

    options = {"api_key": Secret.from_token("any"), "model": "pretrained", "api_base_url": f"{served}v1"}
    found = embedders.OpenAITextEmbedder(**options).run(TEXTS[0])
    assert near(found["embedding"], vectors[0])
    documents = embedders.OpenAIDocumentEmbedder(**options, progress_bar=False).run(
        [Document(content=t) for t in TEXTS]
    )
    assert near([one.embedding for one in documents["documents"]], vectors)


def test_hugging_face_features_and_similarity(served: str, vectors: np.ndarray) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(served.rstrip("/"))
    assert near(client.feature_extraction(TEXTS), vectors)
    assert near(client.feature_extraction(TEXTS[0], normalize=True, truncate=True), vectors[:1])
    scores = client.sentence_similarity(TEXTS[0], TEXTS[1:])
    assert near(scores, vectors[1:] @ vectors[0])


def test_hugging_face_answers_of_heads(served_head: Any, models: dict[str, Any]) -> None:
    from huggingface_hub import InferenceClient

    classes = InferenceClient(served_head("sentiment").rstrip("/")).text_classification(TEXTS[0])
    wanted = mmbert.Classifier.load(models["sentiment"], precision="fp32")(TEXTS[0])
    assert {one.label: round(one.score, 4) for one in classes} == {k: round(v, 4) for k, v in wanted.scores.items()}
    assert classes[0].label == wanted.label
    tags = InferenceClient(served_head("names").rstrip("/")).token_classification(TEXTS[0])
    entities = mmbert.Tagger.load(models["names"], precision="fp32")(TEXTS[0])
    assert [(one.start, one.end) for one in tags] == [(one.start, one.end) for one in entities]
    guesses = InferenceClient(served_head("pretrained").rstrip("/")).fill_mask("All <mask> beings", top_k=3)
    assert len(guesses) == 3
    assert guesses[0].score >= guesses[1].score
