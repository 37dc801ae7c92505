"""GGUF files: read by the package gguf, tokenised as llama.cpp does, and run by llama.cpp where it is installed."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
from export_models import save_masked_lm, save_task
from llama_file import RANK, LlamaFile

import mmbert
from mmbert.errors import ConfigError, MissingExtra, MMBertError, WeightsError
from mmbert.exporting.export import ExportReport
from mmbert.exporting.gguf_vocab import UNUSED, has_mask, read_ids, vocabulary
from mmbert.exporting.texts import TEXTS
from mmbert.model.tasks import SequenceClassifier, TokenClassifier
from mmbert.tokenizer.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")

DTYPES = ("f32", "f16", "q8_0")
PLAIN = [text for text in TEXTS if not has_mask(text)]
SPACED = ["two  spaces", "and   three of them", "at the end ", "a tab\tand\t\ttwo", "1 23  456", "a\nb\n\nc", "a▁b"]


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.fixture(scope="module")
def exported(masked_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    out = tmp_path_factory.mktemp("gguf") / "out"
    prompts = {"query": "query: ", "none": ""}
    return mmbert.export(masked_lm, out, format="gguf", dtypes=DTYPES, normalize=True, prompts=prompts, pooling="first")


def test_keys_and_numbers(exported: Any, masked_lm: Path, tokenizer: Tokenizer) -> None:
    values = metadata(exported.out / "model-q8_0.gguf")
    wanted = {
        "general.architecture": "modern-bert", "general.file_type": 7, "modern-bert.pooling_type": 2,
        "modern-bert.context_length": 512, "modern-bert.block_count": 2, "modern-bert.embedding_length": 32,
        "modern-bert.feed_forward_length": 48, "modern-bert.attention.head_count": 2,
        "modern-bert.attention.causal": False, "modern-bert.attention.sliding_window": 32,
        "modern-bert.attention.sliding_window_pattern": 3, "modern-bert.rope.freq_base": 160_000.0,
        "modern-bert.rope.freq_base_swa": 10_000.0, "mmbert.prompt.query": "query: ", "mmbert.normalize": True,
        "mmbert.similarity": "cosine", "tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.mask_token_id": 4,
    }  # fmt: skip
    assert {key: values[key] for key in wanted} == wanted
    assert "mmbert.prompt.none" not in values
    assert len(values["tokenizer.ggml.tokens"]) == tokenizer.vocab_size
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(exported.out / "model-q8_0.gguf").tensors}
    assert {tensor.tensor_type.name for tensor in tensors.values()} == {"F32", "Q8_0"}
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == "F32", "48 is no multiple of 32"
    assert "blk.0.attn_norm.weight" not in tensors
    state = safetensors.torch.load_file(masked_lm / "model.safetensors")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(exported.out / "model-f32.gguf").tensors}
    assert len(found) == 14
    np.testing.assert_array_equal(found["blk.1.attn_qkv.weight"], state["model.layers.1.attn.Wqkv.weight"])


def test_our_classes_say_whose_files_they_are(exported: Any) -> None:
    with pytest.raises(
        WeightsError, match=r"no config\.json in .*: its \.gguf files are for llama\.cpp; load the model"
    ):
        mmbert.Embedder.load(exported.out)


def test_report(exported: Any) -> None:
    assert set(exported.checks) == set(exported.sizes) == {f"model-{dtype}.gguf" for dtype in DTYPES}
    f32, f16, q8 = (exported.checks[f"model-{dtype}.gguf"] for dtype in DTYPES)
    assert f32.difference == 0 < f16.difference < q8.difference
    assert 1 > f16.cosine > q8.cosine > 0.99
    assert exported.sizes["model-f32.gguf"] > exported.sizes["model-f16.gguf"] > exported.sizes["model-q8_0.gguf"]
    assert json.loads((exported.out / "export.json").read_text())["output"] == "embedding"


def corpus(folder: Path) -> list[str]:
    found = []
    for path in sorted((folder / "corpus").glob("*.jsonl.gz"))[::9]:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found += [json.loads(next(lines))["text"][:500] for _ in range(2)]
    return found


@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_real_tokenizers(form: str, real_models: dict[str, Path], test_data: Path) -> None:
    """The ids of real text in many scripts; of spaces too, but for one at the beginning in the released form."""
    tokenizer = Tokenizer.load(real_models[form])
    values = vocabulary(tokenizer, tokenizer.vocab_size + 3)
    assert values["tokenizer.ggml.model"] == {"gemma2": "gemma4", "released": "llama"}[form]
    assert values["tokenizer.ggml.token_type"][-3:] == [UNUSED] * 3
    texts = [*corpus(test_data), *PLAIN, *SPACED[:-1]]
    assert read_ids(values, texts) == [ids.tolist() for ids in tokenizer.encode_batch(texts, specials=True)]


def test_trained_tokenizer(tokenizer: Tokenizer, test_data: Path) -> None:
    """The ids of our own form; a line break before a word and a true ▁ are the exceptions."""
    values = vocabulary(tokenizer, tokenizer.vocab_size)
    texts = [" ".join(text.split()) for text in corpus(test_data)] + PLAIN
    texts = [text for text in texts if "▁" not in text]
    assert read_ids(values, texts) == [ids.tolist() for ids in tokenizer.encode_batch(texts, specials=True)]


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    return Tokenizer(json.dumps({**json.loads(tokenizer.written.to_str()), **parts}), "here")


def test_tokenizers_that_are_refused(tokenizer: Tokenizer) -> None:
    nfkc = changed(tokenizer, normalizer={"type": "NFKC"})
    with pytest.raises(ConfigError, match="here has a normalizer that changes more than spaces: no vocabulary of"):
        vocabulary(nfkc, nfkc.vocab_size)
    model = json.loads(tokenizer.written.to_str())["model"]
    bare = changed(tokenizer, model={**model, "byte_fallback": False})
    with pytest.raises(ConfigError, match="here has no byte fallback"):
        vocabulary(bare, bare.vocab_size)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    signed = {
        **model,
        "vocab": {token.replace(" ", "▁"): index for token, index in model["vocab"].items()},
        "merges": [[part.replace(" ", "▁") for part in pair] for pair in model["merges"]],
    }
    trained = changed(tokenizer, pre_tokenizer=metaspace, model=signed)
    with pytest.raises(ConfigError, match=r"here puts a space before every text, .* cannot say its merges \("):
        vocabulary(trained, trained.vocab_size)
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram([(t, 0.0) for t in ("<unk>", "a")], 0, False))
    unigram.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    with pytest.raises(ConfigError, match="here is no BPE"):
        vocabulary(Tokenizer(unigram.to_str(), "here"), 6)


def test_models_that_are_refused(masked_lm: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def refused(model: Path, **options: Any) -> str:
        with pytest.raises(MMBertError) as caught:
            mmbert.export(model, tmp_path / "out", format="gguf", **options)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "by mean, first or last token, not by max" in refused(masked_lm, pooling="max")
    assert "not by cls, mean" in refused(masked_lm, pooling=["first", "mean"])
    assert "dtype 'q4_0' is none of f32, f16, q8_0" in refused(masked_lm, dtypes=["q4_0"])
    assert "q8_0: the smallest cosine to fp32 is 0.9" in refused(masked_lm, dtypes=["q8_0"], quality=1.0)
    tags = save_task(tmp_path / "tags", tokenizer, TokenClassifier, ["O", "B-X"])
    assert "llama.cpp does not compute the head" in refused(tags, output="logits")
    scaled = save_masked_lm(tmp_path / "scaled", tokenizer)
    values = json.loads((scaled / "config.json").read_text())
    values["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 2.0}
    (scaled / "config.json").write_text(json.dumps(values))
    assert "has a scaled RoPE" in refused(scaled)


def test_without_the_package(masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"gguf is not installed: pip install 'mmbert\[gguf\]'"):
        mmbert.export(masked_lm, tmp_path / "out", format="gguf")


@pytest.fixture
def llama() -> Any:
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python, the oracle, is not installed")


@pytest.mark.usefixtures("llama")
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_llama_cpp_gives_the_same_vectors(pooling: str, masked_lm: Path, tmp_path: Path) -> None:
    mmbert.export(masked_lm, tmp_path / "out", format="gguf", dtypes=["f32", "q8_0"], pooling=pooling)
    embedder = mmbert.Embedder.load(masked_lm, precision="plain", pooling=pooling)
    wanted = np.asarray(embedder(PLAIN))
    for dtype, least in (("f32", 0.9999), ("q8_0", 0.99)):
        file = LlamaFile(tmp_path / "out" / f"model-{dtype}.gguf")
        assert [file.ids(text) for text in PLAIN] == [
            embedder.loaded.tokenizer.encode(text, specials=True) for text in PLAIN
        ]
        found = np.array([file.outputs(file.ids(text)) for text in PLAIN])
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        assert (found * wanted).sum(axis=1).min() > least


@pytest.mark.usefixtures("llama")
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_llama_cpp_computes_a_head(pooling: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    labels = ["good", "bad", "neither"]
    folder = save_task(tmp_path / "model", tokenizer, SequenceClassifier, labels, pooling=pooling)
    report = mmbert.export(folder, tmp_path / "out", format="gguf", dtypes=["f32"])
    assert report.output == "logits"
    file = LlamaFile(tmp_path / "out" / "model-f32.gguf")
    assert file.pooling == RANK
    assert metadata(tmp_path / "out" / "model-f32.gguf")["modern-bert.classifier.output_labels"] == labels
    import transformers

    theirs = transformers.ModernBertForSequenceClassification.from_pretrained(folder).eval()
    for text in PLAIN[:6]:
        ids = tokenizer.encode(text)
        with torch.inference_mode():
            wanted = theirs(input_ids=torch.tensor([ids])).logits[0].numpy()
        # llama.cpp's GELU is the tanh form, from a table in fp16
        np.testing.assert_allclose(file.outputs(ids), wanted, rtol=0, atol=0.01 * np.abs(wanted).max() + 0.005)


@pytest.mark.usefixtures("llama")
@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_llama_cpp_reads_real_tokenizers(
    form: str, real_models: dict[str, Path], test_data: Path, tmp_path: Path
) -> None:
    mmbert.export(real_models[form], tmp_path / "out", format="gguf", texts=["Wote wamezaliwa huru."])
    tokenizer, file = Tokenizer.load(real_models[form]), LlamaFile(tmp_path / "out" / "model-f16.gguf")
    for text in [*corpus(test_data), *SPACED]:
        assert file.ids(text) == tokenizer.encode(text, specials=True), text
