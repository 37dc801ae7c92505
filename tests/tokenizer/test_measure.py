from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli.tokenizer import app
from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.tokenizer.measure import measure
from mmbert.tokenizer.tokenizer import Tokenizer


def test_counts_are_those_of_the_text(trained: Tokenizer) -> None:
    texts = [("eng_Latn", "free and equal"), ("amh_Ethi", "ሰላም"), ("eng_Latn", " rights"), ("fra_Latn", "")]
    worst, english = measure(trained, texts)
    assert worst.language == "amh_Ethi"
    assert worst.byte_fallback_rate == 1.0
    assert worst.bytes_per_token == 1.0
    assert worst.characters_per_token == pytest.approx(1 / 3)
    ids = [*trained.encode("free and equal")[1:-1], *trained.encode(" rights")[1:-1]]
    assert english.tokens == len(ids)
    assert english.bytes == 21
    assert english.characters == 21
    assert english.tokens_per_word == len(ids) / 4
    assert english.bytes_per_token == 21 / len(ids)
    assert english.byte_fallback_rate == 0.0


def test_batches_do_not_change_counts(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [(f"l{i % 3}", "born free and equal " * (i % 7)) for i in range(60)]
    whole = measure(trained, texts)
    monkeypatch.setattr("mmbert.tokenizer.measure._BATCH", 50)
    assert measure(trained, texts) == whole
    cut = {f.language: f.characters for f in measure(trained, texts, max_characters=70)}
    assert cut == {"l0": 70, "l1": 70, "l2": 70}


@pytest.fixture
def corpus(texts: list[tuple[str, str]], tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for language in dict(texts):
        lines = [json.dumps({"text": text}) for code, text in texts if code == language]
        (folder / f"{language}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def test_commands(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    made = CliRunner().invoke(
        app,
        ["train", str(corpus), "--out", str(out), "--vocab-size", "600", "--temperature", "0.5"],
        catch_exceptions=False,
    )
    assert made.exit_code == 0
    tokenizer = Tokenizer.load(out)
    assert tokenizer.vocab_size == 600
    assert tokenizer.fingerprint in made.stdout
    table = CliRunner().invoke(app, ["measure", str(out), str(corpus)], catch_exceptions=False)
    assert "Faroese" in table.stdout
    assert "bytes/token" in table.stdout
    lines = CliRunner().invoke(app, ["measure", str(out), str(corpus), "--json"], catch_exceptions=False).stdout
    rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    assert len(rows) == 10
    assert [row["bytes_per_token"] for row in rows] == sorted(row["bytes_per_token"] for row in rows)


def test_train_on_a_recipe(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        f"""
name: tiny
tokenizer: {{vocab_size: 640, prefix_space: true}}
sources: {{rights: {{kind: jsonl, path: {corpus}, id_field: null}}}}
cleaning: {{deduplicate: false, max_repetition: 1.0, holdout: 0}}
model: {{hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1}}
phases:
  one: {{tokens: 64, data: {{temperature: 1}}, context: 16, mask_rate: 0.3, batch: 32, micro_batch: 32, peak_lr: 1e-3}}
""",
        encoding="utf-8",
    )
    done = CliRunner().invoke(
        app, ["train", "tiny.yaml", "--out", "made", "--vocab-size", "620"], catch_exceptions=False
    )
    assert done.exit_code == 0
    tokenizer = Tokenizer.load(tmp_path / "made")
    assert tokenizer.vocab_size == 620, "an option overrides the recipe"
    assert tokenizer.id_to_token(tokenizer.encode("born")[1])[0] == " ", "the recipe's prefix"  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["measure", "/no/tokenizer", "x"], TokenizerError, "no tokenizer at /no/tokenizer"),
        (["train", "/no/text", "--out", "/no/out"], DataError, "/no/text"),
        (["train", "a.yaml", "b.jsonl", "--out", "/no/out"], ConfigError, "one recipe"),
    ],
)
def test_commands_say_what_is_wrong(arguments: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
