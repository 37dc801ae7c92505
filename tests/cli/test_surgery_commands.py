"""``mmbert trim``, ``extend`` and ``convert`` as typed: which text they read, what they print, what they refuse."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmbert.cli.main import app
from mmbert.data.prepare import prepare_text
from mmbert.errors import ConfigError, DataError
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe import Recipe, TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

TEXTS = {
    "eng_Latn": ["A stitch in time saves nine.", "The early bird catches the worm.", "All ways lead to Rome."],
    "swh_Latn": ["Haraka haraka haina baraka.", "Haba na haba hujaza kibaba.", "Akili ni mali."],
    "ell_Grek": ["Το γοργόν και χάριν έχει.", "Η καλή μέρα από το πρωί φαίνεται.", "Όλοι οι δρόμοι οδηγούν στη Ρώμη."],
}
CHEROKEE = "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᎶᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and the texts as ``text/<language>.jsonl.gz`` and in one ``mixed.jsonl``."""
    pairs = [(language, text) for language, texts in TEXTS.items() for text in texts * 2]
    tokenizer = train_tokenizer(pairs, TokenizerTraining(vocab_size=640))
    torch.manual_seed(0)
    model = MaskedLM(
        ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1)
    )
    model.save(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    (tmp_path / "text").mkdir()
    for language, texts in TEXTS.items():
        with gzip.open(tmp_path / "text" / f"{language}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    rows = [{"text": text, "language": language} for language, texts in TEXTS.items() for text in texts]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def mmbert(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_trim(folder: Path) -> None:
    arguments = ["--languages", "eng,swh_Latn", "--out", folder / "out"]
    said = mmbert("trim", folder / "model", "--text", folder / "text", *arguments)
    new, old = Tokenizer.load(folder / "out"), Tokenizer.load(folder / "model")
    row = next(line.split() for line in said.splitlines() if line.startswith("tokens"))
    assert row[1:] == [str(old.vocab_size), str(new.vocab_size), f"{new.vocab_size / old.vocab_size:.1%}"]
    assert "6 of 6 documents have the same tokens as before (100.0%)" in said
    assert new.decode(new.encode("Το γοργόν")) == "Το γοργόν"
    assert len(new.encode("Το γοργόν")) > len(old.encode("Το γοργόν")), "Greek is spelled in bytes now"
    record = json.loads((folder / "out" / "trim.json").read_text())
    assert record["languages"] == ["eng", "swh_Latn"]
    assert (record["documents"], record["check"]["same"], record["after"]["tokens"]) == (6, 6, new.vocab_size)
    files = {path.name for path in (folder / "out").iterdir()}
    mixed = ["--text", folder / "mixed.jsonl", "--languages", "eng,swh_Latn", "--out", folder / "mixed"]
    assert mmbert("trim", folder / "model", *mixed) == said, "from one file whose documents name their language"
    assert (folder / "mixed" / "tokenizer.json").read_bytes() == (folder / "out" / "tokenizer.json").read_bytes()
    assert files == {path.name for path in (folder / "mixed").iterdir()}


def test_trim_by_a_runs_text_and_check_on_other(folder: Path) -> None:
    source = {"words": {"kind": "jsonl", "path": str(folder / "text")}}
    phase = {"tokens": 1024, "data": {"temperature": 1.0}, "context": 64, "mask_rate": 0.3, "batch": 512,
             "micro_batch": 512, "peak_lr": 1e-3}  # fmt: skip
    recipe = Recipe.model_validate({
        "name": "little", "sources": source, "phases": {"only": phase}, "tokenizer": "x",
        "cleaning": {"min_characters": 1, "holdout": 0.0},
        "model": {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 1},
    })  # fmt: skip
    prepare_text(recipe, folder / "run" / "data")
    shutil.rmtree(folder / "text")
    out = ["--out", folder / "out", "--languages", "swh", "--check", folder / "mixed.jsonl"]
    said = mmbert("trim", folder / "model", "--text", folder / "run", *out)
    assert "of the text to check: 3 of 3 documents have the same tokens as before" in said
    assert json.loads((folder / "out" / "trim.json").read_text())["documents"] == 3


def test_text_without_a_language(folder: Path) -> None:
    (folder / "plain.txt").write_text("A stitch in time.\n\nSaves nine.\n")
    said = mmbert("trim", folder / "model", "--text", folder / "plain.txt", "--out", folder / "out")
    assert "2 of 2 documents" in said
    with pytest.raises(DataError, match=r"no text of fra_Latn, jpn in .*text"):
        mmbert("trim", folder / "model", "--text", folder / "text", "--languages", "fra_Latn,jpn,eng", "--out", "x")
    with pytest.raises(ConfigError, match="frx"):
        mmbert("trim", folder / "model", "--text", folder / "text", "--languages", "frx_Latx", "--out", "x")
    (folder / "nameless.jsonl").write_text('{"text": "A stitch in time."}\n')
    with pytest.raises(DataError, match=r"nameless\.jsonl:1: no language in field 'language'.*: set --language-field"):
        mmbert("trim", folder / "model", "--text", folder / "nameless.jsonl", "--languages", "eng", "--out", "x")


def test_extend(folder: Path) -> None:
    (folder / "chr.jsonl").write_text(json.dumps({"text": CHEROKEE}) + "\n" + json.dumps({"text": CHEROKEE + " ᎠᎴ"}))
    said = mmbert(
        "extend", folder / "model", "--text", folder / "chr.jsonl", "--tokens", 40, "--keep", folder / "text",
        "--out", folder / "out",
    )  # fmt: skip
    new, old = Tokenizer.load(folder / "out"), Tokenizer.load(folder / "model")
    assert new.vocab_size == old.vocab_size + 40
    assert "20 characters, 20 merges" in said
    assert "of the text to keep: 9 of 9 documents have the same tokens as before (100.0%)" in said
    assert len(new.encode(CHEROKEE)) < len(old.encode(CHEROKEE)) / 2
    record = json.loads((folder / "out" / "extend.json").read_text())
    assert len(record["merges"]) == 20
    assert record["check"]["new"]["after"] < record["check"]["new"]["before"] / 2


def test_convert(folder: Path) -> None:
    torch.manual_seed(1)
    made = MaskedLM(ModelConfig(vocab_size=900, hidden_size=64, intermediate_size=16, num_layers=1, num_heads=1))
    state = {}
    for name, value in made.state_dict().items():
        name = name.replace("model.layers.", "bert.encoder.layers.").replace("model.", "bert.")
        state["model." + name] = value
    (folder / "pretrain").mkdir()
    torch.save({"state": {"model": state}}, folder / "pretrain" / "ep0.pt")
    arguments = ["--out", folder / "out", "--tokenizer", folder / "model"]
    said = mmbert("convert", folder / "pretrain" / "ep0.pt", *arguments)
    assert f"parameters  {sum(value.numel() for value in made.parameters()):,}" in said
    assert "RoPE bases  10000 global, 10000 local" in said
    loaded = MaskedLM.load(folder / "out")
    assert torch.equal(loaded.decoder.bias, made.decoder.bias)
    assert Tokenizer.load(folder / "out").vocab_size <= 900
