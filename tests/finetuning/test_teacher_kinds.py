"""Teachers of rerankers, teachers that transformers runs, students made smaller, sweeps and several processes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from little_sentences import examples, make_recipe, pretrained, write_rows
from little_sets import classes, tags, write
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import mmbert
from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.ranking_examples import Group
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.teacher_pairs import TaughtPairLoss, taught_columns
from mmbert.finetuning.teacher_transformers import TransformersTeacher

Make = Callable[..., FinetuneRecipe]

__all__ = ["pretrained"]


@pytest.mark.parametrize("loss", ["bce", "mse", "margin_mse"])
def test_a_reranker_learns_the_scores_of_its_teacher(loss: str, pretrained: Path, heads: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", examples(24))
    teacher = {"model": str(heads / "ranks"), "precision": "fp32"}
    own = {
        "rerank": {"loss": loss, "negatives": 1},
        "teacher": teacher,
        "training": {"epochs": 40, "learning_rate": 1e-2, "dropout": 0.0},
    }
    recipe = make_recipe("rerank", pretrained, train, **own)
    result = mmbert.finetune(recipe, out=tmp_path / "run")
    pairs = [(row["query"], text) for row in examples(24) for text in (row["positive"], row["negative"][0])]
    wanted = mmbert.Reranker.load(heads / "ranks", precision="fp32").predict(pairs, activation_fn=torch.nn.Identity())
    with np.load(tmp_path / "run/teacher/train/000000.npz") as kept:
        np.testing.assert_allclose(kept["logits"][:, 0], wanted, atol=1e-4)
    student = mmbert.Reranker.load(result.folder, precision="fp32")
    said = student.predict(pairs, activation_fn=torch.nn.Identity())
    if loss == "margin_mse":
        wanted, said = wanted[::2] - wanted[1::2], said[::2] - said[1::2]
    assert np.corrcoef(said, wanted)[0, 1] > 0.8


def test_a_reranker_of_fewer_layers_begins_with_its_teachers_head(heads: Path, tmp_path: Path) -> None:
    train, model = write_rows(tmp_path / "train.jsonl", examples(6)), str(heads / "ranks")
    own = {"training": {"max_steps": 1, "learning_rate": 1e-30}, "teacher": {"model": model}, "student": {"keep": 1}}
    result = mmbert.finetune(make_recipe("rerank", heads / "ranks", train, **own), out=tmp_path / "run")
    small, large = (load_file(place / "model.safetensors") for place in (result.folder, heads / "ranks"))
    assert {name for name in large if ".layers.1." not in name} == set(small)
    for name, value in small.items():
        torch.testing.assert_close(value, large[name])


def test_pairs_without_a_label(pretrained: Path, heads: Path, tmp_path: Path) -> None:
    rows = [{"query": "water", "document": f"maji {number}", **({"label": number % 2} if number < 3 else {})}
            for number in range(6)]  # fmt: skip
    path = write_rows(tmp_path / "rows.jsonl", rows)
    recipe = make_recipe("rerank", pretrained, path, teacher={"model": str(heads / "ranks"), "weight": 0.5})
    groups = [Group(row["query"], (row["document"],), (float(row["label"]),) if "label" in row else None, "", "x",
                    labelled="label" in row) for row in rows]  # fmt: skip
    columns = taught_columns(recipe, tmp_path / "cache", groups)
    gold, logits = np.array(columns["label"]).T
    np.testing.assert_array_equal(gold[:3], [0, 1, 0])
    assert np.isnan(gold[3:]).all()
    model = CrossEncoder(str(heads / "ranks"), device="cpu", num_labels=1)
    assert recipe.teacher is not None
    loss = TaughtPairLoss(model, recipe.rerank, recipe.teacher)
    found = loss([columns["query"], columns["document"]], torch.tensor(columns["label"])).detach()
    # model and teacher are the same: the labels' part alone is left, with the weight of right documents
    z = torch.tensor(logits[:3], dtype=torch.float32)
    wrong = torch.nn.functional.binary_cross_entropy_with_logits(
        z, torch.tensor([0.0, 1, 0]), pos_weight=torch.tensor(5.0), reduction="none"
    )
    assert float(found) == pytest.approx(0.5 * float(wrong.sum()) / 6, abs=1e-3)
    result = mmbert.finetune(recipe, out=tmp_path / "run")
    assert result.folder.is_dir()
    single = recipe.changed({"rerank.loss": "margin_mse"})
    with pytest.raises(DataError, match=r"rows\.jsonl:1: margin_mse compares two documents"):
        mmbert.finetune(single, out=tmp_path / "margin")
    with pytest.raises(ConfigError, match=r"teacher\.temperature has no effect on rerank"):
        recipe.changed({"teacher.temperature": 3})
    with pytest.raises(ConfigError, match=r"has 2 labels, and rerank learns one score"):
        mmbert.finetune(recipe.changed({"teacher.model": str(heads / "classes")}), out=tmp_path / "two")


WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ".",
]


def bert(folder: Path, kind: str, **config: Any) -> Any:
    """A BERT of transformers with a WordPiece tokenizer of letters, which our engine does not read."""
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words = transformers.BertTokenizerFast(tokenizer_object=made, model_max_length=64)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, initializer_range=0.5, **config,
    )  # fmt: skip
    model = getattr(transformers, f"BertFor{kind}")(shape).eval()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words


def test_transformers_runs_a_teacher_that_our_engine_does_not_know(
    recipe: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmbert")
    names = {0: "bad", 1: "good"}
    model, words = bert(tmp_path / "bert", "SequenceClassification", id2label=names, label2id={"bad": 0, "good": 1})
    rows = [{"text": row["text"]} for row in classes()]
    path = write(tmp_path / "rows.jsonl", rows)
    own = recipe("classify", data__path=None, data__train={"path": str(path)}, data__dev={"path": str(path)})
    own = own.changed(
        {"teacher": {"model": str(tmp_path / "bert")}, "training.epochs": 16, "training.learning_rate": 1e-2}
    )
    result = mmbert.finetune(own, out=tmp_path / "run")
    assert "runs in transformers, without packing (" in caplog.text
    assert result.metrics["dev"]["agreement"] > 0.7
    with torch.inference_mode(), np.load(tmp_path / "run/teacher/train/000000.npz") as kept:
        theirs = model(**words([row["text"] for row in rows], padding=True, return_tensors="pt")).logits
        np.testing.assert_allclose(kept["logits"], theirs.numpy(), atol=2e-3)
    with pytest.raises(Exception, match=r"precision int8 is of our engine alone"):
        mmbert.finetune(own.changed({"teacher.precision": "int8"}), out=tmp_path / "int8")


def test_transformers_runs_a_tagger(recipe: Make, tmp_path: Path) -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
    model, words = bert(
        tmp_path / "bert", "TokenClassification", id2label=names, label2id={n: i for i, n in names.items()}
    )
    rows = tags()
    path = write(tmp_path / "rows.jsonl", rows)
    own = recipe("tag", data__path=None, data__train={"path": str(path)}, data__dev={"path": str(path)})
    own = own.changed({"teacher": {"model": str(tmp_path / "bert")}, "training.epochs": 2})
    result = mmbert.finetune(own, out=tmp_path / "run")
    assert 0 <= result.metrics["dev"]["agreement"] <= 1
    sentence = rows[1]["tokens"]
    encoded = words(sentence, is_split_into_words=True, return_tensors="pt")
    first = [encoded.word_ids().index(number) for number in range(len(sentence))]
    with torch.inference_mode(), np.load(tmp_path / "run/teacher/train/000000.npz") as kept:
        start = int(kept["counts"][0])
        theirs = model(**encoded).logits[0, first].numpy()
        np.testing.assert_allclose(kept["logits"][start : start + len(sentence)], theirs, atol=2e-3)


def test_a_tagger_reads_long_texts_in_windows(tmp_path: Path) -> None:
    model, words = bert(tmp_path / "bert", "TokenClassification")
    short, long = "ab cd", " ".join("abcdefg"[n % 7] for n in range(150))
    teacher = TransformersTeacher(tmp_path / "bert", "cpu", "fp32")
    (spans, logits), (long_spans, long_logits) = teacher.stream_logits([short, long])
    assert spans.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert long_spans.tolist() == [[2 * n, 2 * n + 1] for n in range(150)]
    with torch.inference_mode():
        whole = model(**words(short, return_tensors="pt")).logits[0, 1:-1].numpy()
        # windows of 62 tokens, of which 16 are shared: half of these are taken from each
        second = model(**words(long[2 * 46 :], truncation=True, return_tensors="pt")).logits[0, 1:-1].numpy()
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    np.testing.assert_allclose(long_logits[54:100], second[8:54], atol=1e-5)


def test_a_student_of_fewer_layers_and_tokens(recipe: Make, heads: Path, tmp_path: Path) -> None:
    """Layers and head are the teacher's, and its logits need no training text in the student's own tokens."""
    rows = classes()
    path = write(tmp_path / "rows.jsonl", [{"text": row["text"]} for row in rows])
    own = recipe("classify", model=str(heads / "classes"), data__path=None, data__train={"path": str(path)})
    own = own.changed({
        "teacher": {"model": str(heads / "classes")}, "student": {"keep": 1}, "trim": {"max_tokens": 400},
        "training.learning_rate": 1e-30, "training.max_steps": 1,
    })  # fmt: skip
    result = mmbert.finetune(own, out=tmp_path / "run")
    config = json.loads((result.folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    small, large = (load_file(place / "model.safetensors") for place in (result.folder, heads / "classes"))
    assert config["vocab_size"] == len(small["model.embeddings.tok_embeddings.weight"]) <= 400
    for name in ("classifier.weight", "head.dense.weight", "model.layers.0.mlp.Wi.weight", "model.final_norm.weight"):
        torch.testing.assert_close(small[name], large[name])
    texts = [row["text"] for row in rows]
    trimmed, whole = (mmbert.Tokenizer.load(place) for place in (result.folder, heads / "classes"))
    assert [len(trimmed.encode(text)) for text in texts] == [len(whole.encode(text)) for text in texts]
    assert "1 layers of" in (result.folder / "README.md").read_text()
    # stopped before training: what was made stays, and is taken again
    before = (tmp_path / "run/trimmed/model.safetensors").stat().st_mtime_ns
    (tmp_path / "run/result.json").unlink()
    mmbert.finetune(own, out=tmp_path / "run")
    assert (tmp_path / "run/trimmed/model.safetensors").stat().st_mtime_ns == before


def test_a_sweep_asks_the_teacher_once(recipe: Make, heads: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": row["text"]} for row in classes()])
    data = {f"data__{role}": {"path": str(path)} for role in ("train", "dev")}
    own = recipe("classify", data__path=None, **data).changed({
        "teacher": {"model": str(heads / "classes")},
        "sweep": {"values": {"training.learning_rate": [1e-3, 1e-2], "teacher.temperature": [1, 2]}},
    })  # fmt: skip
    result = mmbert.finetune(own, out=tmp_path / "run", sweep=True)
    assert len(result.trials) == 4
    assert len(list((tmp_path / "run").rglob("manifest.json"))) == 2  # of train and dev
    lengths = own.changed({"sweep": {"values": {"training.max_tokens": [16, 48]}}})
    mmbert.finetune(lengths, out=tmp_path / "lengths", sweep=True)
    assert len(list((tmp_path / "lengths").rglob("manifest.json"))) == 4


def test_two_processes_share_the_teachers_logits(recipe: Make, heads: Path, tmp_path: Path) -> None:
    labelled = [{**row, "label": "yes" if row["label"] == "good" else "no"} for row in classes()[:8]]
    path = write(tmp_path / "rows.jsonl", [*labelled, *({"text": row["text"]} for row in classes())])
    own = recipe("classify", data__path=None, data__train={"path": str(path)}, data__dev={"path": str(path)})
    plain = {"training.dropout": 0.0, "training.max_grad_norm": 1e9, "training.epochs": 2, "trim": {}}
    own = own.changed({"teacher": {"model": str(heads / "classes")}, **plain})
    alone = mmbert.finetune(own, out=tmp_path / "one")
    own.save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29618"]
    command += ["-m", "mmbert", "finetune", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    one, two = (load_file(place / "model.safetensors") for place in (alone.folder, tmp_path / "two/final"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "teacher"), [("distil-classify", "classes"), ("distil-tag", "tags")])
def test_recipes_make_students_of_text(name: str, teacher: str, heads: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(row["text"] + "\n" for row in classes(60)))
    changes = [
        f"model={heads / teacher}", f"teacher.model={heads / teacher}", f"data.train.path={text}",
        "student.hidden_size=16", "student.num_layers=1", "trim.max_tokens=350", "training.max_steps=2",
    ]  # fmt: skip
    recipe = FinetuneRecipe.load(name, changes)
    result = mmbert.finetune(recipe, out=tmp_path / "run")
    assert "agreement" in result.metrics["dev"]
    assert mmbert.Tokenizer.load(result.folder).vocab_size <= 350
