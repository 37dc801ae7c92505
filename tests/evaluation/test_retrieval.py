from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbert.arrays import unit
from mmbert.errors import DataError, NotFiniteOutput
from mmbert.evaluation import retrieval
from mmbert.evaluation.results import LanguageRetrieval, summarise_retrieval
from mmbert.evaluation.retrieval import (
    Pair,
    embed,
    evaluate_retrieval,
    evaluate_spelling,
    read_pairs,
    trigrams,
)
from mmbert.inference.load import Loaded
from mmbert.metrics.bitext import accuracy_both_ways
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"id": i, "text": t, "english": e}) + "\n" for i, (t, e) in enumerate(pairs))
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def numbered(language: str, number: int) -> list[tuple[str, str]]:
    return [(f"{language} mot {i}", f"word {i}") for i in range(number)]


def test_accuracy_by_hand() -> None:
    source = unit(np.array([[1.0, 0], [0, 1], [1, 1]]))
    target = unit(np.array([[1.0, 0.1], [1, 1], [0.1, 1]]))
    # row 0 finds 0; rows 1 and 2 find each other's; back: 0 finds 0, 1 finds 2, 2 finds 1
    assert accuracy_both_ways(source, target) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert accuracy_both_ways(source, source) == (1.0, 1.0)


def test_ties_are_shared_so_that_knowing_nothing_scores_chance() -> None:
    same = np.tile(unit(np.ones((1, 4))), (8, 1))
    assert accuracy_both_ways(same, same) == (1 / 8, 1 / 8)
    nothing = np.zeros((8, 4), dtype=np.float32)
    assert accuracy_both_ways(nothing, nothing) == (1 / 8, 1 / 8)


def test_trigrams_see_spelling_not_case_or_script() -> None:
    vectors = trigrams(["Internet", "INTERNET", "Internetul", "абв", ""])
    similar = vectors @ vectors.T
    assert similar[0, 1] == pytest.approx(1)
    assert 0.5 < similar[0, 2] < 0.95
    assert similar[0, 3] == 0
    assert not vectors[4].any()


def test_pairs_are_read_from_files_and_folders(tmp_path: Path) -> None:
    write_pairs(tmp_path / "fra_Latn.jsonl", numbered("fr", 12))
    write_pairs(tmp_path / "deu_Latn" / "test.jsonl.gz", numbered("de", 12))
    write_pairs(tmp_path / "deu_Latn" / "train.jsonl.gz", numbered("other", 50))
    write_pairs(tmp_path / "eng_Latn.jsonl", numbered("en", 12))
    write_pairs(tmp_path / "few_Latn.jsonl", numbered("few", retrieval.MIN_PAIRS - 1))
    found = read_pairs(tmp_path, 100)
    assert {language: len(pairs) for language, pairs in found.items()} == {"deu_Latn": 12, "fra_Latn": 12}


def test_what_is_spelled_alike_or_asked_twice_is_dropped(tmp_path: Path) -> None:
    pairs = [
        *numbered("fr", 12),
        ("Internet!", "internet"), ("E-Mail", "email"), ("...", "—"),  # alike but for case, space and signs
        ("fr mot 3", "another"), ("autre", "Word 5"),  # a text and an English that are there already
    ]  # fmt: skip
    write_pairs(tmp_path / "fra_Latn.jsonl", pairs)
    found = read_pairs(tmp_path, 100)["fra_Latn"]
    assert sorted(pair.english for pair in found) == sorted(f"word {i}" for i in range(12))


