"""Examples in data sets of the Hugging Face hub, through ``datasets``. Code inside a data set is never run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import DataError, MissingExtra
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import house

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""What the hub calls ours."""


@dataclass(frozen=True)
class HubTable:
    """One configuration: its rows as plain values, classes by their names."""

    place: str
    """For messages: ``google/xtreme (udpos.English) validation``."""
    language: str | None
    names: dict[str, tuple[str, ...]]
    """Of columns of classes, or of lists of classes."""
    rows: Any
    """An iterable of maps."""

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number from 1, row)."""
        for number, row in enumerate(self.rows, 1):
            for column, names in self.names.items():
                row[column] = _named(row[column], names)
            yield number, row


def load_tables(spec: DataSpec, role: str) -> Iterator[HubTable]:
    """Each configuration of ``data.<role>``. Raises DataError in one line, offline too."""
    assert spec.hub is not None, "a spec of the hub has a name"
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "finetune") from error
    revision = spec.revision or _newest(spec.hub)
    split = spec.split or SPLITS.get(role, role)
    placed = spec.config is not None and "{language}" in spec.config
    for code in spec.languages if placed else (None,):
        config = spec.config if code is None else str(spec.config).replace("{language}", spec.spelled.get(code, code))
        place = f"{spec.hub}{f' ({config})' if config else ''} {split}"
        stated = code or spec.language
        language = None if stated is None else house(stated, f"data.{role}.languages")
        try:
            found = datasets.load_dataset(spec.hub, config, split=split, revision=revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise DataError(
                f"cannot read {place} from the hub: {reason} (check data.{role}.hub, .config and .split, the network, "
                f"or set data.{role}.path to local files)"
            ) from error
        names = {column: made for column, feature in found.features.items() if (made := _names(feature))}
        yield HubTable(place, language, names, found)


def _newest(name: str) -> str | None:
    """The commit that is read where the recipe pins none, said in the log; None for a folder."""
    if Path(name).is_dir():
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # the library's HTTP errors have one root, which has changed with the client it stands on
    network: type[Exception] = HfHubHTTPError.__mro__[1]
    try:
        commit = HfApi().dataset_info(name).sha
    except (OSError, network, HFValidationError):
        return None  # a copy in the cache may serve
    log.info("%s: read at commit %s (set revision to it, to read the same again)", name, commit)
    return commit


def _names(feature: Any) -> tuple[str, ...]:
    """Names of the classes of a column, or of a list of them; none for other columns."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _named(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
