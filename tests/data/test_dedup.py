"""Copies are the same text, whatever its white space."""

from __future__ import annotations

from hashlib import blake2b

from mmbert.data.dedup import Seen, text_hash


def test_white_space_is_folded_and_nothing_else() -> None:
    assert text_hash("one\ttwo\n\nthree ") == text_hash("one two three")
    assert text_hash("one two three") != text_hash("One two three")
    assert text_hash("onetwo") != text_hash("one two")
    assert len(text_hash("x")) == 16


def test_all_of_unicodes_white_space_is_folded() -> None:
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace()]
    assert len(spaces) > 20
    for space in spaces:
        for text in (f"{space}eitt{space}tvey", f"eitt {space} {space}tvey{space}", f"eitt{space * 5}tvey"):
            assert text_hash(text) == blake2b(" ".join(text.split()).encode(), digest_size=16).digest(), repr(space)
    assert text_hash("eitt\u200btvey") != text_hash("eitt tvey"), "no white space"


def test_seen_knows_what_was_added() -> None:
    seen = Seen()
    assert seen.add("one two")
    assert not seen.add(" one\ntwo")
    assert seen.add("one three")
    assert "one\u00a0two" in seen
    assert "two one" not in seen
    assert len(seen) == 2
