"""Folders for sentence-transformers and transformers: their vectors, the keys that servers want, what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import tokenizers
import torch
import transformers
from export_models import save_masked_lm, save_task
from tokenizers.processors import TemplateProcessing

import mmbert
from mmbert import cpu
from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.exporting import export as exporting
from mmbert.exporting.compare import Agreement, compare
from mmbert.exporting.plain import write_config
from mmbert.exporting.sentence import write_modules
from mmbert.exporting.source import Source
from mmbert.exporting.texts import TEXTS
from mmbert.inference.pooling import Pooling
from mmbert.inference.sentence_transformers_folder import Dense, Normalize
from mmbert.model.tasks import SequenceClassifier, TokenClassifier
from mmbert.model.weights import load_state, save_state
from mmbert.tokenizer.tokenizer import Tokenizer

PROMPTS = {"query": "query: ", "document": "", "title": "title: "}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def theirs(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu", model_kwargs=options)


@pytest.fixture(scope="module")
def sentence(masked_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "sentence"
    report = mmbert.export(
        masked_lm, out, format="sentence-transformers", pooling=["first", "mean"], normalize=True, prompts=PROMPTS,
        similarity="dot", max_tokens=128,
    )  # fmt: skip
    assert (report.output, list(report.sizes)) == ("embedding", ["model.safetensors"])
    assert report.checks["model.safetensors"].difference < 1e-6
    return out


def test_sentence_transformers_computes_the_same(sentence: Path, masked_lm: Path) -> None:
    model = theirs(sentence)
    assert (model.similarity_fn_name, model.max_seq_length) == ("dot", 128)
    source = mmbert.Embedder.load(masked_lm, precision="plain", pooling=["first", "mean"], max_tokens=128)
    for name, prompt in PROMPTS.items():
        vectors = model.encode(list(TEXTS), prompt_name=name, batch_size=4)
        np.testing.assert_allclose(vectors, source(list(TEXTS), prompt=prompt), rtol=0, atol=2e-5)
        ours = mmbert.Embedder.load(sentence, precision="plain")
        np.testing.assert_allclose(ours(list(TEXTS), prompt=name, normalize=False), vectors, rtol=0, atol=2e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_keys_of_servers_and_older_versions(sentence: Path) -> None:
    """text-embeddings-inference and vLLM fail, or compute otherwise, without these; so does version 5."""
    config = read(sentence / "config.json")
    assert config["architectures"] == ["ModernBertModel"]
    assert (config["global_rope_theta"], config["local_rope_theta"], config["global_attn_every_n_layers"]) == (
        160_000.0, 10_000.0, 3)  # fmt: skip
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert not any(name.startswith("model.") for name in load_state(sentence))
    pooling = read(sentence / "1_Pooling" / "config.json")
    assert pooling["pooling_mode_cls_token"] is pooling["pooling_mode_mean_tokens"] is True
    assert pooling["pooling_mode_max_tokens"] is False
    assert pooling["word_embedding_dimension"] == 32
    assert read(sentence / "sentence_bert_config.json") == {"max_seq_length": 128, "do_lower_case": False}
    kinds = [module["type"] for module in read(sentence / "modules.json")]
    assert kinds == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert read(sentence / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    modes = {(sentence / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1, "the weights are as readable as the rest"


def test_again_from_its_own(sentence: Path, tmp_path: Path) -> None:
    """What a folder says is kept, but for what is asked for; an earlier export may be written over."""
    for normalize, count in ((None, 3), (False, 2)):
        mmbert.export(sentence, tmp_path / "again", format="sentence-transformers", normalize=normalize)
        assert len(read(tmp_path / "again" / "modules.json")) == count
        settings = read(tmp_path / "again" / "config_sentence_transformers.json")
        assert (settings["prompts"], settings["similarity_fn_name"]) == (PROMPTS, "dot")
        assert read(tmp_path / "again" / "1_Pooling" / "config.json")["pooling_mode_cls_token"] is True


def test_dense_and_layers(masked_lm: Path, tmp_path: Path) -> None:
    source = Source.load(masked_lm)
    torch.manual_seed(0)
    dense = Dense(torch.nn.Linear(32, 8), torch.nn.Tanh(), None).requires_grad_(False)
    source = replace(source, pooling=Pooling(("mean",), True, (1.0, 2.0, 0.0)), after=(dense, Normalize()))
    folder = tmp_path / "made"
    folder.mkdir()
    exporting.write_plain(source, folder, head=False)
    write_modules(source, folder)
    mmbert.export(folder, tmp_path / "out", format="sentence-transformers")
    vectors = theirs(tmp_path / "out").encode(list(TEXTS))
    ours = mmbert.Embedder.load(folder, precision="plain")(list(TEXTS))
    assert vectors.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(vectors, ours, rtol=0, atol=2e-5)

    for change, message in (
        ({"pooling": Pooling(("mean",), True, (1.0, 2.0, 1.0))}, "transformers 4 takes before its norm"),
        ({"pooling": Pooling(("mean", "cls"))}, "pooling mean, cls: all versions can only read the order"),
        ({"after": (replaced_residual(dense),)}, "no Dense module with a residual sum"),
    ):
        (tmp_path / message[:9]).mkdir()
        with pytest.raises(ConfigError, match=message):
            write_modules(replace(source, **change), tmp_path / message[:9])


def replaced_residual(dense: Dense) -> Dense:
    return Dense(dense.linear, dense.activation, torch.nn.Linear(32, 8, bias=False))


def test_plain_keeps_head_labels_and_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    names = ["no", "maybe", "yes"]
    folder = save_task(
        tmp_path / "task", tokenizer, SequenceClassifier, names, problem_type="multi_label_classification"
    )
    written = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [(token, written.token_to_id(token)) for token in ("<bos>", "<eos>")]
    written.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <eos> $B <eos>", special_tokens=ends
    )
    written.enable_truncation(5)
    written.save(str(folder / "tokenizer.json"))
    report = mmbert.export(folder, tmp_path / "out", format="huggingface")
    assert report.output == "logits"
    config = read(tmp_path / "out" / "config.json")
    assert config["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert (config["problem_type"], config["classifier_pooling"]) == ("multi_label_classification", "mean")
    before, after = (mmbert.Classifier.load(place) for place in (folder, tmp_path / "out"))
    pair = (TEXTS[0], TEXTS[1])
    assert before(pair).scores == after(pair).scores
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words(*pair)["input_ids"] == [
        *tokenizer.encode(pair[0]), tokenizer.eos_id, *tokenizer.encode(pair[1])[1:]
    ]  # fmt: skip


def test_plain_without_the_head(masked_lm: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    mmbert.export(masked_lm, tmp_path / "out", format="huggingface", output="hidden")
    assert read(tmp_path / "out" / "config.json")["architectures"] == ["ModernBertModel"]
    ids = torch.tensor([tokenizer.encode(TEXTS[0])])
    with torch.inference_mode():
        a, b = (
            transformers.ModernBertModel.from_pretrained(place).eval()(ids).last_hidden_state
            for place in (masked_lm, tmp_path / "out")
        )
    assert torch.equal(a, b)


def test_type_of_weights_is_kept(masked_lm: Path, tmp_path: Path) -> None:
    shutil.copytree(masked_lm, tmp_path / "bf16")
    state = {name: value.to(torch.bfloat16) for name, value in load_state(masked_lm).items()}
    save_state(state, tmp_path / "bf16" / "model.safetensors")
    for format in ("huggingface", "sentence-transformers"):
        mmbert.export(tmp_path / "bf16", tmp_path / "out", format=format, texts=["one"])
        assert {value.dtype for value in load_state(tmp_path / "out").values()} == {torch.bfloat16}
        assert read(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize(("dtype", "near"), [("bf16", 0.9995), ("f16", 0.999999)])
def test_a_folder_in_16_bits_is_loaded_without_the_fp32_weights(
    dtype: str, near: float, masked_lm: Path, tmp_path: Path
) -> None:
    source = Source.load(masked_lm)
    torch.manual_seed(0)
    dense = Dense(torch.nn.Linear(32, 8), torch.nn.Tanh(), None).requires_grad_(False)
    (tmp_path / "fp32").mkdir()
    made = replace(source, pooling=Pooling(("mean",)), after=(dense, Normalize()), max_tokens=128)
    exporting.write_plain(made, tmp_path / "fp32", head=False)
    write_modules(made, tmp_path / "fp32")
    wanted = mmbert.Embedder.load(tmp_path / "fp32", precision="fp32")(list(TEXTS))
    mmbert.export(tmp_path / "fp32", tmp_path / "out", format="sentence-transformers", dtypes=[dtype])
    mmbert.export(masked_lm, tmp_path / "head", format="huggingface", dtypes=[dtype])
    size = (tmp_path / "fp32" / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.6 * size
    shutil.rmtree(tmp_path / "fp32")
    full = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    for place in (tmp_path / "out", tmp_path / "head"):
        assert {value.dtype for value in load_state(place).values()} == {full}
        assert read(place / "config.json")["dtype"] == str(full).removeprefix("torch.")
    int8 = ("int8",) if cpu.int8_instructions() else ()  # so narrow a model has no fast int8 without them
    for precision in ("fp32", "bf16", "auto", *int8):
        found = mmbert.Embedder.load(tmp_path / "out", precision=precision)(list(TEXTS))
        assert (found * wanted).sum(1).min() > (near if precision == "fp32" else 0.99)
    exact = mmbert.Embedder.load(tmp_path / "out", precision="fp32")(list(TEXTS))
    np.testing.assert_allclose(exact, theirs(tmp_path / "out", dtype=torch.float32).encode(list(TEXTS)), atol=1e-5)
    # in its own type the library rounds every step, so it only comes near
    narrow = theirs(tmp_path / "out").encode(list(TEXTS))
    assert (narrow.astype(np.float32) * wanted).sum(1).min() > 0.99
    fills = mmbert.FillMask.load(tmp_path / "head", precision="fp32")("All human beings are <mask> free.")
    assert all(np.isfinite(fill.score) for fill in fills)


def test_a_folder_in_32_bits_is_made_of_one_in_16(masked_lm: Path, tmp_path: Path) -> None:
    mmbert.export(masked_lm, tmp_path / "narrow", format="huggingface", dtypes=["bf16"], texts=["one"])
    report = mmbert.export(tmp_path / "narrow", tmp_path / "wide", format="huggingface", dtypes=["f32"], texts=["one"])
    assert report.checks["model.safetensors"].difference == 0
    assert {value.dtype for value in load_state(tmp_path / "wide").values()} == {torch.float32}


def test_card(masked_lm: Path, tmp_path: Path) -> None:
    shutil.copytree(masked_lm, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\npipeline_tag: fill-mask\n---\n# Mine\n")
    (tmp_path / "model" / "LICENSE").write_text("words")
    mmbert.export(tmp_path / "model", tmp_path / "out", format="sentence-transformers", texts=["one"])
    assert (tmp_path / "out" / "README.md").read_text() == (
        "---\nlicense: mit\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n# Mine\n"
    )
    assert (tmp_path / "out" / "LICENSE").read_text() == "words"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format 'tflite' is none of sentence-transformers, onnx, huggingface, gguf"),
        ({"format": "huggingface", "output": "embedding"}, "output 'embedding' is not of huggingface"),
        ({"format": "huggingface", "int8": True}, "int8 is an option of onnx"),
        ({"format": "huggingface", "dtypes": ["q8_0"]}, "dtypes q8_0: huggingface takes one of f32, f16, bf16"),
        ({"format": "huggingface", "dtypes": ["f16", "bf16"]}, "dtypes f16, bf16: huggingface takes one of"),
        ({"format": "onnx", "dtypes": ["f16"]}, "dtypes is no option of onnx"),
        ({"format": "huggingface", "normalize": True}, "normalize is about vectors of texts"),
        ({"format": "sentence-transformers", "similarity": "hamming"}, "similarity 'hamming' is none of"),
        ({"format": "sentence-transformers", "pooling": "sum"}, "pooling .* is none of"),
        (
            {"format": "sentence-transformers", "max_tokens": 9999},
            "max_tokens is 9999: it must be a whole number",
        ),
    ],
)
def test_options_that_do_not_fit(masked_lm: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mmbert.export(masked_lm, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_heads_that_do_not_fit(tokenizer: Tokenizer, masked_lm: Path, tmp_path: Path) -> None:
    folder = save_task(tmp_path / "tags", tokenizer, TokenClassifier, ["O", "B-X"])
    with pytest.raises(ConfigError, match="has the head of a task"):
        mmbert.export(folder, tmp_path / "out", format="sentence-transformers")
    mmbert.export(masked_lm, tmp_path / "bare", format="huggingface", output="hidden", texts=["one"])
    with pytest.raises(ConfigError, match="has no head: choose hidden"):
        mmbert.export(tmp_path / "bare", tmp_path / "out", format="huggingface", output="logits")
    with pytest.raises(DataError, match="no text to compare by"):
        mmbert.export(masked_lm, tmp_path / "out", format="huggingface", texts=[])
    assert not (tmp_path / "out").exists()


def test_places_in_use(masked_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the model itself"):
        mmbert.export(masked_lm, masked_lm, format="huggingface")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty and holds no earlier export"):
        mmbert.export(masked_lm, tmp_path / "mine", format="huggingface")
    with pytest.raises(ConfigError, match="is a file"):
        mmbert.export(masked_lm, tmp_path / "mine" / "notes.txt", format="huggingface")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    (tmp_path / "empty").mkdir()
    mmbert.export(masked_lm, tmp_path / "empty", format="huggingface", texts=["one"])


def test_what_differs_is_not_left(masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses the theta of local layers, as one dialect alone would: noticed, and an old export stays."""
    mmbert.export(masked_lm, tmp_path / "out", format="huggingface", texts=["one"])
    before = (tmp_path / "out" / "config.json").read_bytes()

    def lossy(source: Source, folder: Path, dtype: str, *, head: bool) -> None:
        other = source.config.model_copy(update={"local_rope_theta": 160_000.0})
        write_config(replace(source, config=other), folder, dtype, head=head)

    monkeypatch.setattr("mmbert.exporting.plain.write_config", lossy)
    with pytest.raises(MMBertError, match=r"model\.safetensors differs from the model by .* nothing was written"):
        mmbert.export(masked_lm, tmp_path / "out", format="huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").read_bytes() == before


