"""Every route over a real socket gives what the library gives."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_models import TEXTS

from mmbert import Answerer, Classifier, Embedder, FillMask, Reranker, Tagger
from mmbert.serving.server import Server

Ask = Callable[..., Any]


@pytest.fixture
def ask(client: httpx.Client) -> Ask:
    """Post JSON, get JSON."""

    def post(path: str, **body: Any) -> Any:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    return post


@pytest.fixture(scope="module")
def embedder(folders: Path) -> Embedder:
    return Embedder.load(folders / "tuned", precision="fp32")


def close(found: Any, expected: Any, error: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0, atol=error)


def test_embeddings(ask: Ask, embedder: Embedder) -> None:
    found = ask("/v1/embeddings", input=TEXTS, model="tuned")
    assert [item["index"] for item in found["data"]] == list(range(len(TEXTS)))
    assert {item["object"] for item in found["data"]} == {"embedding"}
    close([item["embedding"] for item in found["data"]], embedder(TEXTS))
    tokens = sum(len(embedder.loaded.tokenizer.encode(text)) for text in TEXTS)
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (found["object"], found["model"]) == ("list", "tuned")


def test_embeddings_in_base64(ask: Ask, embedder: Embedder) -> None:
    found = ask("/v1/embeddings", input=TEXTS[0], model="tuned", encoding_format="base64", dimensions=8)
    vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
    close(vector, embedder(TEXTS[0], dimensions=8))


def test_embeddings_by_prompt(ask: Ask, embedder: Embedder) -> None:
    found = ask("/v1/embeddings", input=TEXTS[0], prompt_name="query")
    close(found["data"][0]["embedding"], embedder(TEXTS[0], prompt="query"))


def test_late_chunking(ask: Ask, embedder: Embedder) -> None:
    chunks = ["Free and equal.", "They are.", " In dignity"]
    found = ask("/v1/embeddings", input=chunks, model="tuned", late_chunking=True)
    document = "Free and equal. They are. In dignity"
    spans = [(0, 15), (16, 25), (25, 36)]
    close([item["embedding"] for item in found["data"]], embedder.passages(document, by=[spans]).vectors)
    alone = ask("/v1/embeddings", input=chunks, model="tuned")
    assert not np.allclose(alone["data"][1]["embedding"], found["data"][1]["embedding"], atol=1e-3)


def test_models(client: httpx.Client) -> None:
    found = client.get("/v1/models").json()
    assert [card["id"] for card in found["data"]] == ["tuned", "classes", "ranks", "tags", "masks", "spans"]
    assert client.get("/v1/models/ranks").json() == found["data"][2]
    assert found["data"][0].keys() == {"id", "object", "created", "owned_by"}
    assert client.get("/v1/models/none").status_code == 404


def test_embed(ask: Ask, embedder: Embedder) -> None:
    close(ask("/embed", inputs=TEXTS), embedder(TEXTS))
    close(ask("/embed", inputs="one"), embedder(["one"]))
    close(ask("/embed", inputs="one", normalize=False), embedder(["one"], normalize=False))
    close(
        ask("/embed", inputs="one", prompt_name="document", dimensions=4),
        embedder(["one"], prompt="document", dimensions=4),
    )


def test_embed_truncates_either_end(ask: Ask, embedder: Embedder) -> None:
    ids = embedder.loaded.tokenizer.encode_batch(["free and equal " * 300])[0]
    close(ask("/embed", inputs="free and equal " * 300, truncate=True), embedder(["free and equal " * 300]))
    end = embedder.loaded.tokenizer.decode(ids[-510:])
    close(ask("/embed", inputs="free and equal " * 300, truncate=True, truncation_direction="Left"), embedder([end]))


def test_embed_all(ask: Ask, embedder: Embedder) -> None:
    found = ask("/embed_all", inputs=TEXTS[:3])
    for text, vectors in zip(TEXTS, found, strict=False):
        assert len(vectors) == len(embedder.loaded.tokenizer.encode(text))
        close(vectors[1:-1], embedder.tokens(text).vectors, 5e-5)


def test_passages(ask: Ask, embedder: Embedder) -> None:
    text = "Free and equal. They are. " * 80  # longer than one pass
    for by in ("sentence", "paragraph", "size"):
        found = ask("/passages", inputs=text, by=by)
        expected = embedder.passages(text, by=by)
        assert [(item["start"], item["end"]) for item in found] == expected.spans
        assert [item["text"] for item in found] == expected.texts
        close([item["embedding"] for item in found], expected.vectors)
    assert [len(own) for own in ask("/passages", inputs=["One. Two.", "x"])] == [2, 1]


def test_similarity(ask: Ask, embedder: Embedder) -> None:
    found = ask("/similarity", inputs={"source_sentence": TEXTS[0], "sentences": TEXTS[1:5]})
    close(found, embedder.similarity(embedder(TEXTS[0]), embedder(TEXTS[1:5]))[0])


def test_rerank(ask: Ask, folders: Path) -> None:
    ranked = Reranker.load(folders / "ranks", precision="fp32")("human rights", TEXTS)
    found = ask("/rerank", query="human rights", texts=TEXTS, return_text=True)
    assert [item["index"] for item in found] == [item.index for item in ranked]
    assert [item["text"] for item in found] == [item.text for item in ranked]
    close([item["score"] for item in found], [item.score for item in ranked])
    raw = ask("/rerank", query="human rights", texts=TEXTS, raw_scores=True)
    close(1 / (1 + np.exp([-item["score"] for item in raw])), [item.score for item in ranked])
    assert "text" not in raw[0]


def test_rerank_as_cohere_and_jina(ask: Ask, folders: Path) -> None:
    ranked = Reranker.load(folders / "ranks", precision="fp32")("human rights", TEXTS, top_k=3)
    documents = [{"text": text} if index % 2 else text for index, text in enumerate(TEXTS)]
    found = ask("/v1/rerank", model="ranks", query="human rights", documents=documents, top_n=3, return_documents=True)
    assert [item["index"] for item in found["results"]] == [item.index for item in ranked]
    close([item["relevance_score"] for item in found["results"]], [item.score for item in ranked])
    assert found["results"][0]["document"] == {"text": ranked[0].text}
    assert found["usage"]["total_tokens"] > 0


def test_predict(ask: Ask, folders: Path) -> None:
    classifier = Classifier.load(folders / "classes", precision="fp32")
    inputs: list[list[str]] = [[TEXTS[0]], [TEXTS[1], TEXTS[2]], ["x"]]
    items = [own[0] if len(own) == 1 else tuple(own) for own in inputs]
    for own, expected in zip(ask("/predict", inputs=inputs, model="classes"), classifier(items), strict=True):
        assert own[0]["label"] == expected.label
        assert {item["label"] for item in own} == {"no", "yes", "maybe"}
        close([item["score"] for item in own], sorted(expected.scores.values(), reverse=True))
    one = ask("/predict", inputs=TEXTS[0])
    assert one[0]["label"] == classifier(TEXTS[0]).label
    raw = ask("/predict", inputs=[TEXTS[0]], raw_scores=True)
    close([item["score"] for item in raw], np.sort(classifier.logits(TEXTS[0]))[::-1])
    infinity = ask("/classify", input=[TEXTS[0]], model="classes")
    assert infinity["data"][0] == one
    assert infinity["object"] == "classify"


def test_predict_reads_lists_as_text_embeddings_inference(ask: Ask, folders: Path) -> None:
    """router/src/http/types.rs, PredictInput: strings in a list are one text or one pair, lists in it are a batch."""
    classifier = Classifier.load(folders / "classes", precision="fp32")

    def scores(found: list[dict[str, Any]]) -> list[float]:
        return [item["score"] for item in found]

    one, pair = (sorted(classifier(item).scores.values(), reverse=True) for item in (TEXTS[0], (TEXTS[1], TEXTS[2])))
    assert max(abs(a - b) for a, b in zip(one, pair, strict=True)) > 1e-3
    close(scores(ask("/predict", inputs=[TEXTS[0]])), one)
    close(scores(ask("/predict", inputs=TEXTS[1:3])), pair)
    for inputs, expected in (([[TEXTS[0]], TEXTS[1:3]], [one, pair]), ([[TEXTS[0]]], [one]), ([TEXTS[1:3]], [pair])):
        for found, own in zip(ask("/predict", inputs=inputs), expected, strict=True):
            close(scores(found), own)


def test_tokens(ask: Ask, embedder: Embedder) -> None:
    text = "Free men 人<mask>"
    (found,) = ask("/tokenize", inputs=text, model="tuned")
    assert [token["id"] for token in found] == embedder.loaded.tokenizer.encode(text, specials=True)
    assert (found[0]["text"], found[0]["special"], found[0]["start"]) == ("<bos>", True, None)
    inner = [token for token in found[1:-1] if not token["special"]]
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in inner)
    assert sum(token["bytes"] for token in found) == len("Free men 人".encode())
    (bare,) = ask("/tokenize", inputs=text, add_special_tokens=False)
    assert bare == found[1:-1]
    ids = [token["id"] for token in found]
    assert ask("/decode", ids=ids) == ["Free men 人"]
    assert ask("/decode", ids=[ids], skip_special_tokens=False) == ["<bos>Free men 人<mask><eos>"]


def test_token_classify(ask: Ask, folders: Path) -> None:
    tagger = Tagger.load(folders / "tags", precision="fp32")
    texts = ["Kofi Annan left Accra.", *TEXTS]
    found = ask("/token_classify", inputs=texts)
    for text, own, expected in zip(texts, found, tagger(texts), strict=True):
        assert [(item["label"], item["start"], item["end"]) for item in own] == [
            (entity.label, entity.start, entity.end) for entity in expected
        ]
        assert all(text[item["start"] : item["end"]] == item["text"] for item in own)
    for alone, beside in zip(ask("/token_classify", inputs=texts[0]), found[0], strict=True):
        # the head's product of few rows may round otherwise than that of many
        assert alone == {**beside, "score": pytest.approx(beside["score"], abs=1e-6)}
    simple = ask("/token_classify", inputs=texts[0], strategy="simple")
    assert len(simple) == len(tagger(texts[0], strategy="simple"))


def test_fill_mask(ask: Ask, folders: Path) -> None:
    fill = FillMask.load(folders / "masks", precision="fp32")
    texts = ["All human <mask> are born", "<mask> and <mask>", "free " * 200 + "<mask>"]
    with ThreadPoolExecutor() as pool:  # several wishes in one batch
        asked = [pool.submit(ask, "/fill_mask", inputs=texts, top_k=top) for top in (1, 5, 3)]
        for top, found in zip((1, 5, 3), [future.result() for future in asked], strict=True):
            for own, text in zip(found, texts, strict=True):
                expected = fill(text, top_k=top)
                expected = expected if isinstance(expected[0], list) else [expected]
                assert [[item["id"] for item in mask] for mask in own] == [[f.id for f in mask] for mask in expected]
                assert own[0][0]["text"] == expected[0][0].text
                close([mask[0]["score"] for mask in own], [mask[0].score for mask in expected])


def test_answer(ask: Ask, folders: Path) -> None:
    answerer = Answerer.load(folders / "spans", precision="fp32")
    context = " ".join(TEXTS[:5])
    (found,) = ask("/answer", inputs=[{"question": "Who is free?", "context": context}], top_k=3)
    expected = answerer("Who is free?", context, top_k=3)
    assert [(item["text"], item["start"], item["end"]) for item in found] == [
        (a.text, a.start, a.end) for a in expected
    ]
    close([item["score"] for item in found], [answer.score for answer in expected])


def test_root_by_shape_and_kind(ask: Ask) -> None:
    assert ask("/", inputs=TEXTS[:2]) == ask("/embed", inputs=TEXTS[:2])
    assert ask("/", inputs=TEXTS[0], model="masks") == ask("/embed", inputs=TEXTS[0], model="masks")
    asked = {"source_sentence": "a", "sentences": ["b", "c"]}
    assert ask("/", inputs=asked, parameters={}) == ask("/similarity", inputs=asked)
    assert ask("/", inputs="x", model="classes") == [ask("/predict", inputs="x", model="classes")]
    assert [len(row) for row in ask("/", inputs=[["x"], ["y"]], model="classes", parameters={"top_k": 2})] == [2, 2]
    assert ask("/", inputs=["x", "y"], model="classes") == [ask("/predict", inputs=["x", "y"], model="classes")]
    raw = ask("/", inputs="x", model="classes", parameters={"function_to_apply": "none"})
    assert raw == [ask("/predict", inputs="x", raw_scores=True)]
    assert ask("/", inputs={"text": "x", "text_pair": "y"}, model="classes") == ask("/predict", inputs=[["x", "y"]])
    for place in ({"normalize": False}, {"parameters": {"normalize": False}}):
        assert ask("/", inputs="x", **place) == ask("/embed", inputs="x", normalize=False)
    entities = ask("/", inputs="Kofi Annan", model="tags")
    assert entities[0].keys() == {"entity_group", "score", "word", "start", "end"}
    fills = ask("/", inputs="a <mask>", model="masks", parameters={"top_k": 2})
    assert [fill.keys() for fill in fills] == [{"score", "token", "token_str", "sequence"}] * 2
    answer = ask("/", inputs={"question": "Who?", "context": "Kofi left."}, model="spans")
    assert answer.keys() == {"answer", "score", "start", "end"}
    pair = {"query": "q", "texts": ["a", "b"]}
    assert ask("/", inputs=pair, model="ranks") == ask("/rerank", **pair)


def test_info_and_headers(client: httpx.Client) -> None:
    found = client.get("/info").json()
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (found["max_input_length"], found["model_dtype"], found["max_batch_tokens"]) == (512, "float32", 256)
    assert [next(iter(model["model_type"])) for model in found["models"]] == [
        "embedding", "classifier", "reranker", "token_classifier", "embedding", "question_answering"
    ]  # fmt: skip
    assert client.get("/info", params={"model": "classes"}).json()["model_type"]["classifier"]["label2id"]["yes"] == "1"
    headers = client.post("/embed", json={"inputs": ["ab", "c"]}).headers
    assert (headers["x-compute-type"], headers["x-compute-characters"]) == ("cpu", "3")
    for name in ("compute-time", "compute-tokens", "total-time", "tokenization-time", "queue-time", "inference-time"):
        assert headers[f"x-{name}"].isdecimal()


def test_the_page_and_its_files_are_asked_about_again(client: httpx.Client) -> None:
    page = client.get("/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    script = client.get("/web/page.js")
    assert script.status_code == 200
    assert {page.headers["cache-control"], script.headers["cache-control"]} == {"no-cache"}
    again = client.get("/web/page.js", headers={"If-None-Match": script.headers["etag"]})
    assert again.status_code == 304


def test_many_callers_at_once(server: Server, embedder: Embedder) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:

        def one(number: int) -> None:
            texts = [TEXTS[(number + step) % len(TEXTS)] for step in range(1 + number % 5)]
            close(client.post("/embed", json={"inputs": texts}).json(), embedder(texts))

        list(pool.map(one, range(32)))
