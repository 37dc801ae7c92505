"""Copies are the same text, whatever its white space."""

from __future__ import annotations

from mmbert.data.dedup import Seen, text_hash


def test_white_space_is_folded_and_nothing_else() -> None:
    assert text_hash("one\ttwo\n\nthree ") == text_hash("one two three")
    assert text_hash("one two three") != text_hash("One two three")
    assert text_hash("onetwo") != text_hash("one two")
    assert len(text_hash("x")) == 16


def test_seen_knows_what_was_added() -> None:
    seen = Seen()
    assert seen.add("one two")
    assert not seen.add(" one\ntwo")
    assert seen.add("one three")
    assert "one\u00a0two" in seen
    assert "two one" not in seen
    assert len(seen) == 2
