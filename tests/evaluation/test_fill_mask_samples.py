from __future__ import annotations

import pytest
import torch
from human_rights import TEXTS

from mmbert.evaluation.fill_mask_samples import MaskedSentence, choose_sentences, fill
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer
from older_tokenizers import FORMS, older_json

LISTED = {language: [text] for language, text in TEXTS.items()}


def test_one_of_each_script_comes_first(tokenizer: Tokenizer) -> None:
    found = [sentence.language for sentence in choose_sentences(LISTED, tokenizer, limit=3)]
    assert {code.partition("_")[2] for code in found} == {"Latn", "Grek", "Deva"}
    assert [s.language for s in choose_sentences(LISTED, tokenizer)][3:] == ["eng_Latn"]  # less text than French


def test_the_choice_is_fixed_by_the_seed(tokenizer: Tokenizer) -> None:
    many = {language: [f"{text} {word}." for word in text.split()] for language, text in TEXTS.items()}
    first = choose_sentences(many, tokenizer, seed=1)
    assert choose_sentences(many, tokenizer, seed=1) == first
    assert choose_sentences(many, tokenizer, seed=2) != first


def test_the_hidden_token_can_be_read_and_the_rest_is_as_it_was(model: MaskedLM, tokenizer: Tokenizer) -> None:
    sentences = choose_sentences(LISTED, tokenizer)
    for sentence, filled in zip(sentences, fill(model, tokenizer, sentences, top=4), strict=True):
        truth = filled.truth.removeprefix("▁")
        assert all(c.isalpha() or not c.isascii() for c in truth)
        assert filled.before + truth + filled.after == tokenizer.decode(sentence.ids)
        assert len(filled.guesses) == 4
        probabilities = [guess.probability for guess in filled.guesses]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1


def test_whole_words_are_hidden_first(tokenizer: Tokenizer) -> None:
    text = "born xq xqzk zkx vvqx kkzw qqzx wwvk zzkq"  # only the first word is a token of its own
    words = [f"{text} {text[5:]}. {i}" for i in range(5)]
    for seed in range(10):
        (sentence,) = choose_sentences({"eng_Latn": [f"free {word}" for word in words]}, tokenizer, seed=seed)
        hidden = tokenizer.decode([sentence.ids[sentence.position]]).strip()
        assert hidden == "born"


def test_the_model_does_not_see_the_hidden_token(model: MaskedLM, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXTS["eng_Latn"])
    other = [*ids[:5], ids[9], *ids[6:]]
    first, second = fill(model, tokenizer, [MaskedSentence("x", tuple(line), 5) for line in (ids, other)])
    assert [g.token for g in first.guesses] == [g.token for g in second.guesses]
    for one, two in zip(first.guesses, second.guesses, strict=True):
        assert one.probability == pytest.approx(two.probability, rel=1e-4)


def test_text_without_a_sentence_of_fitting_length_gives_nothing(model: MaskedLM, tokenizer: Tokenizer) -> None:
    assert choose_sentences({"eng_Latn": ["Short. " * 9, "x" * 500]}, tokenizer) == []
    assert fill(model, tokenizer, []) == []


@pytest.mark.parametrize("form", FORMS)
def test_words_of_older_tokenizers_are_hidden_and_put_back(form: str) -> None:
    tokenizer = Tokenizer(older_json(form, [*TEXTS.values()] * 3, size=700), form)
    torch.manual_seed(0)
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1
    )
    sentences = choose_sentences(LISTED, tokenizer)
    assert sentences
    for sentence, filled in zip(sentences, fill(MaskedLM(shape), tokenizer, sentences), strict=True):
        truth = filled.truth.removeprefix("▁")
        assert truth.isalpha() or not truth.isascii()
        assert not any(guess.token.startswith("##") for guess in filled.guesses)
        whole = tokenizer.decode(sentence.ids)
        assert "".join((filled.before + truth + filled.after).split()) == "".join(whole.split())
