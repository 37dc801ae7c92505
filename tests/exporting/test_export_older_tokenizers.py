"""Folders and graphs with the tokenizers of older encoders: others read the same ids and give the same vectors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import tokenizers
import transformers

import mmbert
from mmbert.errors import ConfigError
from older_tokenizers import FORMS

TEXTS = ["Wote wamezaliwa HURU,  hadhi", "人人生而自由 \U0001e900", "<mask> or [MASK] is a mask", ""]


@pytest.mark.parametrize("form", FORMS)
def test_others_read_the_same(form: str, older_models: dict[str, Path], tmp_path: Path) -> None:
    embedder = mmbert.Embedder.load(older_models[form], precision="fp32", device="cpu")
    ours = [embedder.loaded.tokenizer.encode(text, specials=True) for text in TEXTS]
    for kind in ("sentence-transformers", "onnx", "huggingface"):
        mmbert.export(older_models[form], tmp_path / kind, format=kind, texts=TEXTS)  # type: ignore[arg-type]
        written = tokenizers.Tokenizer.from_file(str(tmp_path / kind / "tokenizer.json"))
        assert [written.encode(text).ids for text in TEXTS] == ours
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        assert [theirs(text)["input_ids"] for text in TEXTS] == ours
        before = embedder.loaded.tokenizer.encode_written("a", "b").ids
        assert theirs("a", "b")["input_ids"] == before, "pairs as the model's own file joins them"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), embedder.encode(TEXTS), rtol=0, atol=1e-5)
    fill = mmbert.FillMask.load(tmp_path / "huggingface")
    assert len(fill(f"Wote {fill.mask} huru")) == 5


@pytest.mark.parametrize("form", FORMS)
def test_gguf_is_refused(form: str, older_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is no BPE: no vocabulary of llama\.cpp gives its ids; export --format onnx"
    ):
        mmbert.export(older_models[form], tmp_path / "gguf", format="gguf")
    assert not (tmp_path / "gguf").exists()
