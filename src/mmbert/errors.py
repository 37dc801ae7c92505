"""Everything the package raises for a user to mend, as one tree.

    MMBertError                 exit code 2 on the command line, one line, no traceback
    ├── ConfigError             a recipe or an option is wrong
    ├── DataError               text, shards or manifests are missing, corrupt or empty
    ├── TokenizerError          a tokenizer cannot be read, trained or matched
    ├── WeightsError            a checkpoint cannot be read or does not fit the model
    ├── TrainingError           a run cannot start, go on or save
    │   └── NotFinite           the loss or the gradient is NaN or infinite
    ├── Overloaded              the server's queue is full
    ├── TooLong                 one text exceeds what the model can take
    └── MissingExtra            an optional dependency is not installed

A message says what is wrong, where, and what to do. ``assert`` is kept for our own mistakes.
"""

from __future__ import annotations


class MMBertError(Exception):
    """Root of the package's errors: something a user can mend."""


class ConfigError(MMBertError):
    """A recipe or an option is wrong."""


class DataError(MMBertError):
    """Text, shards or manifests are missing, corrupt or empty."""


class TokenizerError(MMBertError):
    """A tokenizer cannot be read, trained or matched with its data."""


class WeightsError(MMBertError):
    """A checkpoint cannot be read or does not fit the model."""


class TrainingError(MMBertError):
    """A run cannot start, go on or save."""


class NotFinite(TrainingError):
    """The loss or the gradient is NaN or infinite."""


class Overloaded(MMBertError):
    """The queue is full; try again later."""


class TooLong(MMBertError):
    """One text exceeds what the model can take."""


class MissingExtra(MMBertError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'mmbert[{extra}]'")
