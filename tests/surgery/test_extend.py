"""More tokens on top of those there are: old text keeps its tokens, new rows are means of those that they replace."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from little_vocabulary import FORMS, save_model, text, tokenizer_json
from safetensors.torch import load_file

from mmbert.errors import DataError, TokenizerError
from mmbert.model.heads import MaskedLM
from mmbert.surgery.bpe import Bpe
from mmbert.surgery.compare_tokenizers import compare
from mmbert.surgery.extend import count_words, extend, neighbours, new_characters, replaced_tokens
from mmbert.surgery.learn import learn_merges
from mmbert.tokenizer.tokenizer import Tokenizer

CHEROKEE = [
    "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᎶᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ. ᎨᏥᏁᎳ ᎤᎾᏓᏅᏖᏗ ᎠᎴ ᎤᏃᏟᏍᏗ ᎠᎴ ᏌᏊ ᎨᏒ ᏧᎾᏓᎪᏅᏗ ᎠᎾᏟᏅᏢ ᎠᏓᏅᏙ ᎬᏗ.",
    "ᏂᎦᏓ ᎠᏂᏴᏫ ᎨᏥᏁᎳ ᎠᎴ ᎨᏒ ᎠᏓᏅᏙ ᎬᏗ.",
]


@settings(max_examples=30, deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**32))
def test_any_text_is_cut_as_before_and_then_joined(form: str, seed: int) -> None:
    bpe = Bpe(tokenizer_json(form, seed), "old")
    new_text = [text(seed + k, letters="abcdéжщ", words=8) for k in range(6)]
    keep = [text(seed + 50 + k, words=1 + seed % 4) for k in range(2)]
    characters = new_characters(bpe, new_text, limit=2)
    assert characters == sorted("жщ", key=lambda c: (-"".join(new_text).count(c), c))
    spelled = Bpe(bpe.extended(characters, []), "spelled")
    refused = neighbours(spelled, keep)
    assert refused == {pair for word in count_words(spelled, keep) for pair in pairwise(word)}
    words = count_words(spelled, new_text)
    merges = learn_merges(words, 15, known=spelled.ids.keys(), refused=refused)
    assert merges
    made = [*characters, *map("".join, merges)]
    new = Tokenizer(bpe.extended(made, merges), "new")
    assert new.vocab_size == len(bpe.ids) + len(made)
    parts = replaced_tokens(bpe, characters, merges)
    first = bpe.tokenizer.vocab_size
    whole = [*new_text, *keep, *(text(seed + 99 + k, letters="abcdéжщ") for k in range(10)), "日本 42!\n\n"]
    for sentence, old_ids, ids in zip(whole, bpe.tokenizer.encode_batch(whole), new.encode_batch(whole), strict=True):
        spread = [old for i in ids.tolist() for old in (parts[made[i - first]] if i >= first else (i,))]
        assert spread == old_ids.tolist(), sentence
        assert new.decode(ids) == bpe.tokenizer.decode(old_ids)
    kept = compare(bpe.tokenizer, new, keep)
    assert kept.same == kept.documents
    gained = compare(bpe.tokenizer, new, new_text)
    assert gained.after < gained.before
    # the tokenizer joins as the learner foresaw
    joined = Counter(word for run, count in words.items() for word in _run(run, merges) for _ in range(count))
    counted = Counter(new.id_to_token(int(i)) for ids in new.encode_batch(new_text) for i in ids if i >= first)
    assert {token: joined[token] for token in map("".join, merges)} == {t: counted[t] for t in map("".join, merges)}


def _run(word: tuple[str, ...], merges: list[tuple[str, str]]) -> list[str]:
    parts = list(word)
    for pair in merges:
        place = 0
        while place + 1 < len(parts):
            if (parts[place], parts[place + 1]) == pair:
                parts[place : place + 2] = ["".join(pair)]
            place += 1
    return parts


def test_merges_by_frequency() -> None:
    words = {("a", "b", "c"): 5, ("b", "c"): 4, ("a", "b"): 3, ("x", "y"): 1}
    assert learn_merges(words, 9, known=set("abcxy")) == [("b", "c"), ("a", "bc"), ("a", "b")]
    assert learn_merges(words, 1, known=set("abcxy")) == [("b", "c")]
    assert learn_merges(words, 9, known={*"abcxy", "bc"}) == [("a", "b"), ("ab", "c")], "a token there is, is not made"
    assert learn_merges(words, 9, known=set("abcxy"), refused={("b", "c")}) == [("a", "b"), ("ab", "c")]
    assert learn_merges(words, 9, known=set("abcxy"), min_count=1)[-1] == ("x", "y")
    assert learn_merges(words, 9, known=set("abcxy"), max_length=2) == [("b", "c"), ("a", "b")]
    assert learn_merges({("a", "a", "a", "a", "a"): 2}, 9, known={"a"}) == [("a", "a"), ("aa", "a"), ("aa", "aaa")]


def test_words_end_at_spaces_digits_signs_and_added_tokens() -> None:
    bpe = Bpe(tokenizer_json("ours", 0, merges=0), "old")
    words = count_words(bpe, ["ab cd7a,b\nc é", "ab"])
    space = (" ",) if " c" not in bpe.ids else ()
    runs = Counter({"".join(run): count for run, count in words.items()})
    assert runs == {"ab": 2, " cd": 1, "a": 1, "b": 1, "c": 1, " é": 1}, space


@pytest.mark.parametrize("rows", [None, 400])
def test_rows_are_means_of_replaced_rows(tmp_path: Path, rows: int | None) -> None:
    content = tokenizer_json("metaspace", 1)
    save_model(tmp_path / "old", content, rows=rows)
    report = extend(tmp_path / "old", CHEROKEE, tmp_path / "new", tokens=24)
    assert (len(report.characters), len(report.merges)) == (12, 12)
    before, after = Tokenizer.load(tmp_path / "old"), Tokenizer.load(tmp_path / "new")
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("old", "new"))
    assert after.vocab_size == before.vocab_size + 24
    embedding = "model.embeddings.tok_embeddings.weight"
    for name in (embedding, "decoder.bias"):
        assert len(new[name]) == max(after.vocab_size, rows or 0) == MaskedLM.load(tmp_path / "new").config.vocab_size
        assert torch.equal(new[name][: before.vocab_size], old[name][: before.vocab_size])
        assert torch.equal(new[name][after.vocab_size :], old[name][after.vocab_size :])
        for index in range(before.vocab_size, after.vocab_size):
            token = after.id_to_token(index)
            assert token is not None
            replaced = before.encode_batch([token.replace("▁", " ").strip()])[0].tolist()
            if not token.startswith("▁"):
                replaced = replaced[1:]  # the space that is put before every text
            torch.testing.assert_close(new[name][index], old[name][replaced].mean(0))
    found = compare(before, after, CHEROKEE)
    assert found.bytes_per_token[1] > 1.6 * found.bytes_per_token[0]


def test_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    save_model(tmp_path / "old", tokenizer_json("gemma", 2))
    extend(tmp_path / "old", CHEROKEE, tmp_path / "new", tokens=60)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "new")
    ours = Tokenizer.load(tmp_path / "new")
    ids = theirs(CHEROKEE[0], add_special_tokens=False).input_ids
    assert ids == ours.encode_batch([CHEROKEE[0]])[0].tolist()
    assert theirs.decode(ids) == CHEROKEE[0]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "new", attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        pack = ours.pack([CHEROKEE[0]]).to()
        expected = MaskedLM.load(tmp_path / "new").eval().logits(pack)
    assert logits.shape[-1] == expected.shape[-1] == ours.vocab_size
    assert len(ids) == len(expected) - 2


def test_refusals(tmp_path: Path) -> None:
    save_model(tmp_path / "old", tokenizer_json("ours", 3))
    with pytest.raises(DataError, match="no new token that occurs 2 times"):
        extend(tmp_path / "old", ["7, 7, 7"], tmp_path / "new", tokens=10)
    content = json.loads(tokenizer_json("ours", 3))
    content["model"]["vocab"] = {t.replace("<0x", "<x"): i for t, i in content["model"]["vocab"].items()}
    (tmp_path / "old" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="no byte fallback"):
        extend(tmp_path / "old", CHEROKEE, tmp_path / "new", tokens=10)
    assert not (tmp_path / "new").exists()
