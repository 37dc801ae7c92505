"""Exact copies, found by a 128-bit hash of the text with white space folded.

At 128 bits a billion documents meet by chance with probability 1e-21. A set of hashes costs about 100 bytes of memory a
document; past some hundred million documents deduplicate before, at size, and turn ``cleaning.deduplicate`` off.
"""

from __future__ import annotations

from hashlib import blake2b


def text_hash(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in white space only."""
    return blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


class Seen:
    """The texts kept so far."""

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, text: str) -> bool:
        return text_hash(text) in self._hashes

    def add(self, text: str) -> bool:
        """Remember ``text``; False if it was there already."""
        before = len(self._hashes)
        self._hashes.add(text_hash(text))
        return len(self._hashes) > before