def test_the_limit_keeps_the_same_messages_in_every_language(tmp_path: Path) -> None:
    write_pairs(tmp_path / "fra_Latn.jsonl", numbered("fr", 40))
    write_pairs(tmp_path / "deu_Latn.jsonl", numbered("de", 40)[::-1])
    found = read_pairs(tmp_path, 10)
    assert [p.english for p in found["fra_Latn"]] == [p.english for p in found["deu_Latn"]]
    assert len(found["fra_Latn"]) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fra.jsonl", b'{"text": "a", "english": "b"}\n{"text": "a"}\n', "fra.jsonl:2: no field 'english'"),
        ("fra.jsonl", b"[1]\n", "fra.jsonl:1: 1 is not a JSON object"),
        ("fra.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
        ("fra.jsonl", b'{"text": "a", "english": null}\n', "fra.jsonl:1: field 'english' holds null, not text"),
        ("fra.jsonl.gz", gzip.compress(b'{"text": "a", "english": "b"}\n' * 2000)[:-20], "cut short"),
        ("fra.jsonl.gz", b"\x1f\x8c gzip", "corrupt"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path, 100)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_pairs(tmp_path / "nowhere", 100)


Load = Callable[[MaskedLM], Loaded]


@pytest.mark.parametrize("batch", [1, 64, 10_000])
def test_embedding_is_the_mean_of_the_hidden_states(
    model: MaskedLM, tokenizer: Tokenizer, loaded: Load, batch: int
) -> None:
    texts = ["All human beings", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι", "born", "dignity and rights " * 40]
    vectors = embed(loaded(model), texts, batch=batch, context=64, precision="fp32")
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            hidden = model.eval().encode(tokenizer.pack([text], max_tokens=64).to())
        expected = hidden.mean(dim=0).numpy()
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_a_vector_that_is_not_finite_names_its_text(model: MaskedLM, tokenizer: Tokenizer, loaded: Load) -> None:
    with torch.no_grad():
        model.model.embeddings.tok_embeddings.weight[tokenizer.encode("zebra")[1]] = torch.tensor([3e38, -3e38] * 16)
    with pytest.raises(NotFiniteOutput, match=r"^text 1 \('zebra'\): the model's result holds NaN"):
        embed(loaded(model), ["good", "zebra"], batch=64, context=64, precision="fp32")


def test_a_language_that_is_english_is_found_and_noise_is_not(model: MaskedLM, loaded: Load) -> None:
    words = [f"{a} {b}" for a in ("born", "free", "equal", "human") for b in ("rights", "reason", "dignity", "beings")]
    same = [Pair(word, word) for word in words]
    shifted = [Pair(word, other) for word, other in zip(words, [*words[1:], words[0]], strict=True)]
    pairs = {"aaa": same, "bbb": shifted}
    found = {r.language: r for r in evaluate_retrieval(loaded(model), pairs, evaluate_spelling(pairs), context=64)}
    assert found["aaa"].accuracy == found["aaa"].centred == found["aaa"].spelling == 1.0
    assert found["bbb"].accuracy == found["bbb"].spelling == 0.0
    assert found["aaa"].chance == 1 / 16


def result(pairs: int, forward: float, back: float) -> LanguageRetrieval:
    return LanguageRetrieval(
        language="x", pairs=pairs, to_english=forward, from_english=back, centred_to_english=0.5,
        centred_from_english=0.7, spelling_to_english=0.0, spelling_from_english=0.1,
    )  # fmt: skip


def test_summary_by_hand() -> None:
    found = summarise_retrieval([result(100, 0.1, 0.3), result(25, 0.0, 0.2)])
    assert found is not None
    error = math.sqrt(0.01 * 0.99 / 100 + 0.04 * 0.96 / 25) / 2
    assert found.accuracy == pytest.approx(0.15)
    assert found.chance == pytest.approx(0.025)
    assert found.centred == pytest.approx(0.6)
    assert found.spelling == pytest.approx(0.05)
    assert found.z == pytest.approx((0.15 - 0.025) / error)
    assert (found.languages, found.pairs) == (2, 125)
    assert summarise_retrieval([]) is None


def test_the_standard_error_is_that_of_random_vectors() -> None:
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(400):
        found = [
            result(n, *accuracy_both_ways(unit(rng.normal(size=(n, 16))), unit(rng.normal(size=(n, 16)))))
            for n in (10, 20, 40)
        ]
        summary = summarise_retrieval(found)
        assert summary is not None
        scores.append(summary.z)
    assert abs(np.mean(scores)) < 0.2
    assert 0.5 < np.std(scores) <= 1.05  # both directions together are a little surer than the one it counts
