"""Whatever is handed to a facade that is no text, or no model: one line that names it, or a sensible answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from mmbert import Answerer, Classifier, Embedder, FillMask, Reranker, Tagger
from mmbert.errors import MMBertError
from mmbert.model.weights import save_state

WHO = "Who is free?"
FOLDERS: dict[str, tuple[type[Any], str]] = {
    "Embedder": (Embedder, "masks"), "FillMask": (FillMask, "masks"), "Classifier": (Classifier, "classes"),
    "Tagger": (Tagger, "tags"), "Answerer": (Answerer, "spans"), "Reranker": (Reranker, "ranks"),
}  # fmt: skip
CALLS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "embed": ("Embedder", lambda facade, what: facade(what)),
    "windows": ("Embedder", lambda facade, what: facade(what, chunking="windows")),
    "late": ("Embedder", lambda facade, what: facade(what, chunking="late")),
    "tokens": ("Embedder", lambda facade, what: facade.tokens(what)),
    "encode": ("Embedder", lambda facade, what: facade.encode(what)),
    "fill": ("FillMask", lambda facade, what: facade(f"{what} <mask>" if isinstance(what, str) else what)),
    "classify": ("Classifier", lambda facade, what: facade(what)),
    "classify pair": ("Classifier", lambda facade, what: facade((WHO, what))),
    "tag": ("Tagger", lambda facade, what: facade(what)),
    "answer, question": ("Answerer", lambda facade, what: facade(what, WHO)),
    "answer, context": ("Answerer", lambda facade, what: facade(WHO, what)),
    "rerank, query": ("Reranker", lambda facade, what: facade(what, [WHO])),
    "rerank, documents": ("Reranker", lambda facade, what: facade(WHO, what)),
    "rerank, document": ("Reranker", lambda facade, what: facade(WHO, [what])),
}

BAD: dict[str, Any] = {
    "number": 3, "nothing": None, "bytes": b"a", "NaN": float("nan"), "dict": {"a": 1}, "set": {"a"}, "class": str,
    "list of numbers": [1], "list with None": ["a", None], "list in list": [["a"]], "surrogate": "a\ud800b",
    "list with surrogate": ["a", "\udfff"],
}  # fmt: skip

NAMED = (
    "int",
    "NoneType",
    "bytes",
    "float",
    "dict",
    "set",
    "type",
    "list",
    "ndarray",
    "surrogate",
    "not a str",
    "both",
)


@pytest.fixture(scope="module")
def facades(heads: Path) -> dict[str, Any]:
    return {name: kind.load(heads / folder, precision="fp32") for name, (kind, folder) in FOLDERS.items()}


def one_line(error: pytest.ExceptionInfo[MMBertError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def answer(found: Any) -> Any:
    return list(found) if isinstance(found, Iterator) else found


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("bad", list(BAD))
def test_what_is_no_text_is_named(facades: dict[str, Any], call: str, bad: str) -> None:
    facade, ask = CALLS[call]
    if call == "rerank, documents" and bad == "surrogate":
        return  # a text where a list belongs: below
    with pytest.raises(MMBertError) as error:
        answer(ask(facades[facade], BAD[bad]))
    assert any(name in one_line(error) for name in NAMED), error.value


@pytest.mark.parametrize("call", [call for call in CALLS if call != "rerank, documents"])
@pytest.mark.parametrize("text", ["", " \n\t ", "a\0b", "\ufeff", "\U0010ffff" * 70, "<mask><eos><bos><pad>"])
def test_odd_texts_have_an_answer_or_a_reason(facades: dict[str, Any], call: str, text: str) -> None:
    facade, ask = CALLS[call]
    if not text.strip() and (facade == "Answerer" or call == "rerank, query"):
        with pytest.raises(MMBertError, match="is empty"):
            ask(facades[facade], text)
        return
    if len(text) > 64 and call == "answer, question":
        with pytest.raises(MMBertError, match="has no more room"):
            ask(facades[facade], text)
        return
    found = ask(facades[facade], text)
    numbers = found.vectors if hasattr(found, "vectors") else found
    if isinstance(numbers, np.ndarray):
        assert np.isfinite(numbers).all()
    elif call.startswith("classify"):
        assert sum(found.scores.values()) == pytest.approx(1)
    else:
        assert isinstance(found, list)


def test_a_text_where_a_list_belongs(facades: dict[str, Any]) -> None:
    with pytest.raises(MMBertError, match="documents are str: expected a list of str"):
        facades["Reranker"](WHO, "one text")
    with pytest.raises(MMBertError, match="2 questions, 1 contexts"):
        facades["Answerer"]([WHO, WHO], ["a"])


def test_no_texts_at_all(facades: dict[str, Any]) -> None:
    assert facades["Embedder"]([]).shape == (0, 16)
    for name in ("FillMask", "Classifier", "Tagger"):
        assert facades[name]([]) == []
        assert list(facades[name](iter(()))) == []
    assert facades["Reranker"](WHO, []) == []
    assert facades["Answerer"]([], []) == []


@pytest.mark.parametrize("call", ["embed", "encode", "classify", "rerank, document"])
def test_ten_megabytes_are_read_as_far_as_the_model_reads(facades: dict[str, Any], call: str) -> None:
    facade, ask = CALLS[call]
    text = "All human beings are born free. " * 330_000
    begun = time.process_time()
    long = ask(facades[facade], text)
    assert time.process_time() - begun < 30
    short = ask(facades[facade], text[: 64 * 64])
    if isinstance(long, np.ndarray):
        np.testing.assert_allclose(long, short, atol=1e-6)
    elif isinstance(long, list):
        assert long[0].score == pytest.approx(short[0].score, abs=1e-6)
    else:
        assert long.score == pytest.approx(short.score, abs=1e-6)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _nan(folder: Path) -> None:
    state = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    state["model.final_norm.weight"][0] = float("nan")
    save_state(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_cut, "model.safetensors cannot be read"),
        (_nan, "final_norm.weight holds NaN"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**6), "config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), "config.json:1: not UTF-8"),
        (lambda folder: (folder / "config.json").write_text("null"), "config.json: not a JSON object"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff"), "tokenizer.json:1: not UTF-8"),
        (lambda folder: (folder / "tokenizer.json").write_text(""), "is not a tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "modules.json").write_text("{}"), "modules.json"),
        (lambda folder: shutil.rmtree(folder), "no such model folder"),
    ],
)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_folder_is_named(heads: Path, tmp_path: Path, name: str, damage: Any, told: str) -> None:
    kind, source = FOLDERS[name]
    folder = Path(shutil.copytree(heads / source, tmp_path / "model"))
    damage(folder)
    with pytest.raises(MMBertError) as error:
        kind.load(folder)
    assert told in one_line(error)
    assert str(folder) in one_line(error)


def test_a_file_is_no_folder(heads: Path) -> None:
    with pytest.raises(MMBertError, match="no such model folder"):
        Embedder.load(heads / "masks" / "config.json")
