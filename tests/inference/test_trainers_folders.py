"""Folders as trainers leave them: names of wrappers, padded vocabularies, classes by number, parts that are missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_folders import TEXTS, reference, write_model, write_sentence_model
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from task_folders import save_theirs

from mmbert import Classifier, Embedder, FillMask, MaskedLM, Reranker, Tagger
from mmbert.doctor.model import examine
from mmbert.errors import MMBertError, WeightsError
from mmbert.exporting.export import export
from mmbert.inference.fill_mask import unknown_ids
from mmbert.model.encoder import Encoder
from mmbert.model.weights import load_state
from mmbert.packed import Packed
from mmbert.surgery.tensor_files import TensorFile
from mmbert.tokenizer.tokenizer import Tokenizer

State = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[State], State]) -> Path:
    """Save the folder's tensors anew."""
    state = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit(path: Path, *removed: str, **changes: Any) -> None:
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in removed}))


WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "data parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "both, turned": lambda name: f"_orig_mod.module.{name}",
    "layers compiled": lambda name: name.replace(".attn.", "._orig_mod.attn.").replace(".mlp.", "._orig_mod.mlp."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(".layers.0.", ".layers.0._fsdp_wrapped_module."),
    "no prefix of the encoder": lambda name: name.removeprefix("model."),
    "compiled, no prefix": lambda name: f"_orig_mod.{name.removeprefix('model.')}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_wrappers_are_passed_over(wrapper: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for kind in ("ModernBertForMaskedLM", "ModernBertForSequenceClassification"):
        clean = write_model(tmp_path / kind, tokenizer, kind)
        theirs = getattr(transformers, kind).from_pretrained(clean).eval()
        folder = Path(shutil.copytree(clean, tmp_path / f"{kind} wrapped"))
        rewrite(folder, lambda state: {WRAPPED[wrapper](name): value for name, value in state.items()})
        with torch.inference_mode():
            wanted = theirs(torch.tensor([tokenizer.encode(TEXTS[0])])).logits[0]
        if kind == "ModernBertForMaskedLM":
            found = MaskedLM.load(folder).eval().logits(Packed.from_lists([tokenizer.encode(TEXTS[0])]))
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
            FillMask.load(folder, precision="fp32")
            with TensorFile(folder) as file, TensorFile(clean) as right:
                assert "no prefix" in wrapper or file.tensors.keys() == right.tensors.keys()
        else:
            logits = Classifier.load(folder, precision="fp32").logits(TEXTS[0])
            np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-5)
        for name, value in Encoder.load(clean).state_dict().items():
            assert torch.equal(Encoder.load(folder).state_dict()[name], value)
        if "no prefix" not in wrapper:
            assert not [problem for problem in examine(str(folder)).problems if "weights are" in problem.what]


def test_one_name_twice_is_refused(bare: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "model"))
    rewrite(folder, lambda state: {**state, "module.final_norm.weight": state["final_norm.weight"].clone()})
    with pytest.raises(WeightsError, match=r"holds final_norm\.weight twice"):
        Embedder.load(folder)


