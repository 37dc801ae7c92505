"""``MODEL@layers=N,dimensions=N``: how it is read, and servers of several such models of one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_models import TEXTS, serving

from mmbert.errors import ConfigError
from mmbert.inference.embedder import Embedder
from mmbert.serving.model_spec import ModelSpec, parse_spec
from mmbert.serving.models import served_names
from mmbert.serving.server import Server


@pytest.mark.parametrize(("given", "found", "name"), [
    ("org/model", ModelSpec("org/model"), "org/model"),
    ("org/model@layers=6,dimensions=256", ModelSpec("org/model", 6, 256), "org/model@layers=6,dimensions=256"),
    ("org/model@dimensions=64", ModelSpec("org/model", None, 64), "org/model@dimensions=64"),
    ("a@b/model@layers=1", ModelSpec("a@b/model", 1), "a@b/model@layers=1"),
])  # fmt: skip
def test_what_is_served_of_a_model(given: str, found: ModelSpec, name: str) -> None:
    assert parse_spec(given) == found
    assert found.served_name == name


@pytest.mark.parametrize("options", ["layer=6", "layers", "layers=", "layers=0", "layers=-1", "layers=6,layers=3",
                                     "layers=6;dimensions=2", "layers=6,", "main"])  # fmt: skip
def test_other_options_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match=f"model 'org/model@{options}': .* is not layers=N or dimensions=N"):
        parse_spec(f"org/model@{options}")
    with pytest.raises(ConfigError, match="no folder or hub name before the @"):
        parse_spec("@layers=6")


def test_a_folder_with_an_at_in_its_name_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "run@layers=3").mkdir()
    assert parse_spec(tmp_path / "run@layers=3").layers is None
    assert parse_spec(f"{tmp_path / 'run@layers=3'}@layers=2").served_name == "run@layers=3@layers=2"


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[Server]:
    place = folders / "tuned"
    with serving(place, f"{place}@layers=2", f"{place}@layers=1,dimensions=8") as running:
        yield running


def test_several_of_one_folder_are_served_side_by_side(server: Server, folders: Path) -> None:
    shapes = {"tuned": (None, 32), "tuned@layers=2": (2, 32), "tuned@layers=1,dimensions=8": (1, 8)}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert {model["id"] for model in client.get("/v1/models").json()["data"]} == set(shapes)
        for name, (layers, width) in shapes.items():
            own = Embedder.load(folders / "tuned", num_layers=layers, precision="fp32")
            for asked in (None, 4, 16):  # more than the default too: the model has 32
                body = {"model": name, "input": TEXTS[:3], **({} if asked is None else {"dimensions": asked})}
                found = client.post("/v1/embeddings", json=body).raise_for_status().json()["data"]
                expected = own(TEXTS[:3], dimensions=asked or width)
                np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-5)
        refused = client.post("/v1/embeddings", json={"model": name, "input": "a", "dimensions": 33})
        assert refused.status_code == 422
        assert "dimensions is 33" in refused.text


@pytest.mark.parametrize(("model", "options", "named"), [
    ("tuned@layers=5", {}, r"num_layers \(--layers\) is 5: it must be a whole number from 1 to 4"),
    ("tuned@dimensions=33", {}, "dimensions is 33"),
    ("classes@dimensions=8", {}, "has the head of a task and gives no vectors"),
    ("classes@layers=1", {"adapters": {"intent": "there"}}, "adapters are trained for all layers"),
])  # fmt: skip
def test_what_a_model_has_not_is_refused_when_the_server_starts(
    folders: Path, model: str, options: dict[str, dict[str, str]], named: str
) -> None:
    server = Server([str(folders / model)], port=0, precision="fp32", quiet=True, **options)
    server.start()
    try:
        with pytest.raises(ConfigError, match=named):
            server.load()
    finally:
        server.stop()


def test_two_of_one_name_need_names(folders: Path) -> None:
    twice = [parse_spec(f"{folders / 'tuned'}@layers=1")] * 2
    with pytest.raises(ConfigError, match="two models are called 'tuned@layers=1'"):
        served_names(twice)
    assert served_names(twice, ["a", "b"]) == ["a", "b"]
