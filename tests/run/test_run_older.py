"""A whole recipe with the tokenizer of an older encoder: its special tokens are those of the model that is written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from test_run import RECIPE, WORDS

from mmbert import FillMask, Recipe, Tokenizer, run
from mmbert.estimate.dry_run import dry_run
from older_tokenizers import older_json


@pytest.mark.parametrize("form", ["unigram", "wordpiece"])
def test_a_recipe_runs_with_an_older_tokenizer(form: str, tmp_path: Path) -> None:
    chance = random.Random(0)
    (tmp_path / "text").mkdir()
    for language, words in WORDS.items():
        rows = [json.dumps({"text": " ".join(chance.choices(words, k=40))}, ensure_ascii=False) for _ in range(60)]
        (tmp_path / "text" / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = Tokenizer(older_json(form, [" ".join(words) for words in WORDS.values()] * 5, size=300), form)
    words.save(tmp_path / "words")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    changes = [
        f"tokenizer={tmp_path / 'words'}", "merge=null", "evaluation={context: 64, tokens_per_language: 500}",
        *(f"phases.{phase}=null" for phase in ("extend", "decay_all", "decay_eng")),
        "phases.pretrain.data={temperature: 1, max_epochs: null}", "phases.pretrain.whole_words=true",
    ]  # fmt: skip
    recipe, threads = Recipe.load(path, changes), torch.get_num_threads()
    assert dry_run(recipe, folder=tmp_path).config.vocab_size == words.vocab_size
    done = run(recipe, out=tmp_path / "run")
    torch.set_num_threads(threads)
    fill = FillMask.load(done.folder / "final")
    written = json.loads((done.folder / "final" / "config.json").read_text())
    assert {role: written[f"{role}_token_id"] for role in words.role_ids} == words.role_ids
    assert (written["cls_token_id"], written["sep_token_id"]) == (words.bos_id, words.eos_id)
    assert fill.loaded.tokenizer.specials == words.specials
    first, *_ = fill(f"the cat sat {fill.mask} a warm red mat")
    assert first.score > 0.02
