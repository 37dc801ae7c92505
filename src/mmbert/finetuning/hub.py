"""Examples in data sets of the Hugging Face hub, through ``datasets``. Code inside a data set is never run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mmbert.errors import DataError, first_line, import_extra
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import canonical
from mmbert.hub import network_error
from mmbert.io.row_errors import Numbered

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""What the hub calls ours."""

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps a Parquet copy of a data set, as ``<configuration>/<split>/0000.parquet``."""

_SCRIPT = re.compile(r"scripts are no longer supported, but found (\S+)")
_TIMEOUT = 10.0
"""Seconds for the one request that tells whether the hub answers."""


class HubReadError(DataError):
    """A data set of the hub cannot be read: a script, gated, no such configuration or split, no network."""


@dataclass(frozen=True)
class HubTable:
    """One configuration: its rows as plain values, classes by their names."""

    place: str
    """For messages: ``google/xtreme (udpos.English) validation``."""
    language: str | None
    names: dict[str, tuple[str, ...]]
    """Column of classes, or of lists of classes -> their names."""
    rows: Any
    """An iterable of maps."""

    def read(self, *_: Any, picked: Sequence[int] | None = None, **__: Any) -> Iterator[Numbered]:
        """Yield (number from 1, row), of all rows or of those at these places, from 0."""
        rows = self.rows if picked is None else self.rows.select(picked)
        places = range(len(rows)) if picked is None else picked
        for number, row in zip((place + 1 for place in places), rows, strict=True):
            for column, names in self.names.items():
                row[column] = _named(row[column], names)
            yield number, row


def load_tables(spec: DataSpec, role: str) -> Iterator[HubTable]:
    """Yield each configuration of ``data.<role>``. Raises DataError in one line, also if the hub cannot be reached."""
    assert spec.hub is not None, "a spec of the hub has a name"
    import_extra("datasets", "finetune")
    split = spec.split or SPLITS.get(role, role)
    template = spec.files or spec.config
    by_language = template is not None and "{language}" in template
    if by_language and not spec.languages:
        raise DataError(f"data.{role} reads {template} of {spec.hub}, and no language is named: set data.languages")
    commit, unreachable = _resolve_commit(spec)
    for code in spec.languages if by_language else (None,):
        part = template if code is None else str(template).replace("{language}", spec.spelled.get(code, code))
        if spec.files is not None and part is not None:
            part = part.replace("{split}", split)
        place = f"{spec.hub}{f' ({part})' if part else ''} {split}"
        stated = code or spec.language
        language = None if stated is None else canonical(stated, f"data.{role}.languages")
        with _hub_errors(place, role, unreachable):
            found = _read_config(spec, part, split, commit) if spec.files is None else _read_files(spec, part, commit)
        names = {column: made for column, feature in found.features.items() if (made := _names(feature))}
        yield HubTable(place, language, names, found)


def find_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a data set's revision (None: its newest), asking the hub once; None for a folder.

    Raises DataError where the hub has no such data set or revision, ConnectionError where it cannot be reached.
    """
    if Path(name).is_dir():
        return None
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT).sha
    except errors.RevisionNotFoundError as error:
        raise DataError(f"the data set {name} has no revision {revision}: set it to a commit, or to null") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"the hub has no data set {name}, or it is private: check the name, or run `hf auth login`"
        ) from error
    except errors.HFValidationError as error:
        raise DataError(f"{name} is no folder here and no name of a data set on the hub ({_reason(error)})") from error
    except (OSError, network_error()) as error:
        raise ConnectionError(_reason(error)) from error


def _resolve_commit(spec: DataSpec) -> tuple[str | None, str]:
    """Return (the commit to read, why the hub cannot be reached or ""); the commit is None for a folder, and then."""
    assert spec.hub is not None
    try:
        commit = find_commit(spec.hub, spec.revision)
    except ConnectionError as error:
        return None, str(error)
    if commit is not None and commit != spec.revision:
        log.info("%s: read at commit %s (set revision to it, to read the same again)", spec.hub, commit)
    return commit, ""


def _read_config(spec: DataSpec, config: str | None, split: str, commit: str | None) -> Any:
    import datasets

    assert spec.hub is not None
    if commit is not None or Path(spec.hub).is_dir():
        return datasets.load_dataset(spec.hub, config, split=split, revision=commit)
    with _cache_only():
        found = datasets.load_dataset(spec.hub, config, split=split, revision=spec.revision)
    # datasets takes the latest copy, whichever commit was asked for; its folder is named as its own
    wanted = spec.revision if spec.revision and re.fullmatch("[0-9a-f]{40}", spec.revision) else None
    if wanted and not all(wanted in Path(each["filename"]).parts for each in found.cache_files):
        raise FileNotFoundError(f"the copy in the cache is not commit {wanted}")
    log.warning("the hub cannot be reached: %s is read from the cache", spec.hub)
    return found


def _read_files(spec: DataSpec, pattern: str | None, commit: str | None) -> Any:
    """Return the rows of the Parquet files that match; the hub's converter stores the names of classes in them."""
    import datasets
    from huggingface_hub import snapshot_download

    assert spec.hub is not None
    assert pattern is not None
    folder = Path(spec.hub)
    if not folder.is_dir():
        folder = Path(
            snapshot_download(
                spec.hub,
                repo_type="dataset",
                revision=spec.revision,
                allow_patterns=[pattern],
                local_files_only=commit is None,
            )
        )
    paths = sorted(path for path in folder.rglob("*.parquet") if fnmatch(path.relative_to(folder).as_posix(), pattern))
    if not paths:
        raise FileNotFoundError(f"no Parquet file matches {pattern} at {commit or spec.revision or 'main'}")
    return datasets.Dataset.from_parquet([str(path) for path in paths])


@contextmanager
def _cache_only() -> Iterator[None]:
    """Make no request: huggingface-hub would repeat each for half a minute before it looks at the cache."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _hub_errors(place: str, role: str, unreachable: str) -> Iterator[None]:
    """Raise HubReadError, one line with the fix, for everything that ``load_dataset`` is known to raise."""
    import datasets
    import pyarrow
    from huggingface_hub import errors

    # scripts are RuntimeErrors, configurations and splits ValueErrors, missing files and gated sets OSErrors
    known = (OSError, ValueError, RuntimeError, EOFError, ImportError, network_error(), errors.EntryNotFoundError)
    try:
        yield
    except (*known, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        local = f"set data.{role}.path to local files"
        why, fix = _reason(error), f"check data.{role}.hub, .config and .split, the network, or {local}"
        if script := _SCRIPT.search(why):
            why = f"it is there as a script ({script[1]}), which is not run"
            copy = f"data.{role}.revision={CONVERTED} and data.{role}.files='CONFIGURATION/{{split}}/*.parquet'"
            fix = f"name a copy that is data; or the hub's own, if there is one, with {copy}; or {local}"
        elif "gated dataset" in why:
            fix = f"accept its conditions on its page, then `hf auth login`; or {local}"
        elif unreachable:
            held = why if why.startswith("the copy in the cache") else "there is no copy in the cache"
            why, fix = f"it cannot be reached ({unreachable}), and {held}", f"check the network, or {local}"
        raise HubReadError(f"cannot read {place} from the hub: {why} ({fix})") from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, or of its cause where that says more."""
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)


def _names(feature: Any) -> tuple[str, ...]:
    """Return the names of the classes of a column, or of a list of them; none for other columns."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _named(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
