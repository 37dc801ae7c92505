"""Unigram and WordPiece tokenizers of older encoders: ids, characters and texts are those of their own libraries."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings

from all_scripts import ODD
from all_scripts import texts as all_texts
from mmbert.doctor.model import _byte_fallback, spaces
from mmbert.errors import TokenizerError
from mmbert.tokenizer import long_texts
from mmbert.tokenizer.measure import measure
from mmbert.tokenizer.tokenizer import Tokenizer
from older_tokenizers import FORMS, older_json

thorough = settings(max_examples=150, deadline=None, database=None, derandomize=True)

STRINGS = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
TEXTS = [
    "", " ", "a  b", "\u00a0a\u00a0 b", "\ufb01\u337f \u00e9 e\u0301", "\u0130stanbul \u015e\u015e", "don't. ok",
    "人人 a人b", "\tx\ny\r\n", "\U0001e900\U0001e901 x", "\u200d\u200b", "Paris is <mask>.", "is [MASK]", "x<mask>y",
    "<s>a</s> <pad> <unk>", "[CLS]a[SEP] [PAD] [UNK]", "\uff1cmask\uff1e", "▁a ▁▁b",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(texts: list[tuple[str, str]]) -> dict[str, str]:
    return {form: older_json(form, [text for _, text in texts], size=900) for form in FORMS}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def older(files: dict[str, str], form: str) -> Tokenizer:
    return Tokenizer(files[form], form)


@pytest.fixture(scope="module")
def corpus(test_data: Path) -> list[str]:
    """A document in each of a hundred languages, in all scripts there are."""
    found = []
    for path in sorted((test_data / "corpus").glob("*.jsonl.gz"))[::2][:100]:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found.append(json.loads(next(lines))["text"][:2000])
    return found


def check_ids(ours: Tokenizer, theirs: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Compare ids, characters and decoded texts with those of the library."""
    batch, spans = ours.encode_batch(texts, specials=True), ours.encode_spans(texts, specials=True)
    expected = theirs.encode_batch(texts, add_special_tokens=False)
    for text, ids, (again, characters), other in zip(texts, batch, spans, expected, strict=True):
        assert ids.tolist() == again.tolist() == other.ids, text
        assert ours.decode(ids) == theirs.decode(other.ids)
        offsets = np.array(other.offsets, np.int64).reshape(-1, 2)
        put = (characters != offsets).any(axis=1)  # a space that was put before the text has no characters here
        assert (characters[put, 0] == characters[put, 1]).all()
        assert [ours.id_to_token(index) for index in ids[put]] == ["▁"] * int(put.sum())
        assert (np.diff(characters[:, 0]) >= 0).all()


@thorough
@given(text=all_texts)
def test_ids_of_random_text(files: dict[str, str], older: Tokenizer, form: str, text: str) -> None:
    check_ids(older, tokenizers.Tokenizer.from_str(files[form]), [text])


def test_ids_of_odd_and_of_real_text(files: dict[str, str], older: Tokenizer, form: str, corpus: list[str]) -> None:
    check_ids(older, tokenizers.Tokenizer.from_str(files[form]), [*TEXTS, *corpus])


def test_special_strings_are_text_but_on_request(older: Tokenizer) -> None:
    special = set(older.special_ids) - {older.unk_id}
    for text in [*STRINGS, *(f"a {one}b{one} {one}" for one in STRINGS), *TEXTS]:
        (ids,), ((again, spans),) = older.encode_batch([text]), older.encode_spans([text])
        assert not special & set(ids.tolist()), text
        assert ids.tolist() == again.tolist()
        assert older.unk_id not in ids or len(spans), "what the vocabulary lacks has characters"
    mask = older.specials["mask"]
    assert older.encode_batch([f"a {mask}"], specials=True)[0][-1] == older.mask_id
    plain = [text for text in TEXTS if not any(one in text for one in (*STRINGS, "\uff1cmask\uff1e"))]
    for text, bare, marked in zip(
        plain, older.encode_batch(plain), older.encode_batch(plain, specials=True), strict=True
    ):
        assert bare.tolist() == marked.tolist(), text


def test_spans_are_of_the_text_before_it_was_normalised(older: Tokenizer, form: str) -> None:
    text = "ALL\u00a0 \u00c9galit\u00e9, \uff45gal <mask>"
    ((ids, spans),) = older.encode_spans([text])
    read = [text[start:end] for start, end in spans.tolist()]
    assert "".join("".join(read).split()) == "".join(text.split())
    if form == "wordpiece":
        joined = "".join(older.shown(index) for index in ids.tolist()).replace("▁", " ")
        assert joined.startswith(" all egalite, egal") or older.unk_id in ids


