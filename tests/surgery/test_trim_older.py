"""Unigram and WordPiece vocabularies with fewer tokens: text of kept tokens is cut, and computed, as before."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer import modules
from transformers import AutoTokenizer

from all_scripts import ODD
from mmbert import Embedder, MaskedLM, ModelConfig, Tokenizer
from mmbert.errors import ConfigError, TokenizerError, WeightsError
from mmbert.recipe import Merge
from mmbert.surgery.compare_tokenizers import compare
from mmbert.surgery.extend import extend
from mmbert.surgery.merge import merge
from mmbert.surgery.tokenizer_json import TokenizerJson
from mmbert.surgery.trim import count_tokens, select, trim
from mmbert.surgery.unigram import Unigram
from mmbert.surgery.wordpiece import WordPiece
from older_tokenizers import BERT, FORMS, XLMR, older_json

LETTERS = "abcdé"
KEPT = [
    "All human beings are born free and equal in dignity and rights, 1948.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
]
GONE = [
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
]


def read(content: str, **options: Any) -> TokenizerJson:
    kind = Unigram if json.loads(content)["model"]["type"] == "Unigram" else WordPiece
    return kind(content, "old", **options)


def drawn_json(form: str, seed: int) -> str:
    """A vocabulary of random tokens and scores over a few letters, some of which are no token by themselves."""
    draw = random.Random(seed)
    within = "##" if form == "wordpiece" else ""
    words = {"".join(draw.choice(LETTERS) for _ in range(draw.choice([1, 2, 2, 3, 3, 4, 5]))) for _ in range(60)}
    words |= {letter for letter in LETTERS if draw.random() < 0.7}
    starts = sorted(words) if form == "wordpiece" else ["▁", *(f"▁{word}" for word in sorted(words))]
    inner = sorted(within + word for word in words if draw.random() < 0.7)
    pieces = list(dict.fromkeys([*starts, *inner]))
    draw.shuffle(pieces)
    content = json.loads(older_json("unigram" if form == "unigram" else "wordpiece", ["a b"], size=40))
    roles = list((XLMR if form == "unigram" else BERT).values())
    if form == "unigram":
        scores = [-1.0, -6.0, -7.0, -8.0]  # ways of the same sum are common
        vocab = [[token, 0.0] for token in roles[:-1]] + [[piece, draw.choice(scores)] for piece in pieces]
        content["model"]["vocab"] = [*vocab, ["<mask>", 0.0]]
        content["added_tokens"][-1]["id"] = len(vocab)
    else:
        content["model"]["vocab"] = {token: index for index, token in enumerate([*roles, *pieces])}
        content["normalizer"]["strip_accents"] = False
    return json.dumps(content)


def drawn_texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)

    def word() -> str:
        letters = (LETTERS + "x")[: draw.choice([3, 5, 6])]  # x is never a token
        return "".join(draw.choice(letters) for _ in range(draw.randint(1, 9)))

    return [" ".join(word() for _ in range(6)) for _ in range(count)]


def same(old: Tokenizer, new: Tokenizer, kept: list[int], text: str) -> bool:
    """Whether all tokens of a text are kept; asserts that they are the same ones then."""
    place = {index: at for at, index in enumerate(kept)}
    (before,), (after,) = old.encode_batch([text]), new.encode_batch([text])
    if not all(index in place for index in before.tolist()):
        return False
    assert after.tolist() == [place[index] for index in before.tolist()], text
    return True


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(["unigram", "wordpiece"]), seed=st.integers(0, 2**32), min_count=st.integers(1, 4))
def test_text_is_cut_as_before_by_any_vocabulary(form: str, seed: int, min_count: int) -> None:
    words = read(drawn_json(form, seed))
    known = drawn_texts(seed, 4)
    counts = count_tokens(words, known)[1]
    kept = select(words, counts, min_count=min_count)
    new = Tokenizer(words.restricted(kept), "new")
    assert (new.specials, new.vocab_size) == (words.tokenizer.specials, len(kept))
    if min_count == 1:
        assert all(same(words.tokenizer, new, kept, text) for text in known), "with what is <unk>"
    for text in drawn_texts(seed + 1, 30):
        (ids,) = words.tokenizer.encode_batch([text])
        if form == "unigram" or words.tokenizer.unk_id not in ids:  # other words may have been [UNK] in other ways
            same(words.tokenizer, new, kept, text)


def test_unknown_characters_stay_as_bad_as_they_were() -> None:
    content = json.loads(drawn_json("unigram", 0))
    pieces = {"▁": -1.0, "ab": -9.0, "cd": -9.0, "ef": -9.0, "bcdef": -1.0, "zz": -50.0}
    content["model"]["vocab"][4:-1] = [list(piece) for piece in pieces.items()]
    content["added_tokens"][-1]["id"] = 4 + len(pieces)
    words = read(json.dumps(content))
    text = "abcdef bcdef"  # of the score of zz depends that <unk> is worse than two tokens more
    kept = select(words, count_tokens(words, [text])[1])
    new = Tokenizer(words.restricted(kept), "new")
    assert [new.id_to_token(index) for index in new.encode_batch([text])[0]] == ["▁", "ab", "cd", "ef", "▁", "bcdef"]
    assert same(words.tokenizer, new, kept, text)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return {form: older_json(form, [*KEPT, *GONE] * 3, size=900) for form in FORMS}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_kept(files: dict[str, str], form: str) -> None:
    words = read(files[form])
    kept = select(words, count_tokens(words, KEPT)[1])
    names = {words.tokenizer.id_to_token(index) or "" for index in kept}
    within = "" if form == "unigram" else "##"
    assert set(words.tokenizer.specials.values()) <= names
    assert {f"{within}ж", "1"} <= names, "a character that is only part of other tokens, a digit"
    new = Tokenizer(words.restricted(kept), "new")
    for text in KEPT:
        assert same(words.tokenizer, new, kept, text)
    assert not any(character in names for character in "人尊权सभ")
    others = ["дивно", "a thousand nights", "kuna watu hai"]
    for before, after in zip(words.tokenizer.encode_batch(others), new.encode_batch(others), strict=True):
        assert words.tokenizer.unk_id not in before
        assert new.unk_id not in after, "new words of the kept scripts"
    (ids,) = new.encode_batch(["人"])
    assert new.unk_id in ids


def test_room_goes_to_frequent_tokens_first(files: dict[str, str], form: str) -> None:
    words = read(files[form])
    counts = count_tokens(words, KEPT)[1]
    whole = select(words, counts)
    required = words.beside(counts, 1)[0]
    least = len(select(words, np.where(np.isin(np.arange(len(counts)), [words.ids[t] for t in required]), counts, 0)))
    with pytest.raises(ConfigError, match=r"max_tokens is 20: specials, spaces, ASCII, and bytes or the characters"):
        select(words, counts, max_tokens=20)
    for most in (least, len(whole) - 5):
        kept = select(words, counts, max_tokens=most)
        assert len(kept) == most
        gone = set(whole) - set(kept)
        frequent = [counts[index] for index in kept if words.tokenizer.id_to_token(index) not in required]
        assert all(counts[index] <= max(frequent, default=0) or counts[index] <= 1 for index in gone)
        new = Tokenizer(words.restricted(kept), "new")
        for text in KEPT:
            for word in text.split():
                same(words.tokenizer, new, kept, word)


def test_added_tokens_behind_the_vocabulary_stay_behind_it(files: dict[str, str], form: str) -> None:
    content = json.loads(files[form])
    tokens = len(content["model"]["vocab"])
    for number, name in enumerate(("<query>", "<doc>")):
        added = {**content["added_tokens"][0], "id": tokens + number, "content": name, "special": number == 0}
        content["added_tokens"].append(added)
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
                          "pad_id": tokens, "pad_type_id": 0, "pad_token": "<query>"}  # fmt: skip
    words = read(json.dumps(content))
    kept = select(words, count_tokens(words, KEPT)[1])
    new = json.loads(words.restricted(kept))
    assert [token["id"] for token in new["added_tokens"]][-2:] == [len(kept) - 2, len(kept) - 1]
    assert len(new["model"]["vocab"]) == len(kept) - 2
    assert new["padding"]["pad_id"] == len(kept) - 2
    made = Tokenizer(json.dumps(new), "new")
    assert made.encode_batch(["<doc>"])[0][-1] == len(kept) - 1
    assert made.encode_written("a").ids == made.encode("a")
    assert same(words.tokenizer, made, kept, "<query> <doc> born free")


@pytest.mark.parametrize(
    "languages", [["eng_Latn", "rus_Cyrl", "tha_Thai", "jpn_Jpan"], ["hin_Deva", "arb_Arab", "swh_Latn"]]
)
def test_real_text_is_cut_as_before(test_data: Path, form: str, languages: list[str]) -> None:
    def documents(language: str, count: int) -> list[str]:
        path = test_data / "corpus" / f"{language}.jsonl.gz"
        if not path.is_file():
            return []
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line)["text"][:3000] for line, _ in zip(lines, range(count), strict=False)]

    codes = [path.name.partition(".")[0] for path in sorted((test_data / "corpus").glob("*.jsonl.gz"))[::12]]
    every = [text for code in {*codes, *languages} for text in documents(code, 8)]
    words = read(older_json(form, every, size=8000))
    known = [*ODD, *(text for code in languages for text in documents(code, 40))]
    kept = select(words, count_tokens(words, known)[1])
    assert len(kept) < 0.9 * words.tokenizer.vocab_size
    new = Tokenizer(words.restricted(kept), "new")
    assert all(same(words.tokenizer, new, kept, text) for text in known if text)
    found = compare(words.tokenizer, new, known)
    assert (found.same, found.kept_share) == (found.documents, 1.0)


def save_student(folder: Path, words: Tokenizer, rows: int) -> MaskedLM:
    """A masked language model for a tokenizer, whose embedding has more rows."""
    torch.manual_seed(0)
    shape = ModelConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2, max_context=128,
        initializer_range=0.3, **{f"{role}_id": index for role, index in words.role_ids.items()},
    )  # fmt: skip
    model = MaskedLM(shape).eval()
    model.save(folder)
    words.save(folder, max_tokens=128, as_written=True)
    return model


def save_sentence_model(folder: Path, student: Path) -> Any:
    """A folder of sentence-transformers with pooling, a dense layer and prompts around a student."""
    transformer = modules.Transformer(str(student), max_seq_length=100)
    parts = [transformer, modules.Pooling(32, "mean"), modules.Dense(32, 16), modules.Normalize()]
    made = sentence_transformers.SentenceTransformer(modules=parts, prompts={"query": "quatsch: "}, device="cpu")
    made.save(str(folder), create_model_card=False)
    return made


def check_trimmed(old: Path, new: Path, texts: list[str]) -> None:
    """Vectors are equal in sentence-transformers and here; ids and roles are those of the files."""
    theirs = [sentence_transformers.SentenceTransformer(str(folder), device="cpu") for folder in (old, new)]
    ours = [Embedder.load(folder, precision="fp32", device="cpu") for folder in (old, new)]
    for prompt in (None, "query"):
        before, after = (model.encode(texts, prompt_name=prompt) for model in theirs)
        np.testing.assert_allclose((before * after).sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(after, before, atol=1e-6)
        np.testing.assert_allclose(ours[1].encode(texts, prompt_name=prompt), before, atol=1e-5)
    words, config = ours[1].loaded.tokenizer, json.loads((new / "config.json").read_text())
    assert words.specials == ours[0].loaded.tokenizer.specials
    assert {role: config[f"{role}_token_id"] for role in words.role_ids} == words.role_ids
    assert (config["cls_token_id"], config["sep_token_id"]) == (words.bos_id, words.eos_id)
    assert config["vocab_size"] == words.vocab_size
    reader = AutoTokenizer.from_pretrained(new)
    assert all(reader(text)["input_ids"] == words.encode(text, specials=True) for text in [*texts, *ODD])
    assert reader("a", "b")["input_ids"] == words.encode_written("a", "b").ids
    joined = [model.loaded.tokenizer.encode_written("a", "b").tokens for model in ours]
    before, after = ([token for token in row if token in words.specials.values()] for row in joined)
    assert before == after


def test_a_sentence_transformers_folder_keeps_its_vectors(files: dict[str, str], form: str, tmp_path: Path) -> None:
    words = Tokenizer(files[form], form)
    old = save_student(tmp_path / "student", words, words.vocab_size + 7)
    save_sentence_model(tmp_path / "old", tmp_path / "student")
    report = trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert report.after.tokens < report.before.tokens - 50
    assert report.covered == report.tokens
    check_trimmed(tmp_path / "old", tmp_path / "new", KEPT)
    for module in ("1_Pooling", "2_Dense"):
        for path in (tmp_path / "old" / module).iterdir():
            assert path.read_bytes() == (tmp_path / "new" / module / path.name).read_bytes()
    trim(tmp_path / "student", KEPT, tmp_path / "less")
    less, after = MaskedLM.load(tmp_path / "less").eval(), Tokenizer.load(tmp_path / "less")
    kept = [words.written.token_to_id(after.id_to_token(index)) for index in range(after.vocab_size)]
    with torch.no_grad():
        packs = [each.pack(KEPT).to() for each in (words, after)]
        assert torch.equal(old.encode(packs[0]), less.encode(packs[1]))
        torch.testing.assert_close(less.logits(packs[1]), old.logits(packs[0])[:, kept], rtol=0, atol=1e-5)


def test_special_tokens_by_other_names_stay(files: dict[str, str], tmp_path: Path) -> None:
    content = files["wordpiece"].replace("[CLS]", "<start>").replace("[PAD]", "<blank>").replace("[MASK]", "<hole>")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "tokenizer.json").write_text(content)
    roles = {"pad_token": "<blank>", "cls_token": "<start>", "mask_token": "<hole>"}
    (tmp_path / "named" / "tokenizer_config.json").write_text(json.dumps(roles))
    words = Tokenizer.load(tmp_path / "named")
    save_student(tmp_path / "old", words, words.vocab_size)
    trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert Tokenizer.load(tmp_path / "new").specials == words.specials


def test_what_cannot_be_changed_is_named(files: dict[str, str], form: str, tmp_path: Path) -> None:
    words = Tokenizer(files[form], form)
    save_student(tmp_path / "old", words, words.vocab_size)
    kind = "Unigram" if form == "unigram" else "WordPiece"
    with pytest.raises(TokenizerError, match=f"is no BPE but {kind}, to which no tokens can be added"):
        extend(tmp_path / "old", GONE, tmp_path / "new", tokens=10)
    content = json.loads(files[form])
    if form == "unigram":
        with pytest.raises(TokenizerError, match=r"old: nbest_size is 5, which is not supported"):
            read(json.dumps({**content, "model": {**content["model"], "nbest_size": 5}}))
        tokens = [token for token, _ in content["model"]["vocab"]]
        content["model"] = {
            "type": "WordLevel",
            "vocab": dict(zip(tokens, range(10**6), strict=False)),
            "unk_token": "<unk>",
        }
        (tmp_path / "old" / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match="kind WordLevel: only BPE, Unigram, WordPiece can be changed"):
            trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_models_with_the_same_tokenizer_are_merged(files: dict[str, str], form: str, tmp_path: Path) -> None:
    words = Tokenizer(files[form], form)
    for name, seed in (("base", 0), ("one", 1), ("two", 2)):
        model = save_student(tmp_path / name, words, words.vocab_size)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += seed * 0.01 * torch.randn_like(parameter)
        model.save(tmp_path / name)
        words.save(tmp_path / name, max_tokens=128, as_written=True)
    variants = {"phase_one": [tmp_path / "one"], "phase_two": [tmp_path / "two"]}
    merge(Merge(phases=dict.fromkeys(variants, 1.0), base="base"), variants, tmp_path / "base", tmp_path / "merged")
    assert Tokenizer.load(tmp_path / "merged").fingerprint == words.fingerprint
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "kept.json")
    other = Tokenizer(older_json(form, KEPT * 3, size=300), "other")
    save_student(tmp_path / "two", other, words.vocab_size)
    shutil.copy(tmp_path / "kept.json", tmp_path / "two" / "config.json")
    with pytest.raises(WeightsError, match="have different tokenizers"):
        merge(Merge(phases=dict.fromkeys(variants, 1.0), base="base"), variants, tmp_path / "base", tmp_path / "no")


def test_a_student_with_the_tokenizer_of_e5(e5: Path, tmp_path: Path) -> None:
    words = Tokenizer.load(e5)
    save_student(tmp_path / "student", words, 250_037)
    save_sentence_model(tmp_path / "old", tmp_path / "student")
    report = trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert (report.before.tokens, report.covered) == (250_037, report.tokens)
    assert report.after.tokens < 4000
    check_trimmed(tmp_path / "old", tmp_path / "new", KEPT)
    with pytest.raises(ConfigError, match="max_tokens is 100"):
        trim(tmp_path / "old", KEPT, tmp_path / "none", max_tokens=100)
    assert trim(tmp_path / "old", KEPT, tmp_path / "few", max_tokens=300).after.tokens == 300
