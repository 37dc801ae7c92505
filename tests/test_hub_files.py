"""Files of the hub: one request and one line where it cannot be reached, and the cache where it holds them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mmbert.hub import HubFailed, hub_file, hub_folder, reason


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub at a port where nobody listens, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for place in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.ENDPOINT"):
        monkeypatch.setattr(place, "http://127.0.0.1:9", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_no_network_is_one_line_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(HubFailed, match=r"^it cannot be reached, and nothing is in the cache"):
        hub_file("some-one/some-model", "tokenizer.json")
    assert time.monotonic() - began < 5
    assert capfd.readouterr().err == ""


def test_what_is_in_the_cache_is_taken(no_hub: Path) -> None:
    place = no_hub / "models--some-one--some-model"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    (snapshot / "tokenizer.json").write_text("{}")
    assert hub_file("some-one/some-model", "tokenizer.json") == snapshot / "tokenizer.json"
    assert hub_folder("some-one/some-model", ["*.json"]) == snapshot
    with pytest.raises(HubFailed):
        hub_file("some-one/some-model", "config.json")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "first"),
        (OSError(""), "OSError"),
        (OSError("Got: ConnectError: [Errno -2] Name or service not known"), "it cannot be reached"),
        (OSError("RepositoryNotFoundError: 404"), "there is no such repository"),
        (OSError("cannot reach: HF_HUB_OFFLINE=1"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_reasons(error: Exception, said: str) -> None:
    assert reason(error).startswith(said)
