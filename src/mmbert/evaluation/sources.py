"""Where the examples of a task come from, and which version of them: local files, or the hub at a commit.

source = open_source(task, data=Path("evaldata"), pins=results / "pins.json")
source.revision                       # local-1f0c..., or a commit
rows = source.read("swh_Latn", "test")
source.spec("eng_Latn", "train")      # the same for a fine-tuning recipe
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import DataError
from mmbert.evaluation.task import Task
from mmbert.files import read_json, sha256, write_json
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.hub import CONVERTED, HubReadError, find_commit
from mmbert.finetuning.labels import Examples, Fields
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.io.find import is_hidden, packed, walk

log = logging.getLogger(__name__)

Row = dict[str, Any]

FIELDS: dict[str, Fields] = {
    "classify": Fields(("text", "label"), ("text_pair",)),
    "tag": Fields(("tokens", "tags"), ("text",), ("tokens", "tags")),
    "answer": Fields(("question", "context", "answers")),
    "choose": Fields(("question", "choices", "label"), (), ("choices",)),
    "bitext": Fields(("text", "translation")),
    "loss": Fields(("text",)),
}
"""What each kind reads of a row; the first four are those that a model is fine-tuned for."""

LOCAL = "folder"
"""The revision of a data set by the name of a folder on this machine."""

_ENDINGS = (".jsonl.gz", *packed(".jsonl"))


@dataclass(frozen=True)
class TaskSource:
    """The examples of one task at one revision; ``folder`` if they are local."""

    task: Task
    revision: str
    folder: Path | None = None

    def has(self, language: str, split: str) -> bool:
        """Whether a language has a part. The hub is taken at the declaration's word."""
        source = self.task.source
        if self.folder is None:
            trains = source.splits.train is not None and language not in source.test_only
            return language not in source.local_only and (split == "test" or trains)
        return self._file(language, split) is not None

    def languages(self, split: str) -> list[str]:
        """Return the declared languages that have a part."""
        return [language for language in self.task.languages if self.has(language, split)]

    def spec(self, language: str, split: str) -> DataSpec:
        """Return where one language's part is, for the reader of fine-tuning. Raises DataError if it is not there."""
        source, limit = self.task.source, self.task.limit if split == "test" else self.task.protocol.train_limit
        if self.folder is not None:
            path = self._file(language, split)
            if path is None:
                there = ", ".join(self.languages(split)) or "none"
                raise DataError(
                    f"{self.folder}: {language} has no {split} part (languages that have one: {there}): "
                    f"choose among them in tasks.{self.task.name}"
                )
            return DataSpec(path=str(path), language=language, columns=source.local_columns, limit=limit)
        part = source.splits.test if split == "test" else source.splits.train
        if part is None:
            raise DataError(f"{self.task.name}: the hub's data set has no part to train on: set protocol.start")
        code = self.task.languages[language]
        config, files = (text.replace("{language}", code) if text else None for text in (source.config, source.files))
        revision = None if self.revision == LOCAL else self.revision
        return DataSpec(
            hub=source.hub, config=config, files=files, revision=revision, split=part, language=language,
            columns=source.columns, limit=limit,
        )  # fmt: skip

    def read(self, language: str, split: str = "test") -> Examples:
        """Read the rows of one language. Raises DataError with the place of what is wrong."""
        try:
            found = read_examples(self.spec(language, split), split, FIELDS[self.task.kind])
        except HubReadError as error:
            if self.task.source.local is None:
                raise
            raise DataError(f"{error}; or set data=DIR, with {_layout(self.task)} of {self.task.url}") from error
        names = found.names.get("label", ())
        if self.task.kind == "choose" and names:  # choices that the hub calls choice1 and choice2
            for row in found.rows:
                row["label"] = names.index(row["label"]) if row["label"] in names else row["label"]
        return found

    def _file(self, language: str, split: str) -> Path | None:
        assert self.folder is not None, "the caller looks"
        name = getattr(self.task.source.local_splits, split)
        if name is None:
            return None
        # held-out text is one file a language
        stem = self.folder / language if self.task.kind == "loss" else self.folder / language / name
        paths = (stem.with_name(f"{stem.name}{ending}") for ending in _ENDINGS)
        return next((path for path in paths if path.is_file()), None)


def open_source(task: Task, *, data: str | Path | None, pins: Path) -> TaskSource:
    """Return the local folder of a task if ``data`` has it, else its hub data set at the pinned commit.

    pins  file that keeps the commits of hub data sets whose declaration names none
    Raises DataError where neither is there.
    """
    local = task.source.local
    folder = Path(data) / local if data is not None and local is not None else None
    if folder is not None and folder.is_dir():
        folders = [path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
        others = sorted(set(folders) - set(task.languages))
        if others and task.languages:
            log.warning("%s has %s, which the task does not declare: left out", folder, ", ".join(others))
        return TaskSource(task, f"local-{fingerprint(folder)}", folder)
    if data is not None and not Path(data).is_dir():
        raise DataError(f"no folder {Path(data).absolute()}: set data=DIR to the folder that holds {local or 'tasks'}/")
    where = f"{folder} is not there" if folder is not None else "no folder of local data is given"
    if task.source.hub is None:
        raise DataError(f"{task.name} is read from local files, and {where}: set data=DIR, with {_layout(task)}")
    revision = task.source.revision
    if revision in (None, CONVERTED):
        instead = f", or set data=DIR, with {_layout(task)} of {task.url}" if task.source.local is not None else ""
        revision = pin(task.source.hub, pins, revision, instead)
    return TaskSource(task, revision)


def _layout(task: Task) -> str:
    """Return what a local folder must hold: ``masakhapos/<language>/{train,test}.jsonl.gz (tokens, upos)``."""
    source = task.source
    if task.kind == "loss":
        return f"{source.local}/<language>.jsonl.gz (text)"
    fields: list[str] = []
    for name in dict.fromkeys((*FIELDS[task.kind].required, *source.local_columns)):
        column = source.local_columns.get(name, name)
        fields += column if isinstance(column, tuple) else re.findall(r"{(\w+)}", column) or [column]
    parts = ",".join(part for part in (source.local_splits.train, source.local_splits.test) if part)
    return f"{source.local}/<language>/{{{parts}}}.jsonl.gz ({', '.join(fields)})"


def fingerprint(folder: Path) -> str:
    """Return 12 hexadecimal digits over names and contents of all files of a task's folder."""
    digest = hashlib.sha256()
    for path in walk(folder):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()[:12]


def pin(name: str, pins: Path, branch: str | None = None, instead: str = "") -> str:
    """Return the commit of a hub data set that this folder of results stands on: kept in ``pins``, else the newest now.

    branch   another than main, such as the hub's Parquet copy
    instead  what to do where the hub cannot be reached: ``, or set ...``
    """
    key = f"{name}@{branch}" if branch else name
    # results of one folder must be of one version of the data, even if the hub moves between two runs
    known = read_json(pins) if pins.is_file() else {}
    if key in known:
        return str(known[key])
    if Path(name).is_dir():
        return LOCAL
    try:
        commit = find_commit(name, branch)
    except ConnectionError as error:
        raise DataError(f"cannot ask the hub for the commit of {key}: {error} (check the network{instead})") from error
    if commit is None:
        raise DataError(f"the hub names no commit of {key}: state its revision in the task's declaration")
    write_json(pins, {**known, key: commit})
    log.info("%s is pinned at commit %s, its newest, in %s", key, commit, pins)
    return commit
