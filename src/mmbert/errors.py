"""All errors that the package raises for a user to fix, as one class hierarchy.

    MMBertError                 exit code 2 on the command line, one line, no traceback
    ├── ConfigError             a recipe or an option is wrong
    ├── DataError               text, shards or manifests are missing, corrupt or empty
    │   └── BadShard            a shard is missing or damaged; training may go on without it
    ├── TokenizerError          a tokenizer cannot be read, trained or matched
    ├── WeightsError            a checkpoint cannot be read or does not fit the model
    │   └── NotFiniteOutput     a model answers a text with NaN or infinite numbers
    ├── TrainingError           a run cannot start, go on or save
    │   └── Spike               the gradient is far larger than it was before
    │       └── NotFinite       the loss or the gradient is NaN or infinite
    ├── Overloaded              the server's queue is full
    ├── TooLong                 one text exceeds what the model can take
    └── MissingExtra            an optional dependency is not installed

A message says what is wrong, where, and what to do. ``assert`` is kept for our own mistakes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmbert.extras import distribution, extra_of

if TYPE_CHECKING:
    from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; the name of its class without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class MMBertError(Exception):
    """Root of the package's errors, which a user can fix."""


class ConfigError(MMBertError):
    """A recipe or an option is wrong."""


class DataError(MMBertError):
    """Text, shards or manifests are missing, corrupt or empty."""


class BadShard(DataError):
    """A shard is missing or damaged: ``path`` is its file of tokens, ``fault`` what is wrong, ``fix`` what to do."""

    def __init__(self, path: Path, fault: str, fix: str) -> None:
        super().__init__(f"{fault}: {fix}")
        self.path = path
        self.fault = fault
        self.fix = fix


class UndefinedMetric(DataError):
    """A metric is undefined for these examples, whatever the model predicts."""


class TokenizerError(MMBertError):
    """A tokenizer cannot be read, trained or matched with its data."""


class WeightsError(MMBertError):
    """A checkpoint cannot be read or does not fit the model."""


class NotFiniteOutput(WeightsError):
    """A model returned NaN or infinity for a text; ``number`` is the text's number in the request."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class TrainingError(MMBertError):
    """A run cannot start, continue or save."""


class Spike(TrainingError):
    """The gradient is far larger than it was before; its ``loss`` and ``norm``."""

    def __init__(self, message: str, loss: float, norm: float) -> None:
        super().__init__(message)
        self.loss = loss
        self.norm = norm


class NotFinite(Spike):
    """The loss or the gradient is NaN or infinite."""


class Overloaded(MMBertError):
    """The queue is full; try again after ``seconds``."""

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message)
        self.seconds = seconds


class TooLong(MMBertError):
    """One text exceeds what the model can take."""


class MissingExtra(MMBertError):
    """An optional dependency is not installed; ``extra`` is named if it brings the package, else another one."""

    def __init__(self, package: str, extra: str) -> None:
        named = extra_of(package, preferred=extra) or extra
        super().__init__(f"{distribution(package)} is not installed: pip install 'mmbert[{named}]'")


def import_extra(module: str, extra: str) -> Any:
    """Import a module that ``extra`` brings. Raises MissingExtra without it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(module, extra) from error
