"""From raw text to shards, in two stages that can be stopped anywhere and run again.

(1) ``prepare_text`` reads every source, drops what ``clean`` and ``dedup`` refuse, puts the hold-out aside, and writes
one file a language (form: ``store``). The work is cut into tasks: runs of languages of some 32 MiB of input, or the
whole source where languages are mixed in its files. A task is finished when its file in ``done/`` is there; what a
killed one left is written anew. If the options of a source, its files or the cleaning rules have changed, the source
is prepared again, and it is said. A finished dataset of the hub is not looked up again, and raw text that is gone by
now is not missed.
(2) ``prepare_shards`` tokenises the text into shards, ``shards/<source>/<language>/00000.tokens``. A finished shard is
never written again; a stream goes on with its next one.

Both give the same bytes however often they were stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mmbert.data import catalogs
from mmbert.data.clean import check
from mmbert.data.dedup import Seen
from mmbert.data.document import Document
from mmbert.data.inputs import Input
from mmbert.data.manifest import Manifest
from mmbert.data.read import Advance, read_input, source_inputs
from mmbert.data.store import Report, SourceReport, TextWriter, read_texts, report_path, text_folder
from mmbert.data.tokenize import prepare_shards
from mmbert.errors import ConfigError, DataError
from mmbert.files import read_json, write_json, write_text
from mmbert.log import progress
from mmbert.recipe import Cleaning, Recipe, Source, TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

logger = logging.getLogger(__name__)

__all__ = [
    "heldout_texts",
    "iterate_text",
    "prepare_data",
    "prepare_shards",
    "prepare_text",
    "prepare_tokenizer",
    "text_sizes",
]

COPY = "exact copy"
COPY_OF_HELDOUT = "copy of held-out text"
BEYOND = "held out beyond the limit"

_FORM = 1
"""Raised when the same input would give other text: what was prepared before is then prepared again."""
_COMPLETE = "complete.json"
_TASK = 32 << 20
"""Bytes of input, as stored, of the languages that are finished together."""


def prepare_data(recipe: Recipe, folder: Path) -> tuple[Manifest, Tokenizer]:
    """Text, tokenizer and shards, below ``folder``. What is finished is not done again."""
    prepare_text(recipe, folder)
    tokenizer = prepare_tokenizer(recipe, folder)
    return prepare_shards(recipe, folder, tokenizer), tokenizer


def prepare_text(recipe: Recipe, folder: Path) -> None:
    """Write ``text/``, ``heldout/`` and, for catalogs, ``parallel/`` below ``folder``.

    Raises DataError naming file and line of bad input, and if no document of a source survives.
    """
    if not recipe.sources:
        raise ConfigError(f"recipe {recipe.name} has no sources: name some text under `sources`")
    if sum(source.kind == "catalogs" for source in recipe.sources.values()) > 1:
        raise ConfigError("only one source can be of kind catalogs: name all packages in it")
    report = Report()
    for name, source in recipe.sources.items():
        report.sources[name] = _Preparation(name, source, recipe.cleaning, folder).run()
    path = report_path(folder)
    values = report.model_dump(mode="json")
    if not path.is_file() or read_json(path) != values:
        write_json(path, values)


def prepare_tokenizer(recipe: Recipe, folder: Path) -> Tokenizer:
    """The recipe's tokenizer in ``folder/tokenizer``: copied there or trained on the prepared text, once."""
    home, record = folder / "tokenizer", folder / "tokenizer" / "made-from.json"
    wanted: dict[str, Any] = {"tokenizer": recipe.vocabulary}
    if isinstance(recipe.vocabulary, TokenizerTraining):
        sources = {name: source.fingerprint for name, source in Report.load(folder).sources.items()}
        wanted = {"training": recipe.vocabulary.model_dump(mode="json"), "text": sources}
    if record.is_file() and read_json(record) == wanted:
        return Tokenizer.load(home)
    if isinstance(recipe.vocabulary, TokenizerTraining):
        texts = ((language, text) for _, language, text in iterate_text(folder))
        bar = progress(texts, desc="reading text for the tokenizer", unit="doc")
        tokenizer = train_tokenizer(bar, recipe.vocabulary)
    else:
        tokenizer = Tokenizer.load(recipe.vocabulary)
    record.unlink(missing_ok=True)
    tokenizer.save(home)
    write_json(record, wanted)
    return tokenizer


def iterate_text(folder: Path, *, heldout: bool = False) -> Iterator[tuple[str, str, str]]:
    """(source, language, text) of everything prepared: sources in the recipe's order, languages sorted."""
    for name, source in Report.load(folder).sources.items():
        for language, counts in source.languages.items():
            if counts.heldout_documents if heldout else counts.documents:
                for document in read_texts(folder, name, language, heldout=heldout):
                    yield name, language, document.text


def heldout_texts(folder: Path) -> dict[str, list[str]]:
    """Language -> its held-out texts, of all sources together."""
    texts: dict[str, list[str]] = {}
    for _, language, text in iterate_text(folder, heldout=True):
        texts.setdefault(language, []).append(text)
    return dict(sorted(texts.items()))


