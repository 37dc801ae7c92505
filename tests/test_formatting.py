from __future__ import annotations

import pytest

from mmbert.formatting import count, duration


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (950, "950"), (999.9, "1,000"), (4096, "4,096"), (9_999, "9,999"), (12_345, "12.3k"),
     (163_840, "164k"), (999_999, "1.00M"), (1_048_576, "1.05M"), (4_718_592, "4.72M"), (600e9, "600B"),
     (2.3e12, "2.30T")],
)  # fmt: skip
def test_counts_have_three_digits(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (9, "9 s"),
        (75, "1 min 15 s"),
        (3725, "1 h 2 min"),
        (3600 * 72, "3.0 days"),
        (59, "59 s"),
        (119, "1 min 59 s"),
        (7300, "2 h 1 min"),
        (1.5e6, "17.3 days"),
    ],
)
def test_durations_are_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
