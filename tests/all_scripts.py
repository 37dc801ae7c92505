"""Random text in scripts of all planes of Unicode, with the strings that tokenizers treat apart among it."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = [
    "<h1>", "</h1>", "<b>", "\n", "\n\n\n", "\t", "\t\t", "\r\n", " ", "  ", "    ", "\u2581", "\u2581\u2581",
    "<mask>", "<bos>",
    "<0x41>", "<0x09>", "<0xF0>", "<unused3>", "[@BOS@]", "<start_of_turn>", "[toxicity=0]", "\u200d", "\u0301", "\x00",
]  # fmt: skip
"""Added tokens of Gemma 2 and names of its byte tokens, written out; white space; characters that join others."""

_BLOCKS = [
    (0x00, 0x7F), (0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xE7F), (0x1200, 0x13FF), (0x2000, 0x2BFF),
    (0x3040, 0x9FFF), (0xA000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x107FF), (0x10800, 0x1E8FF), (0x1E900, 0x1E95F),
    (0x1F000, 0x1FAFF), (0x20000, 0x323AF), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF),
]  # fmt: skip

words = st.sampled_from(_BLOCKS).flatmap(
    lambda block: st.text(st.characters(min_codepoint=block[0], max_codepoint=block[1]), max_size=8)
)
"""Characters of one block."""

texts = st.lists(words | st.sampled_from(ODD), max_size=8).map("".join)
