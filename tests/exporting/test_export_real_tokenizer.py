"""Folders and graphs with the Gemma 2 tokenizer, and with the released form of it: others read the same ids."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import tokenizers

import mmbert

TEXTS = ["<h1>born</h1>\n\n\tfree    \U0001e900 人", "Wote wamezaliwa huru.", "<mask> is no mask"]


@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_others_read_the_same_ids(form: str, real_models: dict[str, Path], tmp_path: Path) -> None:
    embedder = mmbert.Embedder.load(real_models[form], precision="fp32", device="cpu")
    ours = [embedder.loaded.tokenizer.encode(text, specials=True) for text in TEXTS]
    for kind in ("sentence-transformers", "onnx"):
        mmbert.export(real_models[form], tmp_path / kind, format=kind, texts=TEXTS)  # type: ignore[arg-type]
        written = tokenizers.Tokenizer.from_file(str(tmp_path / kind / "tokenizer.json"))
        assert [written.encode(text).ids for text in TEXTS] == ours
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), embedder.encode(TEXTS), rtol=0, atol=1e-5)