def text_sizes(folder: Path) -> dict[tuple[str, str], int]:
    """(source, language) -> characters to train on."""
    return {
        (name, language): counts.characters
        for name, source in Report.load(folder).sources.items()
        for language, counts in source.languages.items()
        if counts.documents
    }


@dataclass(frozen=True)
class _Task:
    """A part of a source that is finished as a whole. Tasks of a source share no language, but for held-out text."""

    name: str
    documents: Callable[[Advance], Iterator[Document]]
    size: int
    """Bytes of input, for the progress bar."""
    aside: bool = False
    """All of it is held out."""


class _Preparation:
    """The text of one source."""

    def __init__(self, name: str, source: Source, cleaning: Cleaning, folder: Path) -> None:
        self.name = name
        self.source = source
        self.cleaning = cleaning
        self.folder = folder
        self.text = text_folder(folder, name)
        self.heldout = text_folder(folder, name, heldout=True)
        self.seen = Seen()
        self.brings_heldout = source.heldout is not None or source.kind == "catalogs"

    def run(self) -> SourceReport:
        """Do the tasks that are not done; returns the counts of all."""
        tasks, self.fingerprint = self._plan()
        self._start_again_if_changed()
        report = SourceReport(fingerprint=self.fingerprint)
        waiting = [task for task in tasks if not self._done(task).is_file()]
        if waiting:
            report_path(self.folder).unlink(missing_ok=True)
            finished = [task for task in tasks if task not in waiting]
            self._remember(finished)
            bar: progress[None] = progress(
                total=sum(task.size for task in tasks), desc=f"preparing {self.name}", unit="B"
            )
            with bar:
                bar.update(sum(task.size for task in finished))
                for task in waiting:
                    self._do(task, bar.update)
        for task in tasks:
            report.merge(SourceReport.model_validate(read_json(self._done(task))["report"]))
        report.sort()
        self._refuse_empty(report)
        self._mark_complete(tasks)
        return report

    def _plan(self) -> tuple[list[_Task], str]:
        """The tasks in order, held-out text first, and the fingerprint of everything they depend on."""
        if self.source.kind == "hub" and (complete := self._complete()) is not None:
            return complete
        try:
            return self._plan_afresh()
        except DataError as error:
            if (complete := self._complete()) is None:
                raise
            logger.warning("%s; going on with what was prepared from it before", error)
            return complete

    def _plan_afresh(self) -> tuple[list[_Task], str]:
        source = self.source
        wanted = self._options()
        # A source may move, and a recipe be told so: what counts are the files found.
        wanted["source"] = {key: value for key, value in wanted["source"].items() if key not in ("path", "heldout")}
        if source.kind == "catalogs":
            wanted["packages"] = catalogs.package_versions(source.packages)
            tasks = self._catalog_tasks()
        else:
            inputs = source_inputs(self.name, source)
            aside = source_inputs(self.name, source, heldout=True) if source.heldout is not None else []
            wanted["inputs"] = [[(f.name, f.language, f.size, f.stamp) for f in files] for files in (inputs, aside)]
            tasks = [self._task("heldout", aside, aside=True)] if aside else []
            tasks += [self._task(f"{i:05d}", files) for i, files in enumerate(_runs(inputs))]
        return tasks, hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]

    def _task(self, name: str, inputs: list[Input], *, aside: bool = False) -> _Task:
        def documents(advance: Advance) -> Iterator[Document]:
            for file in inputs:
                yield from read_input(self.name, self.source, file, advance)

        return _Task(name, documents, sum(file.size for file in inputs), aside)

    def _catalog_tasks(self) -> list[_Task]:
        parts: list[tuple[catalogs.Catalogs, catalogs.Catalogs]] = []

        def split() -> tuple[catalogs.Catalogs, catalogs.Catalogs]:
            if not parts:
                parts.append(catalogs.split(catalogs.load_catalogs(self.source.packages), self.cleaning.holdout))
            return parts[0]

        def heldout(advance: Advance) -> Iterator[Document]:
            self._write_pairs(split()[1])
            for language, messages in split()[1].items():
                yield from catalogs.documents(self.name, language, messages)
            advance(1)

        def kept(advance: Advance) -> Iterator[Document]:
            for language, messages in split()[0].items():
                yield from catalogs.documents(self.name, language, messages)
            advance(1)

        return [_Task("heldout", heldout, 1, aside=True), _Task("00000", kept, 1)]

    def _write_pairs(self, messages: catalogs.Catalogs) -> None:
        folder = self.folder / "parallel"
        shutil.rmtree(folder, ignore_errors=True)
        for language, found in messages.items():
            lines = [json.dumps(pair._asdict(), ensure_ascii=False) for pair in catalogs.pairs(found)]
            if lines:
                write_text(folder / f"{language}.jsonl", "\n".join(lines) + "\n")

    def _options(self) -> dict[str, Any]:
        """What the text depends on, beside the files."""
        source, cleaning = (options.model_dump(mode="json") for options in (self.source, self.cleaning))
        return {"form": _FORM, "source": source, "cleaning": cleaning}

    def _mark_complete(self, tasks: list[_Task]) -> None:
        values = {"fingerprint": self.fingerprint, "tasks": [task.name for task in tasks], "options": self._options()}
        path = self.text / "done" / _COMPLETE
        if not path.is_file() or read_json(path) != values:
            write_json(path, values)

    def _complete(self) -> tuple[list[_Task], str] | None:
        """The finished plan of a source with these very options, which may be out of reach by now."""
        path = self.text / "done" / _COMPLETE
        values = read_json(path) if path.is_file() else {}
        if values.get("options") != self._options():
            return None
        return [_Task(name, lambda advance: iter(()), 0) for name in values["tasks"]], values["fingerprint"]

    def _start_again_if_changed(self) -> None:
        """Remove what was prepared from other input or by other rules."""
        done = sorted((self.text / "done").glob("*.json"))
        if done and all(read_json(path).get("fingerprint") == self.fingerprint for path in done):
            return
        if done:
            logger.info(
                "sources.%s: its files, its options or the cleaning rules have changed: preparing it again", self.name
            )
        report_path(self.folder).unlink(missing_ok=True)
        for folder in (self.text / "done", self.text, self.heldout):  # the marks of what is done go first
            shutil.rmtree(folder, ignore_errors=True)

    def _remember(self, finished: Iterable[_Task]) -> None:
        """Fill ``seen`` as it was after the finished tasks."""
        for task in finished:
            written = read_json(self._done(task))["written"]
            for heldout in (False, True):
                for language in written["heldout" if heldout else "text"]:
                    if heldout or self.cleaning.deduplicate:
                        for document in read_texts(self.folder, self.name, language, heldout=heldout):
                            self.seen.add(document.text)

    def _do(self, task: _Task, advance: Callable[[float], None]) -> None:
        report = SourceReport(fingerprint=self.fingerprint)
        text, heldout = TextWriter(self.text), TextWriter(self.heldout)
        for document in task.documents(advance):
            counts = report.language(document.language)
            if task.aside or self._chosen(document):
                reason = self._hold_out(document, counts.heldout_characters, aside=task.aside)
                if reason is None:
                    heldout.add(document)
                    counts.heldout_documents += 1
                    counts.heldout_characters += len(document.text)
            else:
                reason = self._keep(document)
                if reason is None:
                    text.add(document)
                    counts.documents += 1
                    counts.characters += len(document.text)
                    counts.bytes += len(document.text.encode())
            if reason is not None and not task.aside:
                counts.drop(reason)
        written = {"heldout": heldout.close(), "text": text.close()}
        write_json(
            self._done(task),
            {"fingerprint": self.fingerprint, "written": written, "report": report.model_dump(mode="json")},
        )

    def _hold_out(self, document: Document, before: int, *, aside: bool) -> str | None:
        """The reason not to keep a document for evaluation."""
        reason = check(document, self.cleaning)
        if reason is None and before + len(document.text) > self.cleaning.holdout_characters:
            reason = BEYOND
        if reason is None and not self.seen.add(document.text):
            reason = COPY
        return reason

    def _keep(self, document: Document) -> str | None:
        """The reason not to train on a document."""
        reason = check(document, self.cleaning)
        if reason is not None:
            return reason
        if self.cleaning.deduplicate:
            return None if self.seen.add(document.text) else COPY
        return COPY_OF_HELDOUT if document.text in self.seen else None

    def _chosen(self, document: Document) -> bool:
        if self.brings_heldout or self.cleaning.holdout == 0:
            return False
        digest = hashlib.blake2b(document.id.encode(), digest_size=8).digest()
        return int.from_bytes(digest) < int(self.cleaning.holdout * 2**64)

    def _refuse_empty(self, report: SourceReport) -> None:
        if any(counts.documents for counts in report.languages.values()):
            return
        reasons: Counter[str] = Counter()
        for counts in report.languages.values():
            reasons += Counter(counts.dropped)
            reasons["held out"] += counts.heldout_documents
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common() if number)
        where = f" ({self.source.path})" if self.source.path else ""
        if not told:
            raise DataError(f"sources.{self.name}{where} holds no document")
        raise DataError(
            f"no document of sources.{self.name}{where} is left to train on: {told}; mend the text or loosen `cleaning`"
        )

    def _done(self, task: _Task) -> Path:
        return self.text / "done" / f"{task.name}.json"


def _runs(inputs: list[Input]) -> Iterator[list[Input]]:
    """Whole languages together, until they have ``_TASK`` bytes. Files that mix languages all belong together."""
    run: list[Input] = []
    for _, files in groupby(inputs, key=lambda file: file.language):
        run += files
        if sum(file.size for file in run) >= _TASK and run[0].language is not None:
            yield run
            run = []
    if run:
        yield run
