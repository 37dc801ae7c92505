"""A little real text in ten languages (article 1 of the Universal Declaration of Human Rights) and what it trains."""

from __future__ import annotations

import pytest

from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

ARTICLE = {
    "eng_Latn": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "fra_Latn": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et "
    "de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "swh_Latn": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa "
    "watendeane kindugu.",
    "fao_Latn": "Øll menniskju eru fødd fræls og jøvn til virðingar og mannarættindi. Tey hava skil og samvitsku og "
    "eiga at fara hvørt um annað í bróðuranda.",
    "rus_Cyrl": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и "
    "совестью и должны поступать в отношении друг друга в духе братства.",
    "hin_Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "arb_Arab": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا "
    "بروح الإخاء.",
    "tha_Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "cmn_Hani": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "kor_Hang": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}


@pytest.fixture(scope="session")
def texts() -> list[tuple[str, str]]:
    """(language, text) pairs. Each text comes twice: a merge needs a pair that was seen twice."""
    return [(language, text) for language, text in ARTICLE.items() for _ in range(2)]


@pytest.fixture(scope="session")
def trained(texts: list[tuple[str, str]]) -> Tokenizer:
    """No space put before the text."""
    return train_tokenizer(texts, TokenizerTraining(vocab_size=1024))


@pytest.fixture(scope="session")
def prefixed(texts: list[tuple[str, str]]) -> Tokenizer:
    """A space put before the text."""
    return train_tokenizer(texts, TokenizerTraining(vocab_size=1024, prefix_space=True))
