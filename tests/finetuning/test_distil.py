"""Distilling a sentence encoder: the texts that are chosen, the teacher's vectors, the student and its folder."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from little_sentences import WORDS, pretrained  # noqa: F401  (a fixture)
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from typer.testing import CliRunner

from loopback import address, listen
from mmbert import Embedder, recipe_names
from mmbert.cli.main import app
from mmbert.errors import ConfigError, DataError, MMBertError, TrainingError, WeightsError
from mmbert.files import read_json
from mmbert.finetuning.distil_losses import DistilLoss, TokenTargets, join_texts, make_targets, relational
from mmbert.finetuning.distil_texts import ChosenTexts, passages, prepare_texts
from mmbert.finetuning.distil_words import LEAST, MOST, word_texts
from mmbert.finetuning.dry_run import dry_run
from mmbert.finetuning.finetune import finetune
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_distil import Distil
from mmbert.finetuning.recipe_sentence import Embed
from mmbert.finetuning.sentence_model import dense_model, quiet
from mmbert.finetuning.student import reduce_width, spread
from mmbert.finetuning.teacher import LocalTeacher, choose_prompt, stated_licence
from mmbert.finetuning.teacher_config import task_of
from mmbert.finetuning.teacher_vectors import _CHUNK, _PROBE, import_vectors, remove_tokens, teacher_vectors
from mmbert.model.config import ModelConfig
from mmbert.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def teacher(request: pytest.FixtureRequest) -> Path:
    """A language model whose vectors have 32 dimensions."""
    folder: Path = request.getfixturevalue("pretrained")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of random words in two languages, ten times as many in the first."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for code, count in (("eng_Latn", 300), ("swh_Latn", 30)):
        lines = [" ".join(draw.choices(WORDS[code], k=draw.randint(4, 12))) + "." for _ in range(count)]
        (folder / f"{code}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return folder


def _recipe(teacher: Path, corpus: Path, *, training: dict[str, Any] | None = None, **more: Any) -> FinetuneRecipe:
    distil = {"teacher": str(teacher), "text": [str(corpus)], "texts": 120, "heldout": 12, **more.pop("distil", {})}
    own = {"epochs": 1, "batch": 16, "max_tokens": 48, "precision": "fp32", "device": "cpu", **(training or {})}
    values = {"name": "distil", "task": "distil", "model": str(teacher), "distil": distil, "training": own, **more}
    return FinetuneRecipe.model_validate(values)


def test_a_fresh_student_learns_the_teacher(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(
        teacher, corpus, student={"num_layers": 1, "hidden_size": 32}, training={"epochs": 6, "learning_rate": 2e-2}
    )
    result = finetune(recipe, out=tmp_path / "run")
    before, after = result.metrics["dev_before"]["cosine"], result.metrics["dev"]["cosine"]
    assert after > before + 0.2
    final = tmp_path / "run" / "final"
    texts = ["water fire house.", "maji moto."]
    with quiet():
        library = SentenceTransformer(str(final), device="cpu")
    np.testing.assert_allclose(Embedder.load(final, precision="fp32")(texts), library.encode(texts), atol=2e-5)
    card = (final / "README.md").read_text()
    assert "distilled from" in card
    assert "Licence of the teacher" in card
    # the table is the teacher's, and was not trained
    table = library[0].model.get_input_embeddings().weight
    with quiet():
        source = SentenceTransformer(str(teacher), device="cpu")
    torch.testing.assert_close(table, source[0].model.get_input_embeddings().weight)


def test_it_goes_on_where_it_was_stopped(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    import transformers

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise KeyboardInterrupt

    recipe = _recipe(teacher, corpus, student={"num_layers": 1, "hidden_size": 16}, training={"epochs": 2})
    whole = finetune(recipe, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, out=tmp_path / "parted", callbacks=[Stop()])
    assert finetune(recipe, out=tmp_path / "parted").metrics == whole.metrics


def _by_two_processes(recipe: FinetuneRecipe, folder: Path) -> tuple[float, str]:
    """Return what the best student scores on the held-out texts, and what the run said."""
    recipe.save(folder / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29623"]
    command += ["-m", "mmbert", "finetune", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    return read_json(folder / "run" / "result.json")["chosen"], found.stderr


@pytest.mark.distributed
def test_two_processes_make_one_student(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    student = {"num_layers": 1, "hidden_size": 32}
    recipe = _recipe(teacher, corpus, student=student, distil={"projection": True})
    both, said = _by_two_processes(recipe, tmp_path)
    assert said.count("student: 1 layers") == 1
    assert said.count("texts in 2 languages") == 1
    assert both == pytest.approx(finetune(recipe, out=tmp_path / "alone").chosen, abs=1e-3)


@pytest.mark.distributed
def test_two_processes_read_documents(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    distil = {"projection": True, "documents": 2, "tokens": 1}
    both, _ = _by_two_processes(_recipe(teacher, corpus, student={"keep": 1}, distil=distil), tmp_path)
    assert both > read_json(tmp_path / "run" / "result.json")["metrics"]["dev_before"]["cosine"]


@pytest.mark.parametrize(
    ("distil", "student", "width"),
    [
        ({"matryoshka": [8, 4], "relational": 0.5}, {"num_layers": 1, "hidden_size": 16}, 16),
        ({"dimensions": 6, "center": False}, {"keep": 1}, 6),
        ({"loss": "mse", "projection": True}, {"keep": 1}, 32),
        ({"layers": [1], "train_embeddings": True}, None, 32),
        ({"documents": 4}, None, 32),
        ({"tokens": 0.5, "matryoshka": [8], "layers": [1]}, None, 32),
        ({"tokens": 2, "projection": True, "dimensions": 6}, {"keep": 1}, 6),
    ],
)
def test_options(
    distil: dict[str, Any],
    student: Any,
    width: int,
    teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    recipe = _recipe(teacher, corpus, distil=distil, student=student, training={"learning_rate": 1e-3})
    result = finetune(recipe, out=tmp_path / "run")
    assert Embedder.load(tmp_path / "run" / "final")("water").shape == (width,)
    assert result.metrics["dev"]["cosine"] == result.metrics["dev"]["score"]


def test_translations_are_retrieved_while_training(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    pairs = zip(WORDS["swh_Latn"], WORDS["eng_Latn"], strict=True)
    dev.write_text("".join(json.dumps({"query": own, "positive": english}) + "\n" for own, english in pairs))
    recipe = _recipe(teacher, corpus, data={"dev": {"path": str(dev)}}, student={"keep": 1})
    figures = finetune(recipe, out=tmp_path / "run").metrics["dev"]
    assert any("accuracy" in name for name in figures)
    assert figures["score"] == figures["cosine"]


def test_vectors_of_a_file(teacher: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [{"text": f"{a} {b}", "language": "eng_Latn", "vector": draw.normal(size=8).tolist()}
            for a in WORDS["eng_Latn"] for b in WORDS["eng_Latn"]]  # fmt: skip
    path = tmp_path / "vectors.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = _recipe(teacher, tmp_path, distil={"teacher": "", "text": [], "vectors": str(path)}, student={"keep": 1})
    finetune(recipe, out=tmp_path / "run")
    assert Embedder.load(tmp_path / "run" / "final")("water").shape == (8,)
    for wrong in ({"text": "water"}, {"text": "x", "vector": [1.0]}, {"text": "x", "vector": [float("nan")] * 8}):
        path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], wrong]))
        with pytest.raises(DataError, match=r"vectors\.jsonl:2: "):
            finetune(recipe, out=tmp_path / f"wrong{len(wrong)}{len(str(wrong))}")


def test_vectors_of_an_array(teacher: Path, tmp_path: Path) -> None:
    texts = [f"{a} {b}" for a in WORDS["eng_Latn"] for b in WORDS["swh_Latn"]]
    vectors = np.random.default_rng(0).normal(size=(len(texts), 8))
    array, table = tmp_path / "vectors.npy", tmp_path / "texts.jsonl"
    np.save(array, vectors)
    order = list(range(len(texts)))[::-1]
    rows = [{"text": texts[index], "id": index} for index in order]
    options = Distil(vectors=str(array), text=(str(table),))
    for name, some in (("ids", rows), ("order", [{"text": text} for text in texts])):
        table.write_text("".join(json.dumps(row) + "\n" for row in some))
        import_vectors(options, 1, tmp_path / name)
        kept = [json.loads(line)["text"] for line in (tmp_path / name / "texts.jsonl").read_text().splitlines()]
        found = np.load(tmp_path / name / "teacher" / "vectors.npy")
        np.testing.assert_array_equal(found, vectors[[texts.index(text) for text in kept]].astype(np.float16))
    table.write_text(json.dumps({"text": "water", "id": len(texts)}))
    with pytest.raises(DataError, match=r"texts\.jsonl:1: id \d+ is no row of .*vectors\.npy"):
        import_vectors(options, 1, tmp_path / "outside")
    array.write_bytes(b"")
    with pytest.raises(DataError, match="missing or damaged"):
        import_vectors(options, 1, tmp_path / "damaged")


@pytest.fixture
def endpoint(teacher: Path) -> Iterator[str]:
    """``/v1/embeddings`` with the vectors of an Embedder; answers 503 once, as a server that starts does."""
    embedder, asked = Embedder.load(teacher), []

    def answer(request: BaseHTTPRequestHandler) -> None:
        content = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        asked.append(content)
        if len(asked) == 1:
            request.send_error(503)
            return
        rows = [{"index": n, "embedding": v.tolist()} for n, v in enumerate(embedder(content["input"]))]
        body = json.dumps({"data": rows[::-1], "model": content["model"]}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    server = listen(answer)
    yield f"{address(server)}/v1"
    server.shutdown()
    server.server_close()
    assert len(asked) > 1, "the teacher was asked again"


def test_a_teacher_behind_an_endpoint(teacher: Path, corpus: Path, endpoint: str, tmp_path: Path) -> None:
    recipe = _recipe(teacher, corpus, distil={"endpoint": endpoint, "teacher": "any"}, student={"keep": 1})
    finetune(recipe, out=tmp_path / "run")
    found = np.load(tmp_path / "run" / "teacher" / "vectors.npy")
    texts = [json.loads(line)["text"] for line in (tmp_path / "run" / "texts.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(found, Embedder.load(teacher)(texts), atol=1e-3)


class _Counting:
    """A teacher that counts what it is asked, and fails or gives NaN where told."""

    name, digest = "counting", "a"

    def __init__(self, stop: int | None = None, nan: int | None = None, width: int = 4) -> None:
        self.asked, self._stop, self._nan, self._width = 0, stop, nan, width

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        if self._stop is not None and self.asked >= self._stop:
            raise KeyboardInterrupt
        found = np.ones((len(texts), self._width), dtype=np.float32)
        if self._nan is not None and self.asked <= self._nan < self.asked + len(texts):
            found[self._nan - self.asked, 0] = np.nan
        self.asked += len(texts)
        return found


def test_vectors_are_computed_once(tmp_path: Path) -> None:
    count = _CHUNK * 2 + 10
    texts = ChosenTexts([f"text {n}" for n in range(count)], ["eng_Latn"] * count, 0, "digest")
    with pytest.raises(KeyboardInterrupt):
        teacher_vectors(texts, tmp_path, lambda: _Counting(stop=_CHUNK))
    again = _Counting()
    assert teacher_vectors(texts, tmp_path, lambda: again).texts.shape == (count, 4)
    assert again.asked == count - _CHUNK
    third = _Counting()
    teacher_vectors(texts, tmp_path, lambda: third)
    assert third.asked == 0
    ids = [np.array([1, 2])] * count
    assert teacher_vectors(texts, tmp_path, _Counting, ids).tokens is None  # as a run of an earlier version has it
    with pytest.raises(TrainingError, match=r"holds no vectors of tokens: .* distil\.tokens=0"):
        teacher_vectors(texts, tmp_path, _Counting, ids, required=True)
    with pytest.raises(ConfigError, match="does not give a text the mean"):
        teacher_vectors(texts, tmp_path / "other", _Counting, ids, required=True)


class _Tokens(_Counting):
    """A teacher whose tokens all have the number of their text, and which reads every tenth text in its own way."""

    pools_tokens = True

    def __init__(self, stop: int | None = None, *, foreign: bool = False) -> None:
        super().__init__(stop)
        self._foreign = foreign

    def encode_tokens(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], /
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        numbers = [float(text.split()[1]) for text in texts]
        parts = [
            np.full((len(own), 4), np.nan if self._foreign or n % 10 == 3 else n)
            for n, own in zip(numbers, ids, strict=True)
        ]
        return self.encode(texts), parts


def test_vectors_of_tokens_stand_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = _CHUNK + 10
    texts = ChosenTexts([f"text {n % 100}" for n in range(count)], ["eng_Latn"] * count, 0, "digest")
    ids = [np.arange(2 + n % 5) for n in range(count)]
    with pytest.raises(KeyboardInterrupt):
        teacher_vectors(texts, tmp_path, lambda: _Tokens(stop=_CHUNK), ids)
    found = teacher_vectors(texts, tmp_path, _Tokens, ids).tokens
    assert found is not None
    ends = np.cumsum([0, *map(len, ids)])
    assert found.shape == (ends[-1], 4)
    for n in (0, 3, _CHUNK - 1, _CHUNK, count - 1):
        own, number = found[ends[n] : ends[n + 1]], n % 100
        assert np.isnan(own).all() if number % 10 == 3 else (own == number).all()
    remove_tokens(tmp_path)
    again = _Tokens()
    teacher_vectors(texts, tmp_path, lambda: again)
    assert again.asked == 0
    assert teacher_vectors(texts, tmp_path, lambda: again, ids).tokens is not None
    assert again.asked == _PROBE + count, "a run that is made again needs them again"
    other = [np.arange(2)] * count  # a teacher that reads none of them
    with pytest.raises(
        ConfigError, match=r"teacher counting reads other tokens than the student: set distil\.tokens=0"
    ):
        teacher_vectors(texts, tmp_path / "foreign", lambda: _Tokens(foreign=True), other, required=True)
    assert teacher_vectors(texts, tmp_path / "foreign", lambda: _Tokens(foreign=True), other).tokens is None
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ConfigError, match=r"take 0\.0 GB, .* distil\.tokens=0"):
        teacher_vectors(texts, tmp_path / "full", _Tokens, ids)


def test_what_is_wrong_with_a_cache(tmp_path: Path) -> None:
    count = _CHUNK + 10
    texts = ChosenTexts([f"text {n}" for n in range(count)], ["eng_Latn"] * count, 0, "digest")
    with pytest.raises(DataError, match=rf"text {_CHUNK + 3} \('text {_CHUNK + 3}'\) is not finite"):
        teacher_vectors(texts, tmp_path, lambda: _Counting(nan=_CHUNK + 3))
    with pytest.raises(DataError, match="4 dimensions, and the teacher gives 5"):
        teacher_vectors(texts, tmp_path, lambda: _Counting(width=5))
    other = _Counting()
    other.digest = "b"
    with pytest.raises(TrainingError, match="vectors of another teacher, counting"):
        teacher_vectors(texts, tmp_path, lambda: other)
    with pytest.raises(TrainingError, match="vectors of other texts"):
        teacher_vectors(ChosenTexts(["x"], ["eng_Latn"], 0, "other"), tmp_path, _Counting)
    teacher_vectors(texts, tmp_path, _Counting)
    (tmp_path / "teacher" / "vectors.npy").write_bytes(b"")
    with pytest.raises(DataError, match="missing or damaged"):
        teacher_vectors(texts, tmp_path, _Counting)


def test_texts_are_balanced_and_without_evaluation_data(corpus: Path, tmp_path: Path) -> None:
    lines = [json.loads(line)["text"] for line in (corpus / "eng_Latn.jsonl").read_text().splitlines()]
    exclude = tmp_path / "test.jsonl"
    exclude.write_text("".join(json.dumps({"nested": {"sentence": line}}) + "\n" for line in lines[:100]))
    options = Distil(text=(str(corpus),), texts=100, heldout=10, temperature=0.5, exclude=(str(exclude),))
    found = prepare_texts(options, 1, tmp_path, list)
    counts = Counter(found.languages[: found.training])
    # shares like the square roots of about 200 and 30 texts, but no more than 27 of the 30
    assert counts["swh_Latn"] in range(24, 29)
    assert found.training == 100
    assert not {*found.texts} & {*lines[:100]}
    assert len({*found.texts}) == len(found.texts)
    assert read_json(tmp_path / "texts.json")["dropped"]["evaluation data"] == 100
    assert prepare_texts(options, 1, tmp_path, list).texts == found.texts
    with pytest.raises(ConfigError, match=r"another distil\.texts"):
        prepare_texts(options.model_copy(update={"texts": 99}), 1, tmp_path, list)
    (tmp_path / "texts.jsonl").write_text('{"language": "eng_Latn", "text": "changed"}\n')
    with pytest.raises(DataError, match="was changed"):
        prepare_texts(options, 1, tmp_path, list)
    with pytest.raises(DataError, match="no text of deu_Latn"):
        prepare_texts(options.model_copy(update={"languages": ("deu_Latn",)}), 1, tmp_path / "other", list)


def test_a_trained_student_is_trained_gently() -> None:
    values: dict[str, Any] = {"task": "distil", "model": "m", "distil": {"teacher": "t", "text": ["x"]}}
    for student, optimizer, rate in ((None, "adamw", 1e-4), ({"keep": 2}, "adamw", 1e-4), ({}, "muon", 2e-3)):
        training = FinetuneRecipe.model_validate({**values, "name": "n", "student": student}).training
        assert (training.optimizer, training.learning_rate) == (optimizer, rate)


def test_lists_of_words_come_on_top(corpus: Path, tmp_path: Path) -> None:
    tokens = [
        "",
        " the",
        "ing",
        " of",
        " casa",
        " дом",
        " вода",
        "\u4e2d\u56fd",
        "\u4eba",
        " \u0939\u093f\u0928\u094d\u0926\u0940",
        " a1b",
        " don't",
    ]
    options = Distil(text=(str(corpus),), texts=100, heldout=10, vocabulary=0.5)
    found = prepare_texts(options, 1, tmp_path, lambda: tokens)
    assert (found.training, found.heldout) == (150, 10)
    lists = [text for text, language in zip(found.texts, found.languages, strict=True) if language == "und"]
    assert len(lists) == 50
    scripts = [{"the", "casa"}, {"дом", "вода"}, {"\u4e2d\u56fd"}, {"\u0939\u093f\u0928\u094d\u0926\u0940"}]
    for text in lists:
        assert LEAST <= len(text.split()) <= MOST
        assert any({*text.split()} <= script for script in scripts), text
    assert {word for text in lists for word in text.split()} == set.union(*scripts)
    assert "und" not in found.languages[found.training :]  # the student is compared on texts that somebody wrote
    assert word_texts(["", "##ing"], 5, 0) == []


def test_a_field_names_the_language(tmp_path: Path) -> None:
    rows = [{"text": f"{one} and {other} are free", "lang": "swh_Latn"} for one in WORDS["eng_Latn"] for other in "ab"]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Distil(text=(str(tmp_path / "mixed.jsonl"),), language_field="lang", texts=8)
    assert {*prepare_texts(options, 0, tmp_path / "run", list).languages} == {"swh_Latn"}


def test_passages_are_whole_sentences() -> None:
    options = Distil(shortest=20, longest=120)
    sentence = "The cat sat on a mat and slept. "
    dropped = {"evaluation data": 0}
    found = list(passages(sentence * 50 + "x" * 500, options, 0, set(), dropped))
    assert all(20 <= len(text) <= 120 for text in found)
    assert all(text.endswith(".") for text in found[:-1])
    assert len({len(text) for text in found}) > 1
    assert " ".join(found[:-1]).count("cat") == 50


def test_targets_keep_similarities() -> None:
    rows = (np.random.default_rng(0).normal(size=(200, 12)) + 3).astype(np.float16)
    rows[:, 6:] = 3  # six dimensions hold all that differs
    plain = make_targets(rows, 200, Distil(), 12)(slice(0, 50))
    turned = make_targets(rows, 200, Distil(dimensions=6), 12)(slice(0, 50))
    torch.testing.assert_close(turned @ turned.T, plain @ plain.T, atol=1e-4, rtol=0)
    assert plain.mean().abs() < 0.05
    away = make_targets(rows, 200, Distil(center=False, matryoshka=(4,)), 12)(slice(0, 50))
    raw = torch.nn.functional.normalize(torch.from_numpy(rows[:50].astype(np.float32)))
    torch.testing.assert_close(away @ away.T, raw @ raw.T, atol=1e-4, rtol=0)
    for options, says in ((Distil(dimensions=13), "dimensions 13"), (Distil(matryoshka=(20,)), "matryoshka 20")):
        with pytest.raises(ConfigError, match=says):
            make_targets(rows, 200, options, 16)


def test_texts_of_a_document_have_the_vectors_of_late_chunking(teacher: Path) -> None:
    """What the loss compares is what ``Embedder.passages`` gives for the joined text."""
    texts = ["water fire house", "maji moto", "bread and water by the river"]
    with quiet():
        model = dense_model("a", teacher, Embed(normalize=True), 64)
    loss = DistilLoss(model, make_targets(np.eye(32, dtype=np.float16), 32, Distil(), 32), Distil(documents=3))
    vectors = loss._late(model.preprocess(texts))
    starts = [0, len(texts[0]), len(texts[0] + texts[1])]
    joined = "".join(texts)  # the tokenizer puts no space before a text
    spans = [(start, start + len(text)) for start, text in zip(starts, texts, strict=True)]
    late = Embedder.load(teacher, precision="fp32").passages(joined, by=[spans])
    assert vectors.shape == (3, 32)
    whole = Tokenizer.load(teacher).encode(joined)
    parts = [index for text in texts for index in Tokenizer.load(teacher).encode(text)[1:-1]]
    assert whole[1:-1] == parts, "else the two read other tokens"
    np.testing.assert_allclose(vectors.detach().numpy(), late.vectors, atol=2e-5)


def test_tokens_are_parts_of_a_text(teacher: Path, tmp_path: Path) -> None:
    """The mean of a teacher's tokens is the vector of the text; a prompt's tokens are left out of what is learned."""
    texts, tokenizer = ["water fire house", "maji"], Tokenizer.load(teacher)
    ids = [[tokenizer.bos_id, *tokenizer.encode_batch([text])[0].tolist(), tokenizer.eos_id] for text in texts]
    plain = LocalTeacher(Distil(teacher=str(teacher), prompt=""), "cpu")
    assert plain.pools_tokens
    vectors, tokens = plain.encode_tokens(texts, ids)
    np.testing.assert_allclose(vectors, plain.encode(texts), atol=1e-6)
    for vector, own, part in zip(vectors, ids, tokens, strict=True):
        assert part.shape == (len(own), 32)
        np.testing.assert_allclose(part.mean(0), vector, atol=1e-5)
    with quiet():
        unit = SentenceTransformer(str(teacher), device="cpu")
        unit.append(Normalize())
        unit.save(str(tmp_path))
    ended = LocalTeacher(Distil(teacher=str(tmp_path), prompt=""), "cpu")
    assert ended.pools_tokens
    for vector, part in zip(*ended.encode_tokens(texts, ids), strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(part.mean(0), vector, atol=1e-5)
    # Behind a prompt this tokenizer's first word has a space before it and is another token.
    prompted = LocalTeacher(Distil(teacher=str(teacher), prompt="fire "), "cpu").encode_tokens(texts, ids)[1]
    for own, part in zip(ids, prompted, strict=True):
        missing = np.isnan(part).any(1)
        assert missing.tolist() == [False, True, *[False] * (len(own) - 2)]
    other = plain.encode_tokens(texts, [[99, *ids[0][:-1], 98], ids[1]])[1]
    assert np.isnan(other[0]).all()
    np.testing.assert_array_equal(other[1], tokens[1])


def test_the_loss_of_tokens_compares_each_with_its_own(teacher: Path) -> None:
    """A student that is the teacher has none of it; texts that the two read differently are left out."""
    texts, tokenizer = ["water fire house", "maji", "fire"], Tokenizer.load(teacher)
    ids = [[tokenizer.bos_id, *tokenizer.encode_batch([text])[0].tolist(), tokenizer.eos_id] for text in texts]
    options = Distil(teacher=str(teacher), prompt="", center=False)
    vectors, parts = LocalTeacher(options, "cpu").encode_tokens(texts, ids)
    rows = np.concatenate(parts).astype(np.float16)
    targets = make_targets(vectors.astype(np.float16), 3, options, 32)
    ends = np.cumsum([0, *map(len, ids)])
    with quiet():
        model = dense_model("a", teacher, Embed(normalize=True), 64)

    def loss_of(rows: np.ndarray, texts: list[str], labels: list[int]) -> float:
        whole = DistilLoss(model, targets, options, TokenTargets(rows, ends, targets))
        none = DistilLoss(model, targets, options)
        features = model.preprocess(texts)
        index = torch.tensor(labels)
        with torch.inference_mode():
            return float(whole([dict(features)], index) - none([dict(features)], index))

    assert loss_of(rows, texts, [0, 1, 2]) == pytest.approx(0, abs=1e-4)
    assert loss_of(rows, texts[::-1], [2, 1, 0]) == pytest.approx(0, abs=1e-4)
    turned = np.concatenate([rows[: ends[1]], -rows[ends[1] :]])
    share = (ends[3] - ends[1]) / ends[3]
    assert loss_of(turned, texts, [0, 1, 2]) == pytest.approx(2 * share, abs=1e-3)
    turned[ends[1] :] = np.nan
    assert loss_of(turned, texts, [0, 1, 2]) == pytest.approx(0, abs=1e-4)
    model.max_seq_length = 4  # the first text is cut, and left out
    assert loss_of(-rows[: ends[3]], texts, [0, 1, 2]) == pytest.approx(2, abs=1e-3)
    model.max_seq_length = 64
    turned[:] = np.nan
    assert loss_of(turned, texts, [0, 1, 2]) == 0


def test_texts_are_joined() -> None:
    ids = torch.tensor([[2, 10, 11, 1], [2, 1, 0, 0], [2, 12, 1, 0], [2, 13, 1, 0]])
    documents, spans = join_texts(ids, (ids != 0).long(), 3)
    assert documents.tolist() == [[2, 10, 11, 2, 12, 1], [2, 13, 1, -1, -1, -1]]
    assert spans == [(0, 0, 3), (0, 3, 4), (0, 4, 6), (1, 0, 3)]


def test_relational_loss() -> None:
    """It is 0 where all similarities agree, whatever the space, and else the KL divergence of a formula by hand."""
    draw = torch.Generator().manual_seed(0)
    targets = torch.randn(5, 8, generator=draw)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw))[0]
    assert relational(targets @ turn, targets, 0.1).abs() < 1e-5
    vectors = torch.randn(5, 8, generator=draw)
    own, goal = (torch.nn.functional.normalize(each) for each in (vectors, targets))
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        p, q = ((each[i] @ each[others].T / 0.1).softmax(0) for each in (goal, own))
        total += float((p * (p / q).log()).sum())
    assert relational(vectors, targets, 0.1).item() == pytest.approx(total / 5, rel=1e-4)


def test_layers_that_are_kept() -> None:
    base = ModelConfig.preset("base")
    assert spread(base, 1) == [0]
    kept = spread(base, 11)
    assert kept[0] == 0
    assert kept == sorted({*kept})
    assert all(base.is_global(layer) == base.is_global(place) for place, layer in enumerate(kept))
    assert max(after - before for before, after in itertools.pairwise(kept)) <= 4
    for count in (0, 22, 30):
        with pytest.raises(ConfigError, match=r"student\.keep"):
            spread(base, count)


def test_narrower_embeddings_keep_what_differs() -> None:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(50, 4, generator=draw) @ torch.randn(4, 10, generator=draw)
    reduced = reduce_width(table, 4)
    torch.testing.assert_close(torch.pdist(reduced), torch.pdist(table), atol=1e-4, rtol=0)
    assert reduce_width(table, 10) is table


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: mit\n---\n", "mit"), ("# none\n", None), ("---\n[\n---", None)]
)
def test_licence(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert stated_licence(Distil(teacher=str(tmp_path))) == licence
    assert stated_licence(Distil(teacher="a", endpoint="http://b")) is None


def test_command(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    words = [
        "distill", str(teacher), str(corpus), "--out", str(tmp_path / "run"), "--student", "1x32", "--texts", "64",
        "--languages", "eng_Latn", "--set", "training.epochs=1", "--set", "distil.heldout=8",
    ]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"model   {tmp_path / 'run' / 'final'}" in result.output
    recipe = FinetuneRecipe.load(tmp_path / "run" / "recipe.yaml")
    assert recipe.distil.languages == ("eng_Latn",)
    assert recipe.student is not None
    wrong = CliRunner().invoke(app, [*words, "--keep", "2"])
    assert isinstance(wrong.exception, ConfigError)


@pytest.mark.parametrize(
    ("head", "task"), [("classes", "classify"), ("tags", "tag"), ("ranks", "rerank"), ("masks", "embed")]
)
def test_the_task_is_that_of_the_teacher(head: str, task: str, heads: Path, tmp_path: Path) -> None:
    assert task_of(str(heads / head))[0] == task
    if task in ("classify", "tag"):
        text = tmp_path / "text.txt"
        text.write_text(
            "\n".join(f"{one} and {other} are free" for one in WORDS["eng_Latn"] for other in WORDS["swh_Latn"])
        )
        words = ["distill", str(heads / head), str(text), "--out", str(tmp_path / "run"), "--student", "1x16"]
        result = CliRunner().invoke(app, [*words, "--set", "training.max_steps=2"])
        assert result.exit_code == 0, result.output
        recipe = FinetuneRecipe.load(tmp_path / "run" / "recipe.yaml")
        assert (recipe.task, recipe.teacher and recipe.teacher.model) == (task, str(heads / head))
        for more, says in ((["--prompt", "query"], "--prompt is for sentence encoders"), ([str(text)], "given: 2")):
            assert says in str(CliRunner().invoke(app, [*words, *more]).exception)


def test_prompts() -> None:
    named = {"query": "query: ", "passage": "passage: "}
    assert choose_prompt(None, named, None, "t") == "query: "
    assert choose_prompt(None, named, "passage", "t") == "passage: "
    assert choose_prompt("passage", named, None, "t") == "passage: "
    assert choose_prompt("ask: ", named, None, "t") == "ask: "
    assert choose_prompt(None, {}, None, "t") == ""


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"distil": {"teacher": "no/such/folder"}}, WeightsError, "teacher no/such/folder"),
        ({"distil": {"teacher": ""}}, ConfigError, r"distil\.teacher is empty"),
        ({"distil": {"text": []}}, ConfigError, r"distil\.text names no text"),
        ({"distil": {"text": ["gone"]}}, DataError, "gone"),
        ({"student": {"hidden_size": 64}}, ConfigError, "more than the 32 of the token embeddings"),
        ({"student": {"hidden_size": 15}}, ConfigError, "even multiple"),
        ({"student": {"keep": 9}}, ConfigError, r"student\.keep 9"),
        ({"distil": {"layers": [7]}}, ConfigError, r"distil\.layers"),
        ({"distil": {"projection": False, "dimensions": 4}}, ConfigError, "projection false"),
        ({"distil": {"endpoint": "127.0.0.1"}}, ConfigError, "is no URL"),
    ],
)
def test_what_is_wrong(
    changes: dict[str, Any],
    kind: type[MMBertError],
    says: str,
    teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=says) as caught:
        finetune(_recipe(teacher, corpus, **changes), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "final").exists()


def test_the_recipe_and_its_plan(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    recipes = recipe_names.RECIPES / "finetune"
    changes = [
        f"model={teacher}", f"distil.teacher={teacher}", f"distil.text=[{corpus}]", "distil.texts=64",
        "student={num_layers: 1, hidden_size: 32}", "training.epochs=1", "distil.heldout=8",
    ]  # fmt: skip
    recipe = FinetuneRecipe.load(recipes / "distil.yaml", changes)
    plan = dict(dry_run(recipe, tmp_path / "run"))
    assert plan["text"] == "at most 64 texts of 2 files, and 13 lists of words"
    assert plan["steps"].startswith("2 (1 epoch of 2, batches of 64)")
    assert "tokenizer and token embeddings" in plan["student"]
    with pytest.raises(DataError, match="gone"):
        dry_run(recipe.changed({"distil.text": ["gone"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "gone.yaml").write_text("")
    assert finetune(recipe, out=tmp_path / "run").chosen is not None


@pytest.mark.parametrize(
    ("distil", "student", "says"),
    [
        ({"endpoint": "http://x", "vectors": "y"}, None, "two sources"),
        ({"vectors": "y", "text": ["z"]}, None, "remove text"),
        ({"vectors": "y.npy"}, None, "name the one file"),
        ({"longest": 20, "shortest": 30}, None, "less than shortest"),
        ({}, {"keep": 2, "num_layers": 3}, "remove num_layers"),
        ({"data": {"train": {"path": "rows.jsonl"}}}, None, r"texts in distil\.text"),
    ],
)
def test_options_that_do_not_go_together(distil: dict[str, Any], student: Any, says: str) -> None:
    data = distil.get("data", {})
    distil = {key: value for key, value in distil.items() if key != "data"}
    values = {"name": "a", "task": "distil", "model": "b", "distil": distil, "student": student, "data": data}
    with pytest.raises(ValueError, match=says):
        FinetuneRecipe.model_validate(values)
