"""Vectors of models with the tokenizers of older encoders, and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from sentence_folders import reference, write_sentence_model
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from mmbert import Embedder, FillMask
from mmbert.doctor.model import examine
from mmbert.errors import TokenizerError
from older_tokenizers import FORMS

TEXTS = [
    "All human beings are born FREE and equal in dignity, and rights.", "Tous les êtres  humains.", "x", "",
    "人人生而自由。在尊严和权利上一律平等。", "Все люди рождаются свободными.\nИ равными! 🙂 \U0001e900", "free. " * 30,
]  # fmt: skip


@pytest.fixture(scope="module", params=FORMS)
def tuned(
    request: pytest.FixtureRequest, older_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as sentence-transformers writes it, with prompts."""
    modules = [Pooling(32, "mean"), Normalize()]
    folder = tmp_path_factory.mktemp("tuned") / request.param
    return write_sentence_model(folder, older_models[request.param], modules, prompts={"query": "query: "})


def test_vectors_are_those_of_sentence_transformers(tuned: Path) -> None:
    ours, theirs = Embedder.load(tuned, precision="fp32"), reference(tuned)
    for prompt in (None, "query"):
        expected = theirs.encode(TEXTS, prompt_name=prompt)
        np.testing.assert_allclose(ours.encode(TEXTS, prompt_name=prompt), expected, atol=1e-5)


def test_passages_and_tokens_have_characters_of_the_text(tuned: Path) -> None:
    embedder = Embedder.load(tuned, precision="fp32")
    tokens, late, windows = (
        embedder.tokens(TEXTS),
        embedder.passages(TEXTS),
        embedder.passages(TEXTS, chunking="windows"),
    )
    for text, found, own, cut in zip(TEXTS, tokens, late, windows, strict=True):
        (ids,) = embedder.loaded.tokenizer.encode_batch([text])
        assert found.ids.tolist() == ids[:126].tolist()
        assert len(found.vectors) == len(found.ids)
        assert all(0 <= start <= end <= len(text) for start, end in found.spans)
        assert [one.strip() for one in own.texts] == [one for one in own.texts if one.strip()] or not text
        assert np.isfinite(own.vectors).all()
        assert np.isfinite(cut.vectors).all()
    sentences = late[4].texts
    assert sentences == ["人人生而自由。", "在尊严和权利上一律平等。"]
    np.testing.assert_allclose(embedder.passages(TEXTS[0]).vectors[0], embedder(TEXTS[0]), atol=1e-5)


def test_a_passage_of_characters_that_the_normalizer_drops(older_models: dict[str, Path]) -> None:
    embedder = Embedder.load(older_models["wordpiece"], precision="fp32")
    found = embedder.passages("Born free.\n\u200d\u200b")  # the second line has no token
    assert len(found.texts) == 2
    assert np.isfinite(found.vectors).all()


@pytest.mark.parametrize("form", FORMS)
def test_what_the_doctor_says(form: str, older_models: dict[str, Path]) -> None:
    found = examine(str(older_models[form]), device="cpu")
    assert not found.problems
    model = {"unigram": "Unigram"}.get(form, "WordPiece")
    assert (found.facts["tokenizer"]["model"], found.facts["tokenizer"]["byte fallback"]) == (model, False)
    assert found.facts["specials"].split()[0::2] == list(
        FillMask.load(older_models[form]).loaded.tokenizer.specials.values()
    )
    assert {verdict.reads for verdict in found.readers if "transformers 4" in verdict.reader} == {"rightly"}


def test_a_model_without_a_mask_embeds_and_says_why_it_fills_none(
    older_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "maskless"
    shutil.copytree(older_models["wordpiece"], folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("[MASK]", "[GONE]").replace('"mask_token"', '"no_token"'))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["no_token"] == "[GONE]"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    embedder = Embedder.load(folder)
    assert embedder.loaded.tokenizer.encode(TEXTS[0]) == theirs(TEXTS[0])["input_ids"]
    assert np.isfinite(embedder(TEXTS)).all()
    with pytest.raises(TokenizerError, match="has no mask token: masked language modelling needs one"):
        FillMask.load(folder)
    assert "[GONE]" not in examine(str(folder), device="cpu").facts["specials"]
