"""``mmbert export`` as typed: what it prints, how it fails, and what it leaves."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmbert.cli.main import app
from mmbert.errors import MMBertError
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.train import train_tokenizer

TEXTS = ["A stitch in time saves nine.", "Haraka haraka haina baraka.", "Το γοργόν και χάριν έχει.", "", "y"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer([("eng_Latn", text) for text in TEXTS * 2 if text], TokenizerTraining(vocab_size=640))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 2, "num_heads": 1}
    MaskedLM(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)).save(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return tmp_path


def mmbert(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str | Path) -> str:
    with pytest.raises(MMBertError) as caught:
        CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sentence_transformers(folder: Path) -> None:
    arguments = ["--format", "sentence-transformers", "--pooling", "first", "--pooling", "mean", "--normalize",
                 "--prompt", "query=query: ", "--prompt", "title=a=b", "--text", folder / "texts.txt"]  # fmt: skip
    said = mmbert(folder / "model", *arguments, "--out", folder / "out")
    lines = said.splitlines()
    assert lines[0] == f"{folder / 'out'}: sentence-transformers, embedding"
    form = r"model\.safetensors +0\.0 MB   5 texts: largest difference 0\.0e\+00, smallest cosine 1\.0000000"
    assert re.fullmatch(form, lines[1])
    settings = json.loads((folder / "out" / "config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"query": "query: ", "document": "", "title": "a=b"}
    assert (folder / "out" / "2_Normalize").is_dir()


def test_onnx(folder: Path) -> None:
    """Fill-mask scores, and an int8 file that nobody could ask for: the fp32 graph alone is kept."""
    out = folder / "out"
    arguments = [folder / "model", "--format", "onnx", "--out", out, "--text", folder / "texts.txt"]
    said = refused(*arguments, "--int8", "--quality", "1")
    assert re.match(r"int8: the smallest cosine to fp32 is 0\.9\d+ \(text \d\), below the quality 1\.0 asked for", said)
    assert sorted(path.name for path in folder.iterdir()) == ["model", "out", "texts.txt"]
    assert [path.name for path in (out / "onnx").iterdir()] == ["model.onnx"]
    lines = mmbert(*arguments).splitlines()
    assert lines[0] == f"{out}: onnx, logits"
    assert re.fullmatch(
        r"onnx/model\.onnx +0\.\d MB   5 texts: largest difference \d\.\de-0\d, .* 1\.0000000", lines[1]
    )
    assert json.loads((out / "config.json").read_text())["architectures"] == ["ModernBertForMaskedLM"]


def test_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = folder / "model", ["--out", folder / "out"]
    assert "no such model folder: nowhere" in refused("nowhere", "--format", "onnx", *out)
    assert refused(model, "--format", "pt", *out).startswith("format 'pt' is none of")
    assert refused(model, "--format", "sentence-transformers", "--prompt", "query", *out) == (
        "prompt 'query' is not NAME=TEXT"
    )
    assert "is not of sentence-transformers: choose embedding" in refused(
        model, "--format", "sentence-transformers", "--output", "logits", *out
    )
    for name, content, told in (
        ("empty.txt", b"", "no text to compare by"),
        ("latin.txt", b"caf\xe9", f"{folder}/latin.txt:1: not UTF-8 at byte 4"),
        ("missing.txt", None, f"no such file: {folder}/missing.txt"),
    ):
        if content is not None:
            (folder / name).write_bytes(content)
        assert refused(model, "--format", "huggingface", "--text", folder / name, *out).startswith(told)
    (folder / "model" / "tokenizer.json").rename(folder / "aside")
    assert "no tokenizer.json in" in refused(model, "--format", "huggingface", *out)
    (folder / "aside").rename(folder / "model" / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert refused(model, "--format", "onnx", *out) == "onnxscript is not installed: pip install 'mmbert[export]'"
    assert not (folder / "out").exists()


def test_help_states_the_quality() -> None:
    said = CliRunner().invoke(app, ["export", "--help"]).stdout
    assert "Keep a narrower" in said
    assert "[default: 0.99]" in said


def test_gguf(folder: Path) -> None:
    """Rows of 16 numbers do not fit into q8_0's blocks of 32: they stay f32, and the file is exact."""
    pytest.importorskip("gguf")
    options = ["--dtype", "f16", "--dtype", "q8_0", "--prompt", "query=query: ", "--text", folder / "texts.txt"]
    lines = mmbert(folder / "model", "--format", "gguf", *options, "--out", folder / "out").splitlines()
    assert lines[0] == f"{folder / 'out'}: gguf, embedding"
    assert re.fullmatch(r"model-f16\.gguf +0\.\d MB   5 texts: largest difference \S+, smallest cosine \S+", lines[1])
    assert re.fullmatch(r"model-q8_0\.gguf +0\.\d MB   5 texts: largest difference 0\.0e\+00, .* 1\.0000000", lines[2])
