"""What ``mmbert serve`` is told of a model: where it is, and how many layers and dimensions of it are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import ConfigError

_OPTIONS = ("layers", "dimensions")


@dataclass(frozen=True)
class ModelSpec:
    """``model``: a folder or hub name. ``layers``, ``dimensions``: the first so many; None for all of the model."""

    model: str
    layers: int | None = None
    dimensions: int | None = None

    @property
    def options(self) -> str:
        """The options as they are written behind a model: ``@layers=6,dimensions=256``, or nothing."""
        given = [f"{name}={value}" for name in _OPTIONS if (value := getattr(self, name)) is not None]
        return f"@{','.join(given)}" if given else ""

    @property
    def served_name(self) -> str:
        """What clients call it by default: the hub name or the last part of the folder, and the options."""
        # resolve(): "." and "runs/final/" have no last part of their own.
        name = Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
        return name + self.options


def parse_spec(given: str | Path) -> ModelSpec:
    """Return what ``MODEL`` or ``MODEL@layers=6,dimensions=256`` asks for. Raises ConfigError for other options.

    A folder whose own name has an @ is that folder.
    """
    text = str(given)
    model, at, options = text.rpartition("@")
    if not at or Path(text).is_dir():
        return ModelSpec(text)
    found: dict[str, int] = {}
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name not in _OPTIONS or name in found or not (value.isascii() and value.isdecimal() and int(value)):
            raise ConfigError(
                f"model {text!r}: {option!r} is not layers=N or dimensions=N, each once, as in "
                "MODEL@layers=6,dimensions=256"
            )
        found[name] = int(value)
    if not model:
        raise ConfigError(f"model {text!r}: no folder or hub name before the @")
    return ModelSpec(model, **found)