def test_transformers_reads_what_is_saved(files: dict[str, str], older: Tokenizer, form: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    roles = {"pad": "pad", "eos": "sep", "bos": "cls", "unk": "unk", "mask": "mask"}
    for as_written in (False, True):
        folder = tmp_path / f"{as_written}"
        older.save(folder, max_tokens=512, as_written=as_written)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # known to version 4 too
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        again = Tokenizer.load(folder)
        assert (again.specials, again.fingerprint) == (older.specials, older.fingerprint)
        for text in [*TEXTS, *ODD]:
            assert theirs(text)["input_ids"] == older.encode(text, specials=True) == again.encode(text, specials=True)
        found = {role: getattr(theirs, f"{key}_token_id") for role, key in roles.items()}
        assert found == older.role_ids
        assert len(theirs) == older.vocab_size
        assert set(theirs("a")) == {"input_ids", "attention_mask"}
        pair = theirs("a", "b")["input_ids"]
        assert pair == again.encode_written("a", "b").ids
        assert pair.count(older.eos_id) == (3 if as_written and form == "unigram" else 2)
        if as_written:
            assert pair == tokenizers.Tokenizer.from_str(files[form]).encode("a", "b").ids


def test_bytes_and_texts_of_tokens(older: Tokenizer, form: str, texts: list[tuple[str, str]]) -> None:
    counts, spelled = older.token_bytes(), older.token_texts()
    assert older.byte_ids == ()
    assert all(counts[index] == 0 for index in older.special_ids)
    for _, text in texts:
        (ids,) = older.encode_batch([text])
        written = "".join(spelled[index] for index in ids)
        assert counts[ids].sum() == len(written.encode())
        if older.unk_id in ids:
            continue
        if form == "unigram":
            assert written == f" {older.normalise(text)}"
        else:
            assert "".join(written.split()) == "".join(older.normalise(text).split())
            words = [word for word in older.normalise(text).replace(",", " ").split() if word[0].isascii()]
            assert all(f" {word.rstrip('.')}" in written for word in words)


def test_tokens_as_they_are_shown(older: Tokenizer, form: str) -> None:
    names = {older.id_to_token(index): index for index in range(older.vocab_size)}
    shown = {"unigram": {"▁": "▁", "a": "a", "<mask>": "<mask>"}}.get(
        form, {"##a": "a", "a": "▁a", ".": ".", "人": "人", "[MASK]": "[MASK]"}
    )
    assert {name: older.shown(names[name]) for name in shown} == shown


def test_what_the_doctor_says(older: Tokenizer, form: str) -> None:
    assert _byte_fallback(older) is False
    assert older.puts_space == (form == "unigram")
    said = "written ▁; one is put before every text" if form == "unigram" else "dropped, ## goes on with a word; none"
    assert spaces(older).startswith(said)
    assert spaces(older).endswith("decoding loses some")


def test_unknown_characters_are_measured(older: Tokenizer) -> None:
    (english,) = measure(older, [("eng_Latn", "born free")])
    assert (english.unknown_rate, english.byte_fallback_rate) == (0.0, 0.0)
    (fula,) = measure(older, [("ful_Adlm", "\U0001e900\U0001e901 \U0001e902")])
    assert fula.unknown_rate == (0.5 if older.puts_space else 1.0)


@pytest.mark.parametrize("joiner", [" ", "", "\n"])
def test_long_texts_have_the_ids_of_the_whole(
    older: Tokenizer, texts: list[tuple[str, str]], joiner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PART", 1500), ("_LONG", 3000), ("_REACH", 200)):
        monkeypatch.setattr(long_texts, name, value)
    words = [*ODD[:-3], *TEXTS, *(word for _, text in texts for word in text.split())]
    for seed in range(20):
        draw = random.Random(seed)
        chosen = draw.sample(words, 1 + seed)
        text = joiner.join(draw.choice(chosen) for _ in range(4000))[:12_000]
        if not joiner and older.continuing_prefix:
            text = "".join(f"{text[at : at + 20]} " for at in range(0, len(text), 20))  # longer words are one [UNK]
        ((whole, characters),) = older._spans([text], True, 0)
        ((ids, spans),) = older.encode_spans([text], specials=True)
        np.testing.assert_array_equal(ids, whole, err_msg=f"{seed}")
        np.testing.assert_array_equal(spans, characters, err_msg=f"{seed}")
        for tokens in (50, 300):
            if len(whole) < 2 * tokens:
                continue
            (begun,) = long_texts.encode_ends(older.encode_batch, [text], tokens)
            (ended,) = long_texts.encode_ends(older.encode_batch, [text], tokens, end=True)
            np.testing.assert_array_equal(begun[:tokens], whole[:tokens], err_msg=f"{seed}")
            np.testing.assert_array_equal(ended[-tokens:], whole[-tokens:], err_msg=f"{seed}")


def test_rules_and_prefixes_without_bound_are_refused(files: dict[str, str]) -> None:
    content = json.loads(files["wordpiece"])
    content["model"]["continuing_subword_prefix"] = "#" * 1000
    with pytest.raises(TokenizerError, match="its continuing_subword_prefix has 1,000 characters"):
        Tokenizer(json.dumps(content), "tiny")
    content = json.loads(files["unigram"])
    content["normalizer"]["normalizers"].append({"type": "Prepend", "prepend": "b" * 1_000_000})
    with pytest.raises(TokenizerError, match="its normalizer makes up to"):
        Tokenizer(json.dumps(content), "tiny")


def test_the_tokenizer_of_e5(e5: Path, corpus: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(e5)
    assert ours.role_ids == {"pad": 1, "eos": 2, "bos": 0, "unk": 3, "mask": 250_001}
    theirs = tokenizers.Tokenizer.from_file(str(e5 / "tokenizer.json"))
    check_ids(ours, theirs, [text for text in (*TEXTS, *corpus) if "mask" not in text])
    reader = transformers.AutoTokenizer.from_pretrained(e5)
    assert all(reader(text)["input_ids"] == ours.encode(text, specials=True) for text in corpus)
    ours.save(tmp_path)
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert all(reader(text)["input_ids"] == ours.encode(text, specials=True) for text in (*TEXTS, *corpus))
    assert Tokenizer.load(tmp_path).fingerprint == ours.fingerprint
