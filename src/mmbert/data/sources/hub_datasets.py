"""Datasets of the Hugging Face hub, streamed file by file with huggingface-hub only.

Without ``configs`` a configuration is the innermost folder (``data/fra_Latn/train/000_00000.parquet`` is of
``fra_Latn``) or, for files in no folder, a file's name. ``configs`` may also name a folder further up, with all that is
below it: ``dclm`` holds ``data/dclm/0038/dclm-0000.json.zst``. Files of other splits than ``train`` are left out;
``heldout: test`` in the recipe names the split that is kept for evaluation. Of MDS shards only those that an
``index.json`` lists are read.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from mmbert.data.sources import mds
from mmbert.data.sources.inputs import SUFFIXES, Input, canonical_code, named_language
from mmbert.errors import ConfigError, DataError, first_line
from mmbert.hub import network_error
from mmbert.io.find import is_hidden
from mmbert.io.stream import open_file as open_local
from mmbert.recipe import Source

logger = logging.getLogger(__name__)

SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "heldout")
"""Names of splits, as a folder (``test/``) or at the beginning of a file's name (``test-00000-of-00003.parquet``)."""


class HubFile(NamedTuple):
    """A file in a repository."""

    path: str
    size: int
    stamp: str


def hub_inputs(source_name: str, source: Source, *, heldout: bool = False) -> list[Input]:
    """Return the files of a dataset at one commit, sorted by language and name. Raises DataError."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    assert source.path is not None, "a source on the hub has a path"
    with hub_errors(source):
        api = HfApi()
        commit = api.dataset_info(source.path, revision=source.revision).sha
        tree = api.list_repo_tree(source.path, recursive=True, revision=commit, repo_type="dataset")
        files = [HubFile(entry.path, entry.size, entry.blob_id) for entry in tree if isinstance(entry, RepoFile)]
    assert commit is not None, "the hub names the commit it lists"
    return remote_inputs(
        source_name, source, files, partial(open_remote, source, commit), revision=commit, heldout=heldout
    )


def open_remote(source: Source, commit: str, path: str) -> BinaryIO:
    """Open a file of a dataset at a commit; what is read of it is fetched. Raises DataError."""
    from huggingface_hub import HfFileSystem

    with hub_errors(source):
        return cast(BinaryIO, HfFileSystem().open(f"datasets/{source.path}@{commit}/{path}", "rb"))


def restore(source: Source, record: dict[str, Any]) -> Input:
    """Return an input from its ``record``, on any machine that reaches the same files."""
    if record["revision"] is None:
        return Input(**record, open=partial(open_local, record["path"]))
    return Input(**record, open=partial(open_remote, source, record["revision"], record["name"]))


def remote_inputs(
    source_name: str,
    source: Source,
    files: Iterable[HubFile],
    open_file: Callable[[str], BinaryIO],
    *,
    revision: str | None = None,
    heldout: bool = False,
) -> list[Input]:
    """Return the files of ``source.configs`` and of one split, out of a listing of a repository."""
    known = {file.path: file for file in files if not is_hidden(file.path)}
    shards = _shards(source, set(known), open_file)
    known = {path: file for path, file in known.items() if path in shards or not path.endswith(mds.SUFFIXES)}
    chosen = select(list(known), source.configs, source.heldout if heldout and source.heldout else "train")
    if not source.configs and source.language is None and source.language_field is None:
        chosen = _named_languages(source_name, source, chosen)
    if not any(chosen.values()):
        raise DataError(f"{source.path} on the hub has no parquet, jsonl, txt or mds file for sources.{source_name}")
    inputs = []
    for config, paths in chosen.items():
        language = _language(source_name, source, config)
        for path in paths:
            place = f"{source.path}/{path}"
            file = known[path]
            form = next(form for form, suffixes in SUFFIXES.items() if path.lower().endswith(suffixes))
            stored = (form, language, file.size, file.stamp)
            inputs.append(Input(path, place, *stored, partial(open_file, path), revision, shards.get(path)))
    return sorted(inputs, key=lambda input: (input.language or "", input.name))


def _shards(source: Source, paths: set[str], open_file: Callable[[str], BinaryIO]) -> dict[str, mds.Entry]:
    """Return the MDS shards to read, raw ones before their compressed copies, with their index entries."""
    if not any(path.endswith(mds.SUFFIXES) for path in paths):
        return {}
    indexes = {}
    for path in sorted(path for path in paths if PurePosixPath(path).name == mds.INDEX):
        with hub_errors(source), open_file(path) as file:
            try:
                indexes[path] = json.load(file)
            except ValueError as error:
                raise DataError(f"{source.path}/{path} is not JSON ({error})") from error
    return mds.choose(paths, mds.listed(indexes))


def select(paths: list[str], configs: tuple[str, ...], split: str) -> dict[str, list[str]]:
    """Return configuration -> its files of ``split``, sorted; all configurations if none is named.

    A file inside two of ``configs`` is of the inner one. Raises DataError for a name that is not there, with the
    nearest one.
    """
    suffixes = tuple(suffix for form in SUFFIXES.values() for suffix in form)
    wanted = (split, None if split == "train" else split)
    files = sorted(path for path in paths if path.lower().endswith(suffixes) and split_of(path) in wanted)
    found: dict[str, list[str]] = {config: [] for config in configs}
    for path in files:
        holders = configs_of(path)
        config = next((holder for holder in holders if holder in found), None) if configs else holders[0]
        if config is not None:
            found.setdefault(config, []).append(path)
    there = {holder: depth for path in files for depth, holder in enumerate(reversed(configs_of(path)))}
    for config in configs:
        if config not in there:
            names = sorted(there, key=lambda name: (there[name], name))  # the outer folders first
            near = difflib.get_close_matches(config, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names[:10]) or 'none'}"
            raise DataError(f"the dataset has no configuration {config} with files of the split {split}: {hint}")
    return found


def split_of(path: str) -> str | None:
    """Return the split that a file's folders or the beginning of its name tell."""
    *folders, file = PurePosixPath(path).parts
    names = [*folders, re.split(r"[-_.]", file)[0]]
    return next((name for name in reversed(names) if name in SPLITS), None)


