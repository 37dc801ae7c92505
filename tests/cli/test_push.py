"""``--push USER/NAME``, with the hub's own client, against a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmbert.cli.main import app
from mmbert.errors import ConfigError
from mmbert.files import write_json
from mmbert.hub import upload
from upload_hub import TOKEN, UploadHub

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    little = UploadHub()
    yield little
    little.close()


@pytest.fixture
def mmbert(hub: UploadHub, tmp_path: Path) -> Run:
    """The command line, logged in to the little hub."""
    home = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }

    def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        changed = {**os.environ, "OMP_NUM_THREADS": "1", **home, "HF_TOKEN": TOKEN, **environment}
        command = [sys.executable, "-m", "mmbert", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=changed)

    return run


@pytest.fixture
def words(heads: Path, tmp_path: Path) -> tuple[str, ...]:
    """A command that writes ``three``."""
    (tmp_path / "text.txt").write_text("Good morning.\nThe train is late.\n", encoding="utf-8")
    return ("trim", str(heads / "masks"), "--text", "text.txt", "--out", "three")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("private", [True, False])
def test_what_is_written_is_uploaded(hub: UploadHub, mmbert: Run, words: Any, tmp_path: Path, private: bool) -> None:
    ended = mmbert(*words, "--push", "me/three", *(["--private"] if private else []))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"uploaded    {hub.address}/me/three"
    assert hub.files == {"me/three": content(tmp_path / "three")}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= hub.files["me/three"].keys()
    assert hub.private == {"me/three": private}
    assert any("/objects/" in asked for asked in hub.asked)  # the weights went by LFS


def test_again_into_the_same_repository(hub: UploadHub, mmbert: Run, words: Any) -> None:
    for _ in range(2):
        assert mmbert(*words, "--push", "me/three").returncode == 0
    assert list(hub.files) == ["me/three"]


@pytest.mark.parametrize(
    ("name", "token", "says"),
    [
        (
            "me/three",
            "",
            "mmbert: cannot upload to me/three: nobody is logged in to the hub: log in with `hf auth login`",
        ),
        ("three", TOKEN, "mmbert: 'three' is no repository of the hub: write USER/three"),
        ("me/th ree", TOKEN, "mmbert: 'me/th ree' is no repository of the hub: "),
        ("a/b/c", TOKEN, "mmbert: 'a/b/c' is no repository of the hub: "),
    ],
)
def test_what_cannot_begin_ends_before_the_work(
    hub: UploadHub, mmbert: Run, words: Any, tmp_path: Path, name: str, token: str, says: str
) -> None:
    ended = mmbert(*words, "--push", name, HF_TOKEN=token)
    assert ended.returncode == 2
    assert ended.stderr.startswith(says)
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "three").exists()
    assert hub.asked == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_refusal_is_one_line_and_leaves_the_folder(
    hub: UploadHub, mmbert: Run, words: Any, tmp_path: Path, read_only: bool
) -> None:
    hub.read_only = read_only
    ended = mmbert(*words, "--push", "me/three", HF_TOKEN=TOKEN if read_only else "hf_of_another")
    assert ended.returncode == 2
    said = ended.stderr.splitlines()[-1]
    assert f"cannot upload to me/three: the hub refuses ({403 if read_only else 401})" in said
    assert "the folder is complete: run this again, or `hf upload me/three three`" in said
    assert (tmp_path / "three" / "model.safetensors").is_file()


def test_a_hub_that_does_not_answer(mmbert: Run, words: Any, tmp_path: Path) -> None:
    ended = mmbert(*words, "--push", "me/three", HF_ENDPOINT="http://127.0.0.1:9")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("mmbert: cannot upload to me/three: ")
    assert (tmp_path / "three" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_tuned_model_is_uploaded_by_an_option_or_the_recipe(
    hub: UploadHub, mmbert: Run, heads: Path, tmp_path: Path
) -> None:
    assert mmbert("examples").returncode == 0
    data = [f"data.{part}.path=examples/data/topics-{part}.jsonl" for part in ("train", "dev")]
    tune = ["finetune", "classify", f"model={heads / 'masks'}", *data, "training.max_steps=1", "training.max_tokens=32"]
    ended = mmbert(*tune, "--push", "me/option")
    assert ended.returncode == 0, ended.stderr
    assert hub.files["me/option"] == content(tmp_path / "runs/classify/final")
    assert mmbert(*tune, "--push", "me/later").returncode == 0  # the run is finished, its upload is not
    assert hub.files["me/later"] == hub.files["me/option"]
    assert mmbert(*tune, "training.push_to_hub=me/recipe", "--out", "other").returncode == 0
    assert hub.files["me/recipe"] == content(tmp_path / "other/final")


def test_an_adapter_does_not_tell_where_its_base_lies(
    hub: UploadHub, mmbert: Run, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = heads / "masks"
    write_json(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": str(base)})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=f"names its base by a path of this machine, {base}: write"):
        upload(tmp_path / "adapter", "me/adapter")
    tune = ["finetune", "classify", f"model={base}", "data.path=nowhere", "training.lora.merge=false"]
    ended = mmbert(*tune, "training.push_to_hub=me/adapter")
    assert ended.returncode == 2
    assert "upload that model first" in ended.stderr
    assert not hub.asked


def test_the_commands_that_write_models_have_it() -> None:
    commands: Any = typer.main.get_command(app)
    having = {name for name, command in commands.commands.items() if "push" in {param.name for param in command.params}}
    assert having == {"finetune", "distill", "merge", "trim", "extend", "convert", "export"}