def test_compare_finds_the_worst() -> None:
    rows = [np.arange(5), np.arange(3), np.arange(4)]
    vectors = {5: np.array([1.0, 0.0]), 3: np.array([0.0, 2.0]), 4: np.array([3.0, 4.0])}

    def right(batch: Any) -> list[np.ndarray]:
        return [vectors[len(row)] for row in batch]

    def wrong(batch: Any) -> list[np.ndarray]:
        """Where there are others in the batch, one text's vector turns."""
        return [vectors[len(row)][:: -1 if len(batch) > 1 and len(row) == 4 else 1] for row in batch]

    assert compare(right, right, rows) == Agreement(3, 0.0, 4.0, 1.0, 0)
    found = compare(right, wrong, rows)
    assert (found.difference, found.largest, found.worst) == (1.0, 4.0, 2)
    assert found.cosine == pytest.approx(24 / 25)
    assert not found.equal
    assert compare(right, wrong, rows, joint=True).cosine == pytest.approx(1 - 1 / 30)
    broken = compare(right, lambda batch: [value * np.nan for value in right(batch)], rows)
    assert (broken.difference, broken.cosine) == (float("inf"), -1.0)
    assert not broken.equal
    assert Agreement(1, 2e-4, 3.0, 1.0, 0).equal
    assert not Agreement(1, 2e-4, 1.0, 1.0, 0).equal


def test_long_texts_are_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_masked_lm(tmp_path / "small", tokenizer, max_context=64)
    report = mmbert.export(tmp_path / "small", tmp_path / "out", format="huggingface")
    assert report.checks["model.safetensors"].texts == len(TEXTS), "the long text is cut as the model cuts it"
