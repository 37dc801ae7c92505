from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from task_folders import OLDER, mask_of, save_theirs

from mmbert.errors import ConfigError, DataError, TokenizerError, WeightsError
from mmbert.inference.fill_mask import Fill, FillMask, _put

ASKED = [
    "All human beings are born <mask> and equal.",
    "<mask> les êtres humains naissent libres.",
    "Wote wamejaliwa akili na<mask>",
    "人人生而<mask>,在尊严和权利上一律平等。",
    "<mask>",
]


@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma", *OLDER])
def test_fills_are_those_of_the_pipeline(form: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "MaskedLM", form=form)
    pipeline = transformers.FillMaskPipeline(model=theirs, tokenizer=words)
    fill = FillMask.load(tmp_path, device="cpu", precision="fp32")
    asked = [text.replace("<mask>", mask_of(form)) for text in ASKED]
    for text, found in zip(asked, fill(asked, top_k=20), strict=True):
        expected = pipeline(text, top_k=20)
        assert [one.id for one in found] == [one["token"] for one in expected]
        assert [one.score for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-4)
        for one, other in zip(found, expected, strict=True):
            if "�" not in other["token_str"] and other["token_str"]:
                assert one.token == other["token_str"].removeprefix(" ").removeprefix("##")
                if form == "ours" and one.id > 4:  # there, decoding gives the text back but for specials
                    assert one.text.lstrip(" ") == other["sequence"].lstrip(" ")


def test_several_masks_and_several_texts(tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "MaskedLM")
    fill = FillMask.load(tmp_path, precision="fp32")
    text = "All <mask> beings are <mask> free and <mask>."
    first, second, third = fill(text, top_k=3)
    expected = transformers.FillMaskPipeline(model=theirs, tokenizer=words)(text, top_k=3)
    for found, row in zip((first, second, third), expected, strict=True):
        assert [one.id for one in found] == [one["token"] for one in row]
    assert second[0].text.count("<mask>") == 2
    assert second[0].text.startswith("All <mask> beings are")
    assert second[0].text.endswith(" free and <mask>.")
    many = fill([text, ASKED[0], ASKED[0]])
    assert len(many[0]) == 3
    assert isinstance(many[1][0], Fill)
    assert [one.id for one in next(fill(iter([ASKED[0]])))] == [one.id for one in many[1]]
    assert fill([]) == []


def test_masks_far_into_a_long_text(tmp_path: Path) -> None:
    save_theirs(tmp_path, "MaskedLM", max_tokens=64)
    fill = FillMask.load(tmp_path, precision="fp32")
    words = "free equal rights dignity reason born " * 40
    text = f"{words}<mask> {words}<mask> free <mask> {words}"
    pieces = text.split(" <mask>")
    for number, fills in enumerate(fill(text, top_k=2)):
        assert fills[0].text.startswith(" <mask>".join(pieces[: number + 1]))
        assert fills[0].text.endswith(" <mask>".join(pieces[number + 1 :]))
        assert fills[0].text.count("<mask>") == 2


def test_each_mask_of_a_long_text_is_asked_in_its_window(tmp_path: Path) -> None:
    save_theirs(tmp_path, "MaskedLM", max_tokens=64)
    fill = FillMask.load(tmp_path, precision="fp32")
    ids_of_words = fill.loaded.tokenizer.encode_batch
    words = "free equal rights dignity reason born " * 40
    text = f"{words}<mask> {words}"
    ids = ids_of_words([text], specials=True)[0]
    place = ids.tolist().index(fill.loaded.tokenizer.mask_id)
    start = next(s for s in range(0, len(ids), 62 - 15) if s <= place < s + 62 and _nearest(place, s, len(ids)))
    window = fill.loaded.tokenizer.decode(ids[start : start + 62], specials=True)
    assert [one.id for one in fill(window)] == [one.id for one in fill(text)]


def _nearest(place: int, start: int, length: int) -> bool:
    """Whether a window of 62 tokens that share 15 is the one that a token is taken from."""
    first = 0 if start == 0 else start + 15 // 2
    last = length if start + 62 >= length else (start + 62 + start + 47) // 2
    return first <= place < last


@pytest.mark.parametrize(
    ("text", "span", "token", "expected"),
    [
        ("Paris is <mask>.", (8, 15), " Rome", "Paris is Rome."),  # the mask took the space before it
        ("Paris is <mask>.", (9, 15), " Rome", "Paris is Rome."),  # it did not: no second one
        ("Paris is <mask>.", (8, 15), "nt", "Paris isnt."),
        ("Paris is <mask>.", (9, 15), "nt", "Paris is nt."),
        ("Paris is<mask>.", (8, 14), " Rome", "Paris is Rome."),
        ("<mask> is.", (0, 6), " Rome", "Rome is."),
        ("<mask> is.", (0, 7), " Rome", "Rome is."),  # nor the one behind it
        ("a  <mask> b", (1, 10), " c", "a  c b"),
    ],
)
def test_tokens_are_put_in_the_place_of_the_mask(text: str, span: tuple[int, int], token: str, expected: str) -> None:
    assert _put(text, span, token, "<mask>") == expected


def test_bad_input_is_named(tmp_path: Path) -> None:
    save_theirs(tmp_path / "masks", "MaskedLM")
    save_theirs(tmp_path / "tags", "TokenClassification")
    fill = FillMask.load(tmp_path / "masks", precision="fp32")
    with pytest.raises(DataError, match="text 1 has no <mask>: write it where"):
        fill([ASKED[0], "Nothing here [MASK]."])
    with pytest.raises(DataError, match="text 0 has no <mask>"):
        fill("")
    with pytest.raises(DataError, match="text 0 is int, not str"):
        fill([3])
    with pytest.raises(TokenizerError, match="lone surrogate"):
        fill("<mask> \ud800")
    with pytest.raises(ConfigError, match="top_k is 0"):
        fill(ASKED[0], top_k=0)
    with pytest.raises(WeightsError, match=r"FillMask needs a ModernBertForMaskedLM: use mmbert\.Tagger"):
        FillMask.load(tmp_path / "tags", precision="fp32")
