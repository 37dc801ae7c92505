from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from mmbert.doctor.model import _byte_fallback
from mmbert.errors import TokenizerError
from mmbert.tokenizer.specials import GEMMA
from mmbert.tokenizer.tokenizer import Tokenizer

SP = "\u2581"
ODD = [SP, " ", "  ", "\n", "\t", "\r\n", "<mask>", "<bos>", "<0x41>", "\u200d", "\u0301", "Ж", "7", "人", "\x00", "🙂"]

any_text = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(ODD))).map("".join)
thorough = settings(max_examples=150, deadline=None, database=None, derandomize=True)


def released_form(kind: str, *, mask_is_special: bool = False, without: str = "") -> str:
    """A tiny tokenizer.json in the form of the released mmBERT (``metaspace``) or of Gemma 2 (``gemma``)."""
    pieces = [SP, "a", "b", "c", "h", "o", f"{SP}a", "ab", f"{SP}ab", ".", "é"]
    specials = [token for token in GEMMA.values() if token != without]
    vocab = {token: i for i, token in enumerate([*specials, *(f"<0x{b:02X}>" for b in range(256)), *pieces])}
    merges = [(SP, "a"), ("a", "b"), (f"{SP}a", "b")]
    made = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),  # type: ignore[arg-type]
    )
    if kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always", split=True)
        made.decoder = decoders.Sequence(
            [decoders.Replace(SP, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        made.normalizer = normalizers.Replace(" ", SP)
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        made.decoder = decoders.Sequence([decoders.Replace(SP, " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [tokenizers.AddedToken(t, special=t != "<mask>" or mask_is_special, normalized=False) for t in specials]
    made.add_tokens(added)
    made.enable_truncation(3)
    made.enable_padding()
    return made.to_str()


def write(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    return folder


@thorough
@given(any_text)
def test_any_text_comes_back(trained: Tokenizer, prefixed: Tokenizer, text: str) -> None:
    for tokenizer in (trained, prefixed):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids[1:-1]) & set(tokenizer.special_ids)


def test_characters_of_all_planes_come_back(trained: Tokenizer) -> None:
    codes = [*range(0x3000), *range(0x3000, 0x110000, 7), 0xFFFE, 0xFFFF, 0x10FFFF]
    planes = "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)
    parts = [planes[start : start + 40_000] for start in range(0, len(planes), 40_000)]
    for part, ids in zip(parts, trained.encode_batch(parts), strict=True):
        assert trained.decode(ids) == part


@thorough
@given(any_text)
def test_token_bytes_add_up_to_the_text(trained: Tokenizer, prefixed: Tokenizer, text: str) -> None:
    size = len(text.encode())
    assert trained.token_bytes()[trained.encode(text)].sum() == size
    assert prefixed.token_bytes()[prefixed.encode(text)].sum() == size + bool(text)


@pytest.mark.parametrize("kind", ["metaspace", "gemma"])
def test_released_forms(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, released_form(kind)))
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    (ids,) = tokenizer.encode_batch(["ab ab  é<mask>人"])
    first = [f"{SP}ab"] if kind == "metaspace" else ["ab"]
    spelled = [tokenizer.id_to_token(i) for i in ids]
    assert spelled[:5] == [*first, f"{SP}ab", SP, SP, "é"], "truncation of the file must not apply"
    assert spelled[-3:] == ["<0xE4>", "<0xBA>", "<0xBA>"]
    assert tokenizer.mask_id not in ids
    assert tokenizer.decode(ids) == "ab ab  é<mask>人"
    assert tokenizer.token_bytes()[ids].sum() == len("ab ab  é<mask>人".encode()) + (kind == "metaspace")
    assert tokenizer.mask_id in tokenizer.encode("ab <mask>", specials=True)
    assert tokenizer.decode([*ids[:1], tokenizer.mask_id], specials=True).endswith("ab<mask>")


@pytest.mark.parametrize(
    ("token", "size"), [("<pad>", 0), ("<mask>", 0), ("<0xE2>", 1), (SP, 1), (f"{SP}ab", 3), ("é", 2), ("ab", 2)]
)
def test_token_bytes_of_released_form(token: str, size: int) -> None:
    tokenizer = Tokenizer(released_form("metaspace"), "tiny")
    index = next(i for i in range(tokenizer.vocab_size) if tokenizer.id_to_token(i) == token)
    assert tokenizer.token_bytes()[index] == size


@thorough
@given(any_text)
def test_token_texts_add_up_to_what_is_not_spelled_in_bytes(trained: Tokenizer, text: str) -> None:
    texts, bytes_ = trained.token_texts(), set(trained.byte_ids)
    (ids,) = trained.encode_batch([text])
    plain = "".join(texts[index] for index in ids if index not in bytes_ or index - trained.byte_ids[0] < 128)
    left = iter(text)
    assert all(character in left for character in plain), "characters in their order"
    assert all(texts[index] == "" for index in trained.special_ids)


@pytest.mark.parametrize(("token", "text"), [("<0x41>", "A"), ("<0xE2>", "\ufffd"), (f"{SP}ab", " ab"), ("<mask>", "")])
def test_token_texts_of_released_form(token: str, text: str) -> None:
    tokenizer = Tokenizer(released_form("metaspace"), "tiny")
    index = next(i for i in range(tokenizer.vocab_size) if tokenizer.id_to_token(i) == token)
    assert tokenizer.token_texts()[index] == text


def test_token_texts_of_a_byte_level_tokenizer() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*GEMMA.values(), *alphabet, "\u0120a"])}
    model = tokenizers.Tokenizer(models.BPE(vocab, [("\u0120", "a")]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.add_special_tokens(list(GEMMA.values()))
    tokenizer = Tokenizer(model.to_str(), "tiny")
    (ids,) = tokenizer.encode_batch(["b a\u00e9"])
    assert [tokenizer.token_texts()[index] for index in ids] == ["b", " a", "\ufffd", "\ufffd"]


def test_byte_ids(trained: Tokenizer) -> None:
    assert trained.byte_ids == tuple(range(5, 261))
    assert trained.decode([trained.byte_ids[b] for b in "𐍈".encode()]) == "𐍈"


def test_each_byte_is_looked_for_by_itself() -> None:
    content = json.loads(released_form("gemma"))
    vocab = content["model"]["vocab"]
    vocab["\t"] = vocab.pop("<0x09>")
    vocab["[E2]"] = vocab.pop("<0xE2>")
    vocab["[C0]"] = vocab.pop("<0xC0>")
    tokenizer = Tokenizer(json.dumps(content), "tiny")
    assert (len(tokenizer.byte_ids), tokenizer.byte_ids[9]) == (256, vocab["\t"])
    assert tokenizer.byte_ids[0xE2] == tokenizer.byte_ids[0xC0] == tokenizer.unk_id
    assert tokenizer.encode_batch(["\u20ac"])[0].tolist() == [tokenizer.unk_id], "and so the library spells it"
    assert _byte_fallback(tokenizer) == "none for E2", "no UTF-8 has C0"
    assert _byte_fallback(Tokenizer(released_form("gemma"), "tiny")) is True
    content["model"]["byte_fallback"] = False
    silent = Tokenizer(json.dumps(content), "tiny")
    assert silent.byte_ids == ()
    assert _byte_fallback(silent) is False
    assert silent.token_bytes()[vocab["<0x41>"]] == len("<0x41>"), "a token like any other"


@pytest.mark.parametrize("which", ["prefixed", "metaspace"])
def test_a_space_that_was_put_has_no_characters(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which) if which == "prefixed" else Tokenizer(released_form(which), "tiny")
    ((ids, spans),) = tokenizer.encode_spans(["\u1200 \u1200"])
    assert len(ids) == 8
    assert spans.tolist() == [[0, 0], [0, 1], [0, 1], [0, 1], [1, 2], [2, 3], [2, 3], [2, 3]]


def test_specials_in_text_only_on_request(trained: Tokenizer) -> None:
    text = "born <mask> and<eos>"
    assert not {1, 4} & set(trained.encode_batch([text])[0].tolist())
    marked = trained.encode(text, specials=True)
    assert marked.count(trained.mask_id) == 1
    assert marked.count(trained.eos_id) == 2
    # the mask takes the space before it, as the word it stands for would
    bare = trained.encode("born and")
    word = trained.encode("born <mask> and", specials=True)
    assert [i for i in word if i != trained.mask_id] == bare


def test_prefix_space_puts_no_second_space_after_a_mask(prefixed: Tokenizer) -> None:
    word = prefixed.encode("born <mask> and", specials=True)
    assert [i for i in word if i != prefixed.mask_id] == prefixed.encode("born and")


def test_pack(trained: Tokenizer) -> None:
    packed = trained.pack(["free", "", "equal in dignity and rights"], max_tokens=6)
    rows = packed.unpack(packed.ids)
    assert [row[0] for row in rows] == [2, 2, 2]
    assert [row[-1] for row in rows] == [1, 1, 1]
    assert rows[0].tolist() == trained.encode("free")
    assert rows[1].tolist() == [2, 1]
    assert rows[2].tolist() == [*trained.encode("equal in dignity and rights")[:5], 1]
    assert packed.longest == 6
    assert packed.ids.dtype == np.int64
    assert trained.mask_id in trained.pack(["a <mask>"], specials=True).ids
    for wrong, limit in (([], None), ("text", None), (["text"], 1)):
        with pytest.raises(TokenizerError):
            trained.pack(wrong, max_tokens=limit)  # type: ignore[arg-type]


def test_encode_batch_of_many(trained: Tokenizer) -> None:
    rows = trained.encode_batch([f"rights {i}" for i in range(5000)])
    assert len(rows) == 5000
    assert rows[0].dtype == np.uint32
    assert trained.decode(rows[4321]) == "rights 4321"
    assert trained.encode_batch([]) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["fine", "x\ud800"], "text 1 holds a lone surrogate at character 1"),
        ([3], "text 0 is int"),
        (["fine", None], "text 1 is NoneType"),
    ],
)
def test_what_is_not_text_is_refused(trained: Tokenizer, wrong: list[Any], said: str) -> None:
    with pytest.raises(TokenizerError, match=said):
        trained.encode_batch(wrong)


def test_decode_refuses_unknown_ids(trained: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"id {trained.vocab_size} is not in the vocabulary"):
        trained.decode([5, trained.vocab_size])


def without(token: str) -> Tokenizer:
    """Gemma's form with another token in the place of a special one."""
    content = json.loads(released_form("gemma"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != token]
    content["model"]["vocab"]["[MASK]"] = content["model"]["vocab"].pop(token)
    if token == "<unk>":
        content["model"]["unk_token"] = None
    return Tokenizer(json.dumps(content), "tiny")


@pytest.mark.parametrize("missing", ["<bos>", "<eos>", "<pad>", "<unk>"])
def test_a_tokenizer_without_a_special_token_is_refused(missing: str) -> None:
    with pytest.raises(TokenizerError, match=f"has no {missing}: mmBERT needs <pad> <eos> <bos> <unk>"):
        without(missing)


def test_a_tokenizer_without_a_mask_is_of_use_but_for_masks() -> None:
    tokenizer = without("<mask>")
    assert tokenizer.specials == {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
    assert tokenizer.decode(tokenizer.encode("ab <mask>", specials=True)) == "ab <mask>"
    with pytest.raises(TokenizerError, match="tiny has no mask token: masked language modelling needs one"):
        _ = tokenizer.mask_id


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="expected a folder with"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="expected a folder with"):
        Tokenizer.load(tmp_path / "absent" / "deeper")
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        Tokenizer.load(write(tmp_path / "cut", released_form("gemma")[:500]))
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="not UTF-8 at byte 1"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_fingerprint_survives_saving_and_sees_every_change(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == trained.fingerprint
    base = json.loads(released_form("gemma"))
    known = Tokenizer(json.dumps(base), "tiny").fingerprint
    assert Tokenizer(json.dumps(dict(base, truncation=None, padding=None)), "tiny").fingerprint == known
    assert len(known) == 16
    changed: list[dict[str, Any]] = []
    for path, value in [
        (("model", "merges"), base["model"]["merges"][:-1]),
        (("model", "fuse_unk"), False),
        (("normalizer",), None),
        (("pre_tokenizer",), {"type": "Digits", "individual_digits": True}),
    ]:
        copy = json.loads(json.dumps(base))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        changed.append(copy)
    more = json.loads(json.dumps(base))
    more["model"]["vocab"]["z"] = len(more["model"]["vocab"])
    prints = {Tokenizer(json.dumps(values), "tiny").fingerprint for values in [*changed, more]}
    assert len(prints) == 5
    assert known not in prints


@pytest.mark.parametrize("which", ["trained", "prefixed", "metaspace", "gemma"])
def test_saved_folder_loads_in_transformers(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    transformers = pytest.importorskip("transformers")
    is_fixture = which in ("trained", "prefixed")
    tokenizer = request.getfixturevalue(which) if is_fixture else Tokenizer(released_form(which), "tiny")
    tokenizer.save(tmp_path, max_tokens=512)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "backend"} & set(config)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["born free, a  b\n\n12 é人🙂", "All <mask> and <mask>.", "", " a ", "<mask>"]:
        ours = tokenizer.encode(text, specials=True)
        assert theirs(text)["input_ids"] == ours
        assert plain.encode(text).ids == ours
    batch = theirs(["born free and equal", "a"], padding=True, truncation=True, max_length=6)
    assert batch["attention_mask"][1][0] == 1, "padded on the right"
    assert batch["attention_mask"][1][-1] == 0
    assert (theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id) == (4, 2, 1, 0)
    assert theirs.model_max_length == 512
    assert theirs.model_input_names == ["input_ids", "attention_mask"]
    assert len(theirs) == tokenizer.vocab_size
