"""Exact copies, found by a 128-bit hash of the text with white space collapsed.

At 128 bits a billion documents meet by chance with probability 1e-21. A set of hashes costs about 100 bytes of memory a
document; past some hundred million documents deduplicate before, at size, and turn ``cleaning.deduplicate`` off.
"""

from __future__ import annotations

from hashlib import blake2b

_TO_SPACE = bytes.maketrans(b"\t\n\v\f\r\x1c\x1d\x1e\x1f", b" " * 9)
_WIDE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""With those above and the space all that ``str.isspace`` knows. To look for each is faster than to split the text."""


def text_hash(text: str) -> bytes:
    """Return 16 bytes that are equal for texts that differ only in white space."""
    if not text.isascii():
        for space in _WIDE:
            if space in text:
                text = text.replace(space, " ")
    folded = text.encode().translate(_TO_SPACE)
    while b"  " in folded:
        folded = folded.replace(b"  ", b" ")
    return blake2b(folded.strip(b" "), digest_size=16).digest()


class Seen:
    """The texts kept so far."""

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, text: str) -> bool:
        return text_hash(text) in self._hashes

    def add(self, text: str) -> bool:
        """Remember ``text``. Return False if it was known."""
        before = len(self._hashes)
        self._hashes.add(text_hash(text))
        return len(self._hashes) > before