def configs_of(path: str) -> list[str]:
    """The folders that hold a file, the innermost first, without splits and ``data`` at the root; of a file in no such
    folder its name up to the first dot."""
    *folders, file = PurePosixPath(path).parts
    if folders[:1] == ["data"] and not set(folders[1:]) <= set(SPLITS):
        del folders[0]
    return [folder for folder in reversed(folders) if folder not in SPLITS] or [file.split(".")[0]]


def _named_languages(source_name: str, source: Source, chosen: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the configurations that are named as a language; the others are left out and logged."""
    kept = {}
    for config, paths in chosen.items():
        try:
            named_language(config.partition("-tokenized")[0])
        except ConfigError:
            continue
        kept[config] = paths
    left = [config for config in chosen if config not in kept]
    if left:
        names = ", ".join(left[:10])
        logger.info("%s: left out %d configurations that name no language: %s", source.path, len(left), names)
    if not kept:
        raise DataError(
            f"no configuration of {source.path} is named as a language ({', '.join(left[:5])}): "
            f"set sources.{source_name}.language or .language_field"
        )
    return kept


def _language(source_name: str, source: Source, config: str) -> str | None:
    if source.language is not None:
        return canonical_code(source.language, f"sources.{source_name}.language")
    if source.language_field is not None:
        return None
    config = config.partition("-tokenized")[0]  # of the released shards: fao_Latn-tokenized-chunked-8192
    return canonical_code(config, f"configuration {config} of {source.path} (set sources.{source_name}.language)")


@contextmanager
def hub_errors(source: Source) -> Iterator[None]:
    """Raise DataError, with a fix, for what the hub library raises."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, network_error(), errors.HFValidationError) as error:
        revision = f" at {source.revision}" if source.revision else ""
        raise DataError(
            f"cannot read the dataset {source.path}{revision} from the hub: {first_line(error)} (check the name, the "
            "network, and `hf auth login` if it is gated)"
        ) from error
