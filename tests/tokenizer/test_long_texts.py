"""Long texts in parts, and their beginnings and ends: ids of the whole text, with the real tokenizer in both forms."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from all_scripts import ODD
from mmbert import Tokenizer
from mmbert.cancellation import Cancelled, Watch, watched
from mmbert.errors import TooLong
from mmbert.tokenizer import long_texts
from mmbert.tokenizer.long_texts import encode_ends

WORDS = [
    *ODD, "Habari ya asubuhi", "Всі люди народжуються", "人人生而自由在尊严和权利上一律平等", "มนุษย์ทั้งหลายเกิดมา",
    "<mask>", "<b>a</b>", "aaaaaaaaaaaaaaaaaa", "     ", "\n\n\n", "\t", "x=1;",
    "\U0001e900\U0001e922", "e\u0301", "👩\u200d👩\u200d👧", "ﷺ",
]  # fmt: skip


def long_text(seed: int, joiner: str, kinds: int) -> str:
    draw = random.Random(seed)
    chosen = draw.sample(WORDS, kinds)
    return joiner.join(draw.choice(chosen) for _ in range(3000))[:12_000]


@pytest.fixture(params=["gemma2", "released"])
def real(request: pytest.FixtureRequest, real_tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return real_tokenizers[request.param]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PART", 1500), ("_LONG", 3000), ("_REACH", 200)):
        monkeypatch.setattr(long_texts, name, value)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("joiner", [" ", ""])
def test_long_texts_have_the_ids_and_characters_of_the_whole(real: Tokenizer, joiner: str) -> None:
    for seed in range(40):
        text = long_text(seed, joiner, 1 + seed % 12)
        ((whole, characters),) = real._spans([text], True, 0)
        ((ids, spans),) = real.encode_spans([text], specials=True)
        np.testing.assert_array_equal(ids, whole, err_msg=str(seed))
        np.testing.assert_array_equal(spans, characters, err_msg=str(seed))
        for tokens in (50, 300):
            (begun,) = encode_ends(real.encode_batch, [text], tokens)
            (ended,) = encode_ends(real.encode_batch, [text], tokens, end=True)
            np.testing.assert_array_equal(begun[:tokens], whole[:tokens], err_msg=str(seed))
            np.testing.assert_array_equal(ended[-tokens:], whole[-tokens:], err_msg=str(seed))
            assert tokens <= len(begun) < len(whole)


def test_only_what_matters_of_a_long_text_is_read(real: Tokenizer) -> None:
    read: list[int] = []
    encode = real.encode_batch

    def counted(texts: list[str], **options: object) -> list[np.ndarray]:
        read.append(sum(map(len, texts)))
        return encode(texts, **options)  # type: ignore[arg-type]

    real.encode_batch = counted  # type: ignore[method-assign, assignment]
    try:
        for text in ("a" * 15_000_000, "a b " * 3_000_000):
            read.clear()
            (row,) = encode_ends(real.encode_batch, [text], 1000)
            np.testing.assert_array_equal(row[:1000], encode([text[:60_000]], specials=True)[0][:1000])
            assert sum(read) < 30_000
        read.clear()
        (row,) = encode_ends(real.encode_batch, [" " * 2_000_000], 8190)  # 31 spaces a token
        assert len(row) >= 8190
        assert sum(read) < 500_000
    finally:
        del real.encode_batch


def test_long_work_stops_when_nobody_waits_and_at_too_many_tokens(real: Tokenizer) -> None:
    begun = time.monotonic()
    asked: list[float] = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 3

    with watched(Watch(cancelled, 10**9)), pytest.raises(Cancelled):
        real.encode_spans(["word " * 1_000_000], specials=True)
    with watched(Watch(lambda: False, 50_000)), pytest.raises(TooLong, match="tokens or more, at most 50,000"):
        real.encode_spans(["word " * 1_000_000], specials=True)
    with watched(Watch(lambda: False, 50_000)), pytest.raises(TooLong):
        real.encode_spans(["word " * 1000] * 1000, specials=True)
    assert time.monotonic() - begun < 10
