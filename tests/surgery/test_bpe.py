"""What trimming and extending rest on: paths, and files rewritten with fewer or more tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_vocabulary import FORMS, tokenizer_json

from mmbert.errors import TokenizerError
from mmbert.surgery.bpe import Bpe, is_wordlike
from mmbert.surgery.tokenizer_json import is_space

SEEDS = st.integers(0, 2**32)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_path_ends_in_its_token_just_where_the_tokenizer_makes_it(seed: int) -> None:
    bpe = Bpe(tokenizer_json("gemma", seed), "test")
    products = [left + right for left, right in bpe.merges]
    cut = bpe.tokenizer.encode_batch([token.replace("▁", " ") for token in products])
    for token, ids in zip(products, cut, strict=True):
        made = ids.tolist() == [bpe.ids[token]]
        path = bpe.path(token)
        assert token in path
        assert (len(path) > 1) == made, token
        assert all(part in bpe.ids and part in token for part in path)


def test_old_form_of_merges() -> None:
    content = json.loads(tokenizer_json("metaspace", 1))
    pairs = content["model"]["merges"]
    content["model"]["merges"] = [" ".join(pair) for pair in pairs]
    bpe = Bpe(json.dumps(content), "test")
    assert bpe.merges == [tuple(pair) for pair in pairs]
    assert json.loads(bpe.extended([], []))["model"]["merges"] == pairs


def test_ids_in_the_file_follow() -> None:
    content = json.loads(tokenizer_json("ours", 2))
    last = len(content["model"]["vocab"])
    content["model"]["vocab"]["<end>"] = last
    content["added_tokens"].append({**content["added_tokens"][0], "id": last, "content": "<end>"})
    template = {"id": "<end>", "ids": [last], "tokens": ["<end>"]}
    piece = {"SpecialToken": {"id": "<end>", "type_id": 0}}
    content["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "TemplateProcessing", "single": [piece], "pair": [piece], "special_tokens": {"<end>": template}}
    ]}  # fmt: skip
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": last,
                          "pad_type_id": 0, "pad_token": "<end>"}  # fmt: skip
    bpe = Bpe(json.dumps(content), "test")
    kept = [*range(300), last]
    new = json.loads(bpe.restricted(kept))
    assert new["model"]["vocab"]["<end>"] == 300
    assert new["added_tokens"][-1]["id"] == 300
    assert new["padding"]["pad_id"] == 300
    assert new["post_processor"]["processors"][0]["special_tokens"]["<end>"]["ids"] == [300]
    assert new["normalizer"] == content["normalizer"]
    assert new["pre_tokenizer"] == content["pre_tokenizer"]


def test_added_tokens_outside_the_vocabulary_keep_their_ids() -> None:
    content = json.loads(tokenizer_json("ours", 3))
    tokens = len(content["model"]["vocab"])
    content["added_tokens"].append({**content["added_tokens"][0], "id": tokens, "content": "<end>", "special": False})
    bpe = Bpe(json.dumps(content), "test")
    longer = Bpe(bpe.extended(["new"], []), "test").tokenizer
    assert longer.encode_batch(["<end>"])[0].tolist() == [tokens]
    assert longer.id_to_token(tokens + 1) == "new"


def test_refusals() -> None:
    content = json.loads(tokenizer_json("ours", 4))
    with pytest.raises(TokenizerError, match="end_of_word_suffix"):
        Bpe(json.dumps({**content, "model": {**content["model"], "end_of_word_suffix": "</w>"}}), "test")
    vocab = [[token, -1.0] for token in content["model"]["vocab"]]
    with pytest.raises(TokenizerError, match="is no BPE but Unigram"):
        Bpe(json.dumps({**content, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab}}), "test")


def test_kinds_of_tokens() -> None:
    assert FORMS.keys() == {"ours", "metaspace", "gemma"}
    assert [token for token in ["", " ", "▁▁", "\n", "▁a", "a"] if is_space(token)] == [" ", "▁▁", "\n"]
    words = ["a", "▁a", " é", "▁", "Ꭰ", "क्\u200d"]
    assert [token for token in [*words, "", "1", "▁1", "a.", "▁▁a", "a▁", "<0x61>"] if is_wordlike(token)] == words
