"""A trimmed model computes the same for the text whose tokens it kept, in whatever form it is saved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from little_vocabulary import FORMS, save_model, text, tokenizer_json
from safetensors.torch import load_file, save_file

from mmbert.errors import ConfigError, DataError, TokenizerError, WeightsError
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.surgery.bpe import Bpe
from mmbert.surgery.compare_tokenizers import compare
from mmbert.surgery.tensor_files import INDEX
from mmbert.surgery.trim import count_tokens, select, trim
from mmbert.tokenizer.tokenizer import Tokenizer

TEXTS = [text(seed, letters="abc") for seed in range(6)]


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    seed=st.integers(0, 2**32),
    min_count=st.integers(1, 4),
    max_tokens=st.none() | st.integers(310, 340),
)
def test_text_of_kept_tokens_is_cut_as_before(form: str, seed: int, min_count: int, max_tokens: int | None) -> None:
    bpe = Bpe(tokenizer_json(form, seed), "old")
    known = [text(seed + k, words=6) for k in range(4)]
    _, counts = count_tokens(bpe, known)
    kept = select(bpe, counts, min_count=min_count, max_tokens=max_tokens)
    new = Tokenizer(bpe.restricted(kept), "new")
    assert new.vocab_size == len(kept) <= (max_tokens or len(bpe.ids))
    place = {old: index for index, old in enumerate(kept)}
    names = [bpe.tokenizer.id_to_token(index) or "" for index in kept]
    letters = [name.replace("▁", " ") for name in names if set(name) <= set("▁ abcdé")]
    other = [text(seed + 99 + k, words=3) for k in range(10)]
    # words put together from kept tokens: where dropped merges would compete
    other += ["".join(letters[(seed + 7 * k + 13 * n * n) % len(letters)] for n in range(1 + k % 4)) for k in range(25)]
    whole = [known[0], *other, "naïve 日本 🙂 \n\n\n 42!", "<mask> is no mask"]
    same = 0
    for old_ids, new_ids, sentence in zip(
        bpe.tokenizer.encode_batch(whole), new.encode_batch(whole), whole, strict=True
    ):
        assert new.decode(new_ids) == bpe.tokenizer.decode(old_ids), "whatever is gone, the text comes back"
        if all(index in place for index in old_ids.tolist()):
            assert new_ids.tolist() == [place[index] for index in old_ids.tolist()], sentence
            same += 1
    assert same
    found = compare(bpe.tokenizer, new, other)
    assert found.kept == sum(index in place for ids in bpe.tokenizer.encode_batch(other) for index in ids.tolist())
    if min_count == 1 and max_tokens is None:
        found = compare(bpe.tokenizer, new, known)
        assert (found.same, found.before) == (found.documents, found.after)


def test_what_a_token_is_made_of_is_kept() -> None:
    content = json.loads(tokenizer_json("ours", 0, merges=0))
    for token in ("é" + "a", "b" + "é", "béa"):
        content["model"]["vocab"][token] = len(content["model"]["vocab"])
    content["model"]["merges"] = [["é", "a"], ["b", "éa"], ["b", "é"]]
    bpe = Bpe(json.dumps(content), "old")
    _, counts = count_tokens(bpe, ["béa"])
    kept = {bpe.tokenizer.id_to_token(index) for index in select(bpe, counts)}
    assert {"béa", "éa", "é"} <= kept
    assert "bé" not in kept, "that merge loses against the other"
    _, counts = count_tokens(bpe, ["bbb"])
    kept = {bpe.tokenizer.id_to_token(index) for index in select(bpe, counts)}
    assert "é" not in kept
    assert {"a", "0", " ", "\n\n", "<0xC3>", "<mask>"} <= kept


def test_most_frequent_first() -> None:
    bpe = Bpe(tokenizer_json("ours", 5, merges=0), "old")
    _, counts = count_tokens(bpe, ["é"])
    least = len(select(bpe, np.zeros_like(counts)))
    assert len(select(bpe, counts, max_tokens=least + 1)) == least + 1
    assert len(select(bpe, counts, max_tokens=least)) == least
    with pytest.raises(ConfigError, match=f"alone are {least}"):
        select(bpe, counts, max_tokens=least - 1)


@pytest.mark.parametrize(("form", "rows"), [("ours", None), ("metaspace", None), ("gemma", 512)])
def test_vectors_and_logits_are_the_same(tmp_path: Path, form: str, rows: int | None) -> None:
    old = save_model(tmp_path / "old", tokenizer_json(form, 7), rows=rows).eval()
    report = trim(tmp_path / "old", TEXTS, tmp_path / "new")
    new = MaskedLM.load(tmp_path / "new").eval()
    before, after = Tokenizer.load(tmp_path / "old"), Tokenizer.load(tmp_path / "new")
    assert after.vocab_size == new.config.vocab_size == report.after.tokens < before.vocab_size <= report.before.tokens
    assert report.covered == report.tokens
    assert after.special_ids[:5] == (0, 1, 2, 3, 4)
    kept = [before._marked.token_to_id(after.id_to_token(index)) for index in range(after.vocab_size)]
    assert kept == sorted(kept)
    packs = [tokenizer.pack(TEXTS).to() for tokenizer in (before, after)]
    assert not torch.equal(packs[0].ids, packs[1].ids)
    with torch.no_grad():
        vectors = [model.encode(pack) for model, pack in zip((old, new), packs, strict=True)]
        assert torch.equal(*vectors)
        torch.testing.assert_close(new.logits(packs[1]), old.logits(packs[0])[:, kept], rtol=0, atol=1e-6)
    assert report.after.parameters == sum(value.numel() for value in new.parameters())
    assert report.before.parameters == sum(value.numel() for value in old.parameters())
    assert report.after.file_bytes == (tmp_path / "new" / "model.safetensors").stat().st_size
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert {key: value["content"] for key, value in config["added_tokens_decoder"].items()} == {
        str(after._marked.token_to_id(token)): token for token in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n",
                                                                   "\n\n")
    }  # fmt: skip


def test_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    save_model(tmp_path / "old", tokenizer_json("metaspace", 8))
    trim(tmp_path / "old", TEXTS, tmp_path / "new")
    results = []
    for name in ("old", "new"):
        words = AutoTokenizer.from_pretrained(tmp_path / name)
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / name, attn_implementation="eager").eval()
        with torch.no_grad():
            ids = words(TEXTS[0], return_tensors="pt").input_ids
            results.append(
                (words.convert_ids_to_tokens(ids[0]), model.model(ids).last_hidden_state, words.mask_token_id)
            )
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2] == 4


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_sentence_transformers_folder(tmp_path: Path, inner: str) -> None:
    root = tmp_path / "old"
    model = save_model(root / inner, tokenizer_json("metaspace", 9))
    plain = {name.removeprefix("model."): value for name, value in model.state_dict().items() if "model." in name}
    save_file(plain, root / inner / "model.safetensors")  # an encoder alone, without the prefix
    modules = [("Transformer", inner), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    (root / "modules.json").write_text(
        json.dumps([{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
                    for n, (kind, path) in enumerate(modules)])
    )  # fmt: skip
    for _, path in modules[1:3]:
        (root / path).mkdir()
        (root / path / "config.json").write_text('{"in_features": 32}')
    save_file({"linear.weight": torch.eye(32)}, root / "2_Dense" / "model.safetensors")
    (root / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "cosine"}')
    (root / "onnx").mkdir()
    (root / "onnx" / "model.onnx").write_text("stale")
    (root / inner / "tokenizer.model").write_text("stale")
    report = trim(root, TEXTS, tmp_path / "new")
    new = tmp_path / "new"
    assert {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()} == {
        "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json",
        "2_Dense/model.safetensors",
        *((Path(inner) / name).as_posix() for name in ("config.json", "model.safetensors", "tokenizer.json",
                                                       "tokenizer_config.json")),
    }  # fmt: skip
    assert (new / "2_Dense" / "model.safetensors").read_bytes() == (root / "2_Dense/model.safetensors").read_bytes()
    weights = load_file(new / inner / "model.safetensors")
    assert weights.keys() == plain.keys()
    assert len(weights["embeddings.tok_embeddings.weight"]) == report.after.tokens
    packs = [Tokenizer.load(folder / inner).pack(TEXTS).to() for folder in (root, new)]
    with torch.no_grad():
        assert torch.equal(*(Encoder.load(f / inner).eval()(pack) for f, pack in zip((root, new), packs, strict=True)))


def test_classification_head_in_several_files(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    model = save_model(folder, tokenizer_json("gemma", 10))
    state = {name: value.detach() for name, value in model.state_dict().items() if not name.startswith("decoder")}
    state |= {"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.randn(3)}
    state = {name: value.to(torch.bfloat16) for name, value in state.items()}
    (folder / "model.safetensors").unlink()
    half = len(state) // 2
    parts = {"model-1.safetensors": list(state)[:half], "model-2.safetensors": list(state)[half:]}
    for file, names in parts.items():
        save_file({name: state[name].contiguous() for name in names}, folder / file)
    places = {name: file for file, names in parts.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["ModernBertForSequenceClassification"], "num_labels": 3}
    (folder / "config.json").write_text(json.dumps(config))
    trim(folder, TEXTS, tmp_path / "new")
    new = load_file(tmp_path / "new" / "model.safetensors")
    assert new.keys() == state.keys()
    embedding = "model.embeddings.tok_embeddings.weight"
    assert all(torch.equal(new[name], state[name]) for name in state if name != embedding)
    before, after = Tokenizer.load(folder), Tokenizer.load(tmp_path / "new")
    kept = [before._marked.token_to_id(after.id_to_token(index)) for index in range(after.vocab_size)]
    assert torch.equal(new[embedding], state[embedding][kept])
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {**config, "vocab_size": len(kept)}
    assert not (tmp_path / "new" / INDEX).exists()


def test_a_stored_decoder_that_is_the_embedding_is_left_out(tmp_path: Path) -> None:
    old = save_model(tmp_path / "old", tokenizer_json("ours", 11))
    state = {name: value.detach().clone() for name, value in old.state_dict().items()}
    save_file(state, tmp_path / "old" / "model.safetensors")
    report = trim(tmp_path / "old", TEXTS, tmp_path / "new")
    assert report.before.parameters == sum(value.numel() for value in old.parameters())
    assert "decoder.weight" not in load_file(tmp_path / "new" / "model.safetensors")
    MaskedLM.load(tmp_path / "new")


def test_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    content = tokenizer_json("ours", 12)
    save_model(folder, content)
    with pytest.raises(DataError, match="no text to trim by"):
        trim(folder, ["", ""], tmp_path / "new")
    with pytest.raises(WeightsError, match="another folder"):
        trim(folder, TEXTS, folder)
    with pytest.raises(WeightsError, match="no such model folder"):
        trim(tmp_path / "nowhere" / "here", TEXTS, tmp_path / "new")
    (folder / "tokenizer.json").write_text(Bpe(content, "old").extended(["one", "two"], []))
    with pytest.raises(WeightsError, match="the embedding"):
        trim(folder, TEXTS, tmp_path / "new")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        trim(folder, TEXTS, tmp_path / "new")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        trim(folder, TEXTS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


PEAK = """
import resource, sys
from pathlib import Path
from mmbert.surgery.trim import trim
def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
folder = Path(sys.argv[1])
trim(folder / "small", ["abc"], folder / "out")
before = used()
trim(folder / "large", ["abc"], folder / "out")
print(used() - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    for name, rows in (("small", 600), ("large", 500_000)):  # 64 MB of embedding
        save_model(tmp_path / name, tokenizer_json("ours", 13), rows=rows)
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10, f"{done.stdout} MB more for the larger model"


def test_ids_in_configurations_follow_or_go(tmp_path: Path) -> None:
    save_model(tmp_path / "old", tokenizer_json("ours", 14))
    old = Tokenizer.load(tmp_path / "old")
    named = {old.id_to_token(index): index for index in range(old.vocab_size)}
    gone, kept = named["é"], named["."]
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config |= {
        "eos_token_id": [1, kept, gone], "forced_eos_token_id": kept, "forced_bos_token_id": gone, "image_token_id": -1,
        "keep_only_token_ids": [gone], "suppress_tokens": [kept, gone], "bad_words_ids": [[kept], [kept, gone]],
        "forced_decoder_ids": [[1, gone]], "inner": {"pad_token_id": float(kept), "eos_token_id": True},
        "id2label": {"0": "token_id"}, "max_new_tokens": gone, "type_vocab_size": gone,
    }  # fmt: skip
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    (tmp_path / "old" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, gone, kept]}))
    (tmp_path / "old" / "special_tokens_map.json").write_text('{ "sep_token": {"content":  "7"} }')
    (tmp_path / "old" / "added_tokens.json").write_text(json.dumps({"<mask>": 4, "nowhere": gone, ".": kept}))
    trim(tmp_path / "old", ["abc."], tmp_path / "new")
    new = Tokenizer.load(tmp_path / "new")
    assert "é" not in {new.id_to_token(index) for index in range(new.vocab_size)}
    moved = next(index for index in range(new.vocab_size) if new.id_to_token(index) == ".")
    assert moved != kept
    read = {path.name: json.loads(path.read_text()) for path in (tmp_path / "new").glob("*.json")}
    assert read["config.json"] == config | {
        "vocab_size": new.vocab_size, "eos_token_id": [1, moved], "forced_eos_token_id": moved,
        "forced_bos_token_id": None, "image_token_id": None, "keep_only_token_ids": None, "suppress_tokens": [moved],
        "bad_words_ids": [[moved]], "forced_decoder_ids": None, "inner": {"pad_token_id": moved, "eos_token_id": True},
    }  # fmt: skip
    assert read["generation_config.json"] == {"eos_token_id": [1, moved]}
    assert read["added_tokens.json"] == {"<mask>": 4, ".": moved}
    for name in ("old", "new"):
        assert (tmp_path / name / "special_tokens_map.json").read_text() == '{ "sep_token": {"content":  "7"} }'


def test_ids_in_modules_follow(tmp_path: Path) -> None:
    save_model(tmp_path / "old", tokenizer_json("ours", 15))
    kept = Bpe.load(tmp_path / "old").ids["."]
    modules = [("Transformer", ""), ("MultiVectorMask", "1_Mask")]
    (tmp_path / "old" / "modules.json").write_text(
        json.dumps([{"idx": n, "name": str(n), "path": path, "type": f"st.models.{kind}"}
                    for n, (kind, path) in enumerate(modules)])
    )  # fmt: skip
    (tmp_path / "old" / "1_Mask").mkdir()
    (tmp_path / "old" / "1_Mask" / "config.json").write_text(json.dumps({"keep_only_token_ids": [4, kept]}))
    trim(tmp_path / "old", ["abc."], tmp_path / "new")
    ids = json.loads((tmp_path / "new" / "1_Mask" / "config.json").read_text())["keep_only_token_ids"]
    assert ids == [4, Bpe.load(tmp_path / "new").ids["."]] != [4, kept]
