from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbert.packed import Packed


@given(st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=40), min_size=1, max_size=20))
def test_packing_loses_nothing(sequences: list[list[int]]) -> None:
    packed = Packed.from_lists(sequences)
    assert [part.tolist() for part in packed.unpack(packed.ids)] == sequences
    assert packed.lengths == [len(sequence) for sequence in sequences]
    assert (packed.tokens, packed.sequences) == (sum(packed.lengths), len(sequences))
    assert packed.longest == max(packed.lengths)


def test_to_torch_keeps_everything() -> None:
    whole = Packed.from_lists([[5, 6, 7], [8]])
    packed = Packed(whole.ids, whole.offsets, whole.longest, np.array([1, 3]), np.array([6, 8])).to("cpu")
    assert packed.ids.dtype == torch.int64
    assert packed.offsets.tolist() == [0, 3, 4]
    assert packed.lengths == [3, 1]
    assert packed.labels.tolist() == packed.ids[packed.targets].tolist() == [6, 8]


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_to_pack(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"zero sequences|sequence 1 is empty"):
        Packed.from_lists(sequences)
