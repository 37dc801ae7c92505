"""Search indexes of a server: a route finds what the index finds, and what does not fit is refused when it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_models import TEXTS, serving

from mmbert import Embedder, SearchIndex
from mmbert.errors import ConfigError, DataError
from mmbert.serving.server import Server

QUERIES = [TEXTS[0], "free and equal"]


@pytest.fixture(scope="module")
def indexes(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lines: all texts, with prompts; short: some, in 8 dimensions; empty: none."""
    root = tmp_path_factory.mktemp("indexes")
    records = [
        {"id": n, "text": text, "metadata": {"language": "eng_Latn" if n % 2 else "swh_Latn"}}
        for n, text in enumerate(TEXTS)
    ]
    options: dict[str, dict[str, Any]] = {"lines": {}, "short": {"dimensions": 8, "query_prompt": ""}, "empty": {}}
    for name, given in options.items():
        with SearchIndex.create(root / name, folders / "tuned", precision="fp32", **given) as index:
            index.add({"lines": records, "short": records[:3], "empty": []}[name])
    return root


@pytest.fixture(scope="module")
def searched(folders: Path, indexes: Path) -> Iterator[httpx.Client]:
    places = [indexes / name for name in ("lines", "short", "empty")]
    with (
        serving(folders / "classes", folders / "tuned", indexes=places) as running,
        httpx.Client(base_url=running.url, timeout=60) as made,
    ):
        yield made


def found(client: httpx.Client, **body: Any) -> Any:
    answer = client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


SWAHILI = {"language": "swh_Latn"}


@pytest.mark.parametrize(
    ("name", "where"), [("lines", None), ("lines", SWAHILI), ("short", None), ("short", SWAHILI), ("empty", None)]
)
def test_a_route_finds_what_the_index_finds(
    searched: httpx.Client, indexes: Path, folders: Path, name: str, where: Any
) -> None:
    index = SearchIndex.load(indexes / name, model=Embedder.load(folders / "tuned", precision="fp32"))
    expected = [[_near(asdict(hit)) for hit in hits] for hits in index(QUERIES, top_k=4, where=where)]
    assert found(searched, inputs=QUERIES, index=name, top_k=4, where=where) == expected
    assert found(searched, inputs=QUERIES[0], index=name, top_k=4, where=where) == expected[0]
    if name == "lines" and where is None:
        assert len(expected[0]) == 4
        assert found(searched, inputs=QUERIES, top_k=4) == expected, "without a name the first index is searched"
        assert found(searched, inputs=QUERIES, top_k=4, model="tuned") == expected


def _near(hit: dict[str, Any]) -> dict[str, Any]:
    return {**hit, "score": pytest.approx(hit["score"], abs=1e-5)}


def test_info_names_the_indexes_of_each_model(searched: httpx.Client) -> None:
    models = searched.get("/info").json()["models"]
    assert [model["indexes"] for model in models] == [
        [],
        [
            {"name": "lines", "records": len(TEXTS)},
            {"name": "short", "records": 3},
            {"name": "empty", "records": 0},
        ],
    ]


def test_records_that_are_added_later_are_found(folders: Path, indexes: Path, tmp_path: Path) -> None:
    model = Embedder.load(folders / "tuned", precision="fp32")
    with SearchIndex.create(tmp_path / "more", model) as index:
        index.add([{"id": "a", "text": TEXTS[0]}])
        with (
            serving(folders / "tuned", indexes=[tmp_path / "more"]) as running,
            httpx.Client(base_url=running.url, timeout=60) as client,
        ):
            assert [hit["id"] for hit in found(client, inputs=TEXTS[1])] == ["a"]
            index.add([{"id": "b", "text": TEXTS[1]}])
            assert [hit["id"] for hit in found(client, inputs=TEXTS[1])] == ["b", "a"]
            assert client.get("/info").json()["indexes"] == [{"name": "more", "records": 2}]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            {"inputs": "a", "index": "none"},
            404,
            "no index 'none' is served here: lines of tuned, short of tuned, empty",
        ),
        ({"inputs": "a", "model": "classes"}, 404, "no of model 'classes' is served here"),
        ({"inputs": "a", "where": {"year": 1948}}, 422, "year"),
        ({"inputs": "a", "top_k": 0}, 422, "top_k"),
        ({"inputs": []}, 400, "no text"),
        ({"inputs": ["a", " "]}, 422, "query 1 is empty"),
        ({"inputs": "a word " * 400}, 413, "the model reads"),
    ],
)
def test_refusals(searched: httpx.Client, body: dict[str, Any], status: int, said: str) -> None:
    answer = searched.post("/search", json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_a_server_without_an_index_says_so(client: httpx.Client) -> None:
    answer = client.post("/search", json={"inputs": "a"})
    assert (answer.status_code, answer.json()["error"][:28]) == (404, "no index is served here: sta")
    assert client.get("/info").json()["indexes"] == []


def test_what_does_not_fit_is_refused_at_the_start(folders: Path, indexes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index in"):
        Server([folders / "tuned"], port=0, indexes=[tmp_path])
    with pytest.raises(ConfigError, match="two indexes have the same name"):
        Server([folders / "tuned"], port=0, indexes=[indexes / "lines", indexes / "short" / ".." / "lines"])
    with pytest.raises(ConfigError, match="was made with"), serving(folders / "masks", indexes=[indexes / "lines"]):
        pass
    with pytest.raises(ConfigError, match="no model here gives vectors"):  # noqa: SIM117
        with serving(folders / "classes", indexes=[indexes / "lines"]):
            pass
    for rows in (indexes / "short").rglob("rows.bin"):
        rows.write_bytes(rows.read_bytes()[:-8])
        with pytest.raises(DataError), serving(folders / "tuned", indexes=[indexes / "short"]):
            pass