@pytest.mark.parametrize("stated", ["as padded", "as the tokenizer has it"])
def test_a_padded_vocabulary(stated: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    clean = write_model(tmp_path / "clean", tokenizer, "ModernBertForMaskedLM")
    folder = Path(shutil.copytree(clean, tmp_path / "padded"))
    rows = -(-tokenizer.vocab_size // 64) * 64
    spare = rows - tokenizer.vocab_size
    assert spare

    def pad(state: State) -> State:
        for name, filling in (("model.embeddings.tok_embeddings.weight", 3.0), ("decoder.bias", 50.0)):
            extra = torch.full((spare, *state[name].shape[1:]), filling)
            state[name] = torch.cat([state[name], extra])
        return state

    rewrite(folder, pad)
    if stated == "as padded":
        edit(folder / "config.json", vocab_size=rows)
    text = "All human beings are <mask> free."
    right, fills = FillMask.load(clean, precision="fp32")(text), FillMask.load(folder, precision="fp32")(text)
    assert [fill.token for fill in fills] == [fill.token for fill in right]
    assert [fill.score for fill in fills] == pytest.approx([fill.score for fill in right], abs=1e-6)
    np.testing.assert_allclose(Embedder.load(folder)(TEXTS), Embedder.load(clean)(TEXTS), atol=1e-6)
    assert MaskedLM.load(folder).config.vocab_size == (rows if stated == "as padded" else tokenizer.vocab_size)
    assert unknown_ids(tokenizer, rows).tolist() == list(range(tokenizer.vocab_size, rows))
    assert not [problem for problem in examine(str(folder)).problems if "do not fit config.json" in problem.what]
    export(folder, tmp_path / "out", format="huggingface")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.vocab_size == MaskedLM.load(folder).config.vocab_size


def test_another_vocabulary_is_no_padding(bare: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "model"))
    edit(folder / "config.json", vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"] - 3)
    with pytest.raises(MMBertError, match=r"vocab|rows"):
        Embedder.load(folder)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
@pytest.mark.parametrize(
    "written",
    [
        {"num_labels": 5}, {"num_labels": 1}, {}, {"id2label": {"1": "b", "0": "a", "2": "c"}},
        {"num_labels": 1, "problem_type": "regression"},
    ],
)  # fmt: skip
def test_classes_are_those_of_transformers(written: dict[str, Any], kind: str, tmp_path: Path) -> None:
    count = len(written.get("id2label", ())) or written.get("num_labels", 2)
    model, _ = save_theirs(tmp_path, kind, num_labels=count)
    edit(tmp_path / "config.json", *({"id2label", "label2id"} - written.keys()), **written)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    found = (Classifier if kind.startswith("Seq") else Tagger).load(tmp_path, precision="fp32")
    assert found.labels == [theirs.id2label[number] for number in range(count)]
    assert theirs.num_labels == count
    if isinstance(found, Classifier):
        assert found.function() == ("none" if "problem_type" in written else "sigmoid" if count == 1 else "softmax")
    if count == 1 and isinstance(found, Classifier):
        pairs = [(TEXTS[0], TEXTS[1])]
        scores = Reranker.load(tmp_path, precision="fp32").predict(pairs)
        np.testing.assert_allclose(scores, CrossEncoder(str(tmp_path), device="cpu").predict(pairs), atol=1e-4)
    assert model is not None


def test_names_of_classes_alone_are_kept(tmp_path: Path) -> None:
    save_theirs(tmp_path / "model", "SequenceClassification", num_labels=3)
    edit(tmp_path / "model" / "config.json", "id2label", label2id={"yes": 2, "no": 0, "maybe": 1})
    assert Classifier.load(tmp_path / "model").labels == ["no", "maybe", "yes"]
    export(tmp_path / "model", tmp_path / "out", format="huggingface")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "no", 1: "maybe", 2: "yes"}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label has no name for class 1"),
        ({"id2label": {"0": "a", "one": "b"}}, "must map numbers to names"),
        ({"id2label": ["a", "b"]}, "must map numbers to names"),
        ({"id2label": None, "label2id": {"a": 0, "b": 0}}, "label2id (has no name for class 1|names a class twice)"),
        ({"id2label": None, "label2id": None, "num_labels": True}, "num_labels is True"),
        ({"id2label": None, "label2id": None, "num_labels": 0}, "num_labels is 0"),
        ({"id2label": None, "label2id": None, "num_labels": 4}, r"classifier.weight is \(2, 32\)"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 7}, "id2label names 2 classes, num_labels is 7"),
        ({"problem_type": "ranking"}, "problem_type 'ranking' is not supported"),
        ({"classifier_pooling": "max"}, "classifier_pooling 'max' is not supported"),
    ],
)
def test_wrong_classes_are_named(written: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification", num_labels=2)
    edit(tmp_path / "config.json", **written)
    with pytest.raises(WeightsError, match=said):
        Classifier.load(tmp_path)


@pytest.mark.parametrize("where", ["config.json", "an older key"])
def test_an_activation_that_is_not_torchs_is_refused_when_asked_for(where: str, tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification", num_labels=1)
    name = "my_trainer.activations.Scaled"
    old = {"sbert_ce_default_activation_function": name}
    new = {"sentence_transformers": {"activation_fn": name, "version": "5.1"}}
    edit(tmp_path / "config.json", **(new if where == "config.json" else old))
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    reranker, identity = Reranker.load(tmp_path, precision="fp32"), torch.nn.Identity()
    wanted = CrossEncoder(str(tmp_path), device="cpu").predict(pairs, activation_fn=identity)
    np.testing.assert_allclose(reranker.predict(pairs, activation_fn=identity), wanted, atol=1e-4)
    assert Classifier.load(tmp_path, precision="fp32").logits(pairs)[:, 0] == pytest.approx(wanted, abs=1e-4)
    for call in (
        lambda: reranker.predict(pairs),
        lambda: reranker(TEXTS[0], TEXTS),
        lambda: list(reranker.stream(pairs)),
    ):
        with pytest.raises(WeightsError, match=f"activation {name} is not supported"):
            call()


@pytest.fixture(scope="module")
def stacked(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooling, Dense and Normalize behind an encoder."""
    modules = [Pooling(32, "cls"), Dense(32, 24, activation_function=torch.nn.Tanh()), Normalize()]
    return write_sentence_model(tmp_path_factory.mktemp("parts") / "stacked", bare, modules)


MISSING: dict[str, Callable[[Path], Any]] = {
    "1_Pooling/config.json is missing, modules.json names 1_Pooling": lambda folder: shutil.rmtree(
        folder / "1_Pooling"
    ),
    "1_Pooling/config.json is missing, modules.json": lambda folder: (folder / "1_Pooling" / "config.json").unlink(),
    "2_Dense/config.json is missing, modules.json names 2_Dense": lambda folder: shutil.rmtree(folder / "2_Dense"),
    "no model.safetensors in .*2_Dense": lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
    "no config.json in": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer.json in": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("said", MISSING)
def test_a_part_that_is_named_and_not_there(said: str, stacked: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stacked, tmp_path / "model"))
    MISSING[said](folder)
    with pytest.raises(MMBertError, match=said):
        Embedder.load(folder)


def test_what_has_no_file_may_be_missing(stacked: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stacked, tmp_path / "model"))
    shutil.rmtree(folder / "3_Normalize", ignore_errors=True)
    theirs = reference(stacked).encode(TEXTS)
    np.testing.assert_allclose(Embedder.load(folder, precision="fp32").encode(TEXTS), theirs, atol=1e-5)


def test_options_under_an_older_name(bare: Path, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model", bare, [Pooling(32, "mean")])
    (folder / "sentence_bert_config.json").unlink()
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    assert Embedder.load(folder).max_tokens == reference(folder).max_seq_length == 16


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_that_an_index_names(form: str, bare: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if form == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{number}-of-00002.{form}" for number in (1, 2)]
    places = {name: files[number % 2] for number, name in enumerate(sorted(state))}
    for file in files:
        part = {name: state[name].clone() for name, place in places.items() if place == file}
        save_file(part, folder / file) if form == "safetensors" else torch.save(part, folder / file)
    index = folder / f"{stem}.{form}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    if form == "safetensors":
        np.testing.assert_array_equal(Embedder.load(folder)(TEXTS), Embedder.load(bare)(TEXTS))
    else:
        with pytest.raises(WeightsError, match="is read only to convert it"):
            Embedder.load(folder)
    found = load_state(folder, convert=True)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    index.write_text(json.dumps({"weight_map": {**places, "final_norm.bias": files[0]}}))
    with pytest.raises(WeightsError, match=f"names final_norm.bias in {files[0]}, which lacks it"):
        load_state(folder, convert=True)
    index.write_text(json.dumps({"weight_map": places}))
    (folder / files[1]).unlink()
    with pytest.raises(WeightsError, match=f"{files[1]} is missing, {index.name} names it"):
        load_state(folder, convert=True)


def test_a_batch_of_numpy_goes_into_every_model(heads: Path) -> None:
    rows = [[2, 10, 11, 1], [2, 20, 1]]
    arrays, tensors = Packed.from_lists(rows), Packed.from_lists(rows).to("cpu")
    model = MaskedLM.load(heads / "masks").eval()
    with torch.inference_mode():
        assert torch.equal(model.logits(arrays), model.logits(tensors))
        assert torch.equal(model.encode(arrays), model.encode(tensors))
        classifier = Classifier.load(heads / "classes", precision="fp32")
        assert np.array_equal(classifier.logits_of(arrays), classifier.logits_of(tensors))
    for wrong in ([[1.5, 2.0]], [["a"]], [[True, False]], [[[1], [2]]]):
        with pytest.raises(ValueError, match="sequence 0 is no list of token ids"):
            Packed.from_lists(wrong)
