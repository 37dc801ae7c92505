"""Large BPE files are read part by part; the tokenizer is the one that the library reads from the whole file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from mmbert.errors import TokenizerError
from mmbert.tokenizer import load_bpe as module
from mmbert.tokenizer.load_bpe import load_bpe
from mmbert.tokenizer.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def no_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 0)


@pytest.fixture
def file(trained: Tokenizer, tmp_path: Path) -> Path:
    trained.save(tmp_path)
    return tmp_path / "tokenizer.json"


def change(path: Path, edit: Callable[[dict[str, Any]], Any], **form: Any) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content, ensure_ascii=False, **form))
    return path


def same(path: Path) -> bool:
    found, wanted = load_bpe(path, "x"), tokenizers.Tokenizer.from_file(str(path))
    return found is not None and bool(found.to_str() == wanted.to_str())


def test_real_vocabularies(gemma2: Path, released: Path, tmp_path: Path) -> None:
    Tokenizer.load(gemma2).save(tmp_path)
    for folder in (gemma2, released, tmp_path):  # merges as "a b", as pairs, and as this package writes them
        assert same(folder / "tokenizer.json")


def test_merges_whose_older_form_would_be_wrong(file: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        model = content["model"]
        for token in ("#version", " b", "#version b"):
            model["vocab"].setdefault(token, len(model["vocab"]))
        model["merges"].append(["#version", " b"])

    assert same(change(file, add, indent=2))
    assert same(change(file, lambda content: content["model"]["merges"].pop() and None, indent=2))


def test_texts_that_look_like_the_form_of_the_file(file: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        for token in ('"', ",", '",', '",\n        "', '[\n        "', '"model"', '}, "normalizer": {', "\\", '\\"'):
            vocab.setdefault(token, len(vocab))
        content["model"]["merges"] += [['"', ","]]

    for form in ({"indent": 2}, {}, {"separators": (",", ":")}):
        assert same(change(file, add, **form))


def test_rules_behind_the_model_are_not_taken_unchecked(file: Path) -> None:
    harmful = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10_000}
    text = change(file, lambda content: content | {"model": content.pop("model")}).read_text()
    assert load_bpe(file, "x") is not None
    file.write_text(text.rstrip().removesuffix("}") + f', "normalizer": {json.dumps(harmful)}}}')
    assert load_bpe(file, "x") is None
    with pytest.raises(TokenizerError, match="its normalizer makes up to 10,000 characters of one"):
        Tokenizer.load(file)
    file.write_text(text.replace('"normalizer":', f'"normalizer": {json.dumps(harmful)}, "nothing":', 1))
    with pytest.raises(TokenizerError, match="its normalizer makes up to 10,000 characters of one"):
        load_bpe(file, "x")


def test_other_files_are_left_to_the_library(file: Path, tmp_path: Path) -> None:
    def outside(content: dict[str, Any]) -> None:
        content["added_tokens"].append({**content["added_tokens"][-1], "id": 50_000, "content": "<far>"})

    text = file.read_text()
    assert load_bpe(change(file, outside), "x") is None
    for damaged in (text[:-10], text[: len(text) // 2], "", "{}", '{"model": {"type": "BPE"', text + "x"):
        file.write_text(damaged)
        assert load_bpe(file, "x") is None
    file.write_text(text)
    change(file, lambda content: {"model": content.pop("model"), **content})  # the model first
    assert load_bpe(file, "x") is None
    assert Tokenizer.load(file).encode("a")


def test_affixes_of_the_model_are_checked(file: Path) -> None:
    change(file, lambda content: content["model"].update(end_of_word_suffix="x" * 1000))
    with pytest.raises(TokenizerError, match="its end_of_word_suffix has 1,000 characters"):
        Tokenizer.load(file)
