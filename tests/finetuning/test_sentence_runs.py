"""Runs of the sentence tasks: what they write loads elsewhere with the same numbers, and they go on where they were."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from little_sentences import (  # noqa: F401  (a fixture)
    TEXTS,
    adaptation,
    examples,
    make_recipe,
    pretrained,
    write_rows,
)
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

from mmbert import Embedder, Reranker
from mmbert.errors import ConfigError, DataError, WeightsError
from mmbert.files import read_json
from mmbert.finetuning.adapters import ADAPTERS
from mmbert.finetuning.finetune import finetune
from mmbert.finetuning.mining import MINED
from mmbert.finetuning.sentence_model import quiet

PAIRS = [("water", "maji"), ("stone and bread", "mama ndege barabara " * 5)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    plain, dev = examples(40), examples(12, seed=1)
    return {
        "plain": write_rows(folder / "train.jsonl", plain),
        "dev": write_rows(folder / "dev.jsonl", dev),
        "taught": write_rows(folder / "taught.jsonl", adaptation(plain)),
    }


def _state(folder: Path) -> dict[str, torch.Tensor]:
    from mmbert.model.weights import load_state

    return load_state(folder)


@pytest.mark.parametrize("options", [{}, {"mix_layers": True, "normalize": True, "matryoshka": [8], "symmetric": True}])
def test_embed(options: dict[str, Any], pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    embed = {"mini_batch": 4, "evaluator": "translation", "query_prompt": "ask: ", **options}
    more = {"training": {"epochs": 4}} if not options else {}
    recipe = make_recipe("embed", pretrained, rows["plain"], rows["dev"], embed=embed, **more)
    result = finetune(recipe, out=tmp_path / "run")
    if not options:
        assert result.metrics["dev"]["score"] > result.metrics["dev_before"]["score"]
    final = tmp_path / "run" / "final"
    assert read_json(final / "modules.json")[0]["type"] == "sentence_transformers.models.Transformer"
    assert read_json(final / "sentence_bert_config.json")["max_seq_length"] == 64
    with quiet():
        library = SentenceTransformer(str(final), device="cpu")
    ours = Embedder.load(final, precision="fp32")
    for way in ("encode", "encode_query", "encode_document"):
        expected = getattr(library, way)(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(getattr(ours, way)(TEXTS, normalize_embeddings=True), expected, atol=2e-5)
    assert not np.allclose(ours.encode_query(TEXTS), ours.encode_document(TEXTS))


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
@pytest.mark.parametrize("task", ["embed", "sparse", "late_interaction"])
def test_teachers(task: str, loss: str, pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    recipe = make_recipe(task, pretrained, rows["taught"], training={"max_steps": 2}, **{task: {"loss": loss}})
    finetune(recipe, out=tmp_path / "run")
    assert not torch.equal(*(
        _state(folder)[name]
        for folder, name in (
            (pretrained, "model.layers.1.mlp.Wi.weight"),
            (tmp_path / "run" / "final", f"{'model.' if task == 'sparse' else ''}layers.1.mlp.Wi.weight"),
        )
    ))  # fmt: skip


@pytest.mark.parametrize("task", ["embed", "rerank", "sparse", "late_interaction"])
def test_callbacks_are_called(task: str, pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    class Steps(transformers.TrainerCallback):  # type: ignore[misc]
        seen = 0

        def on_step_end(self, *parts: object, **more: object) -> None:
            self.seen += 1

    steps = Steps()
    late = {"late_interaction": {"loss": "contrastive"}} if task == "late_interaction" else {}
    recipe = make_recipe(task, pretrained, rows["plain"], training={"max_steps": 2}, **late)
    finetune(recipe, out=tmp_path / "run", callbacks=[steps])
    assert steps.seen == 2


def test_an_epoch_is_as_long_as_its_batches(
    pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    few = write_rows(tmp_path / "few.jsonl", [{"query": f"q{n % 4}", "positive": f"d{n % 4}"} for n in range(40)])
    recipe = make_recipe("embed", pretrained, few, few, training={"epochs": 2}, embed={"mini_batch": None})
    with caplog.at_level(logging.INFO, logger="mmbert"):
        result = finetune(recipe, out=tmp_path / "run")
    assert "10 batches an epoch instead of 5" in caplog.text
    assert [line["step"] for line in result.history if "eval_score" in line] == [10, 20]


@pytest.mark.distributed
def test_two_processes_share_batches_of_few_texts(pretrained: Path, tmp_path: Path) -> None:  # noqa: F811
    few = write_rows(tmp_path / "few.jsonl", [{"query": f"q{n % 7}", "positive": f"d{n % 5}"} for n in range(41)])
    recipe = make_recipe("embed", pretrained, few, few, training={"batch": 16, "device": "cpu"},
                         embed={"mini_batch": None})  # fmt: skip
    recipe.save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29619"]
    command += ["-m", "mmbert", "finetune", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    history = json.loads((tmp_path / "run" / "result.json").read_text())["history"]
    assert max(line["step"] for line in history) >= 41 // 5 // 2, "each text of d comes in 8 or 9 rows"
    assert max(line["epoch"] for line in history) == 1.0


@pytest.mark.parametrize("loss", ["cosent", "angle"])
def test_scored_pairs(loss: str, pretrained: Path, tmp_path: Path) -> None:  # noqa: F811
    pairs = [{"text": row["query"], "text_pair": row["positive"], "score": n / 24} for n, row in
             enumerate(examples(24))]  # fmt: skip
    path = write_rows(tmp_path / "pairs.jsonl", pairs)
    recipe = make_recipe("embed", pretrained, path, path, embed={"loss": loss}, training={"epochs": 6})
    result = finetune(recipe, out=tmp_path / "run")
    assert result.metrics["dev"]["spearman_cosine"] > result.metrics["dev_before"]["spearman_cosine"]


@pytest.mark.parametrize("loss", ["bce", "margin_mse", "mse"])
def test_rerank(loss: str, pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    train = rows["plain" if loss == "bce" else "taught"]
    recipe = make_recipe("rerank", pretrained, train, rows["dev"], rerank={"loss": loss})
    result = finetune(recipe, out=tmp_path / "run")
    assert result.chosen == pytest.approx(result.metrics["dev"]["ndcg@10"])
    final = tmp_path / "run" / "final"
    with quiet():
        library = CrossEncoder(str(final), device="cpu")
    expected = library.predict(PAIRS)
    np.testing.assert_allclose(Reranker.load(final, precision="fp32").predict(PAIRS), expected, atol=1e-5)


def test_sparse(pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    recipe = make_recipe("sparse", pretrained, rows["plain"], rows["dev"], sparse={"mini_batch": 4})
    assert finetune(recipe, out=tmp_path / "run").chosen is not None
    final = tmp_path / "run" / "final"
    with quiet():
        library = SparseEncoder(str(final), device="cpu")
    found = library.encode_document(TEXTS[:3]).to_dense()
    logits = torch.stack([_masked_lm(final, text).max(0)[0] for text in TEXTS[:3]])  # the last is cut
    torch.testing.assert_close(found, logits.relu().log1p(), atol=1e-5, rtol=1e-5)
    with pytest.raises(WeightsError, match="SparseEncoder"):
        Embedder.load(final)


def _masked_lm(folder: Path, text: str) -> torch.Tensor:
    from mmbert import MaskedLM, Tokenizer

    return MaskedLM.load(folder).logits(Tokenizer.load(folder).pack([text]).to()).detach()


def test_late_interaction(pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    options = {"loss": "contrastive", "mini_batch": 4, "dimensions": 16, "expand_queries": True, "query_tokens": 12}
    recipe = make_recipe("late_interaction", pretrained, rows["plain"], rows["dev"], late_interaction=options)
    result = finetune(recipe, out=tmp_path / "run")
    final = tmp_path / "run" / "final"
    with quiet():
        library = MultiVectorEncoder(str(final), device="cpu")
    queries, documents = library.encode_query(TEXTS), library.encode_document(TEXTS)
    assert {len(rows) for rows in queries} == {12}
    assert library.prompts == {"query": "[Q] ", "document": "[D] "}
    torch.testing.assert_close(documents[0].norm(dim=-1), torch.ones(len(documents[0])))
    assert library[0].max_seq_length == 64
    assert result.metrics["dev"]["score"] > 0
    with pytest.raises(WeightsError, match="MultiVectorEncoder"):
        Embedder.load(final)


def test_a_stopped_run_goes_on(pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    recipe = make_recipe("embed", pretrained, rows["plain"], rows["dev"], embed={"mini_batch": None},
                         training={"epochs": 2, "keep": 3})  # fmt: skip
    finetune(recipe, out=tmp_path / "whole")
    whole = _state(tmp_path / "whole" / "final")
    finetune(recipe, out=tmp_path / "part")
    for checkpoint in (tmp_path / "part" / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > 5:
            for file in checkpoint.iterdir():
                file.unlink() if file.is_file() else None
    (tmp_path / "part" / "result.json").unlink()
    finetune(recipe, out=tmp_path / "part")
    for name, value in _state(tmp_path / "part" / "final").items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-6)


def test_lora_is_merged(pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    training = {"lora": {"rank": 2}, "learning_rate": 2e-2, "epochs": 2}
    recipe = make_recipe("embed", pretrained, rows["plain"], rows["dev"], training=training)
    result = finetune(recipe, out=tmp_path / "run")
    before, after = _state(pretrained), _state(tmp_path / "run" / "final")
    moved = {name for name, value in after.items() if not torch.equal(value, before[f"model.{name}"])}
    assert moved == {name for name in after if name.endswith(("Wqkv.weight", "Wo.weight", "Wi.weight"))}
    assert list((tmp_path / "run" / "checkpoints").glob(f"checkpoint-*/{ADAPTERS}"))
    vectors = Embedder.load(tmp_path / "run" / "final", precision="fp32")(TEXTS)
    assert np.isfinite(vectors).all()
    assert result.chosen is not None


def test_mined_negatives_are_a_file(
    pretrained: Path, rows: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    options = {"mine": {"model": str(pretrained), "negatives": 2, "range_max": 10}}
    recipe = make_recipe("rerank", pretrained, rows["plain"], rerank=options, training={"max_steps": 2})
    finetune(recipe, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / MINED).read_text().splitlines()]
    right = {row["query"]: row["positive"] for row in examples(40)}
    assert len(lines) > 30
    for line in lines:
        assert line["positive"] == right[line["query"]]
        assert len(line["negative"]) == 2
        assert line["positive"] not in line["negative"]
        assert line["language"] == "swh_Latn"
    (tmp_path / "run" / "result.json").unlink()
    with caplog.at_level(logging.INFO, logger="mmbert"):
        finetune(recipe, out=tmp_path / "run")
    assert f"hard negatives of {tmp_path / 'run' / MINED}" in caplog.text


def test_what_does_not_fit_is_refused(pretrained: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    def run(task: str, **more: Any) -> None:
        finetune(make_recipe(task, more.pop("model", pretrained), rows["plain"], **more), out=tmp_path / "run")

    with pytest.raises(ConfigError, match="vectors have 32 dimensions"):
        run("embed", embed={"matryoshka": [64]})
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(DataError, match=r"plain|train\.jsonl:1: the loss kl learns from a teacher's scores"):
        run("late_interaction")
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(ConfigError, match=r"training\.metric 'f1' is none of .*ndcg@10"):
        finetune(make_recipe("embed", pretrained, rows["plain"], rows["dev"], training={"metric": "f1"},
                             embed={"evaluator": "retrieval"}), out=tmp_path / "other")  # fmt: skip
    with pytest.raises(ConfigError, match="not a multiple of 1 processes"):
        run("embed", training={"micro_batch": 3})


def test_a_sparse_model_begins_with_an_untied_decoder(
    pretrained: Path, rows: dict[str, Path], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(pretrained)
    theirs.config.tie_word_embeddings = False
    theirs.decoder.weight = torch.nn.Parameter(0.5 * theirs.decoder.weight.detach().clone())
    theirs.save_pretrained(tmp_path / "untied")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "untied" / name).write_bytes((pretrained / name).read_bytes())
    recipe = make_recipe("sparse", tmp_path / "untied", rows["plain"], training={"max_steps": 2, "learning_rate": 1e-2})
    final = finetune(recipe, out=tmp_path / "run").folder
    before, after = _state(tmp_path / "untied"), _state(final)
    assert not torch.equal(after["decoder.weight"], before["decoder.weight"]), "it trains"
    assert not torch.equal(after["decoder.weight"], after["model.embeddings.tok_embeddings.weight"])
    with quiet():
        vectors = SparseEncoder(str(final), device="cpu").encode(TEXTS)
    assert torch.isfinite(vectors.to_dense()).all()
