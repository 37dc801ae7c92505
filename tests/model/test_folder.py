"""Files of a model folder beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbert.errors import WeightsError
from mmbert.model.folder import read_config, read_modules, read_object


def test_modules_are_classes_with_folders(tmp_path: Path) -> None:
    assert read_modules(tmp_path) == []
    listed = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_P"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    assert read_modules(tmp_path) == [("sentence_transformers.models.Transformer", ""), ("a.Pooling", "1_P")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", None),
        ("[1]", "not a list of modules with type and path"),
        ('[{"type": "a.B"}]', "not a list of modules with type and path"),
        ('[{"type": "a.B", "path": "../other"}]', "path of a.B leads out of the folder"),
    ],
)
def test_other_listings_are_refused(tmp_path: Path, content: str, said: str | None) -> None:
    (tmp_path / "modules.json").write_text(content)
    if said is None:
        assert read_modules(tmp_path) == []
        return
    with pytest.raises(WeightsError, match=said):
        read_modules(tmp_path)


def test_objects(tmp_path: Path) -> None:
    assert read_object(tmp_path / "config.json") == {}
    with pytest.raises(WeightsError, match=r"no config\.json in .*: not a model folder"):
        read_config(tmp_path)
    for content, said in (("[]", "not a JSON object"), ("{", "is not valid JSON")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(WeightsError, match=said):
            read_config(tmp_path)
