"""Checks of inputs and results: texts are strings, options are integers within bounds, results are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, NotFiniteOutput

_SHOWN = 40
"""Characters of a text in a message."""


def one_text(asked: Any) -> str | None:
    """Return the text if ``asked`` is a str, or a NumPy array of no dimensions with one; else None."""
    if isinstance(asked, np.ndarray) and asked.ndim == 0:
        asked = asked.item()
    return asked if isinstance(asked, str) else None


def is_pair(asked: Any) -> bool:
    """Return whether this is a pair: a tuple of two texts (a list of two is a list of texts)."""
    return isinstance(asked, tuple) and len(asked) == 2 and all(isinstance(text, str) for text in asked)


def many_texts(
    asked: Any,
    what: str = "texts",
    expected: str = "a str, a list of str or an iterator of str",
    *,
    pairs: bool = False,
) -> Iterable[Any]:
    """Return a list, tuple, array or column of texts as a list, and an iterator unchanged; items are not checked.

    pairs  an array (n, 2) is accepted too
    Raises ConfigError for what holds no texts, or has no order.
    """
    if isinstance(asked, str | bytes | bytearray | Mapping | set | frozenset) or not isinstance(asked, Iterable):
        raise ConfigError(f"{what} are {kind_of(asked)}: expected {expected}")
    if hasattr(asked, "columns"):  # a table would be iterated over the names of its columns
        raise ConfigError(f"{what} are a {type(asked).__name__}: take one of its columns, as table['text']")
    if isinstance(asked, np.ndarray):
        if asked.ndim != 1 and not (pairs and asked.ndim == 2):
            raise ConfigError(f"{what} are an array of shape {asked.shape}: expected one dimension, a text in each row")
        return list(asked.tolist())
    return asked if isinstance(asked, list | Iterator) else list(asked)


def check_texts(texts: Sequence[Any], first: int = 0, what: str = "text") -> None:
    """Raise DataError with the number of the first item that is no str; ``first``: number of the first item."""
    for number, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise DataError(f"{what} {number} is {kind_of(text)}, not str")


def check_pair(item: Any, number: int) -> tuple[str, str]:
    """Return the two texts of a tuple or list. Raises DataError, with their number, for anything else."""
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return item[0], item[1]
    raise DataError(f"text {number} is {kind_of(item)}: expected a str, or a pair of two")


def kind_of(value: Any) -> str:
    """Return the type of a value for messages: ``list of int, NoneType``, ``float (nan)``."""
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"{name} of {', '.join(type(item).__name__ for item in value[:3])}" if value else f"{name} of nothing"
    return f"{name} ({value})" if isinstance(value, float) and value != value else name


def whole(name: str, value: Any, least: int = 1, most: int | None = None, why: str = "") -> int:
    """Return an integer within its bounds, of Python or NumPy. Raises ConfigError for others, bools and floats.

    why  the reason of the bounds, for the message
    """
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {value!r}: it must be a whole number {bounds}{', ' + why if why else ''}")
    return int(value)


def text_name(number: int, text: Any) -> str:
    """Return the name of a text or pair in messages: ``text 3 ('All human beings are born')``."""
    parts = text if isinstance(text, tuple | list) else [text]
    shown = [repr(part[:_SHOWN] + ("..." if len(part) > _SHOWN else "")) for part in parts if isinstance(part, str)]
    return f"text {number} ({', '.join(shown)})" if shown else f"text {number}"


def check_finite(values: np.ndarray, name: Callable[[int], str], number: Callable[[int], int] | None = None) -> Any:
    """Return a model's numbers for some texts, (n, ...), unchanged.

    name    of the text of a row, see :func:`text_name`
    number  of the text of a row; default: the row
    Raises NotFiniteOutput, which names the first text with a NaN or infinite number.
    """
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise NotFiniteOutput(
            f"{name(row)}: the model's result holds NaN or infinite values: leave the text out, use precision fp32 if "
            "it was another, or another checkpoint",
            row if number is None else number(row),
        )
    return values
