"""From raw text to shards, in two stages that can be interrupted anywhere and run again.

(1) ``prepare_text`` reads every source, drops documents that ``clean`` and ``dedup`` reject, separates held-out text,
and writes one file for each language (format: ``store``). The work is divided into tasks: consecutive languages with
about 32 MiB of input, or the whole source if its files mix languages. A task is finished when its file in ``done/``
exists; what an interrupted task wrote is written again. If the options of a source, its files or the cleaning rules
have changed, the source is prepared again, with a log line. A finished hub dataset is not looked up again, and its raw
text need not exist any more.
(2) ``prepare_shards`` tokenises the text into shards, ``shards/<source>/<language>/00000.tokens``. A finished shard is
never written again; a stream continues with its next shard.

Both stages write the same bytes however often they were interrupted.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmbert.data.clean import check
from mmbert.data.dedup import Seen
from mmbert.data.document import Document
from mmbert.data.langid import wrong_language
from mmbert.data.manifest import Manifest
from mmbert.data.prepare_tasks import PrepareTask, Work, plan_work, text_options
from mmbert.data.sources.hub_datasets import restore
from mmbert.data.store import (
    Report,
    SourceReport,
    TextWriter,
    complete_path,
    done_path,
    read_complete,
    read_texts,
    report_path,
    text_folder,
)
from mmbert.data.tokenize import check_shards_tokenizer, prepare_shards
from mmbert.errors import ConfigError, DataError
from mmbert.files import read_json, write_json
from mmbert.locks import lock_folder
from mmbert.log import progress
from mmbert.recipe import Cleaning, Recipe, Source, TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

logger = logging.getLogger(__name__)

COPY = "exact copy"
COPY_OF_HELDOUT = "copy of held-out text"
BEYOND = "held out beyond the limit"


def prepare_data(recipe: Recipe, folder: Path) -> tuple[Manifest, Tokenizer]:
    """Prepare text, tokenizer and shards below ``folder``. Finished parts are kept.

    Raises MMBertError if another process is preparing the same folder.
    """
    with lock_folder(folder):
        prepare_text(recipe, folder)
        tokenizer = prepare_tokenizer(recipe, folder)
        return prepare_shards(recipe, folder, tokenizer), tokenizer


def prepare_text(recipe: Recipe, folder: Path) -> None:
    """Write ``text/``, ``heldout/`` and, for catalogs, ``parallel/`` below ``folder``.

    Raises DataError naming file and line of bad input, and if no document of a source survives.
    """
    _check_sources(recipe)
    report = Report()
    for name, source in recipe.sources.items():
        report.sources[name] = _Preparation(name, source, recipe.cleaning, folder).run()
    path = report_path(folder)
    values = report.model_dump(mode="json")
    if not path.is_file() or read_json(path) != values:
        write_json(path, values)


def text_work(recipe: Recipe, folder: Path) -> dict[str, tuple[Work, bool]]:
    """Return for each source the work on its text, and whether it is done in ``folder``. Raises as ``prepare_text``."""
    _check_sources(recipe)
    return {name: _Preparation(name, source, recipe.cleaning, folder).work() for name, source in recipe.sources.items()}


def prepare_tokenizer(recipe: Recipe, folder: Path) -> Tokenizer:
    """Return the recipe's tokenizer, copied to ``folder/tokenizer`` or trained there on the prepared text, once."""
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
    check_shards_tokenizer(folder, tokenizer)  # before theirs is lost
    record.unlink(missing_ok=True)
    tokenizer.save(home)
    write_json(record, wanted)
    return tokenizer


def iterate_text(folder: Path, *, heldout: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield (source, language, text) of all prepared text: sources in the recipe's order, languages sorted."""
    for name, source in Report.load(folder).sources.items():
        for language, counts in source.languages.items():
            if counts.heldout_documents if heldout else counts.documents:
                for document in read_texts(folder, name, language, heldout=heldout):
                    yield name, language, document.text


def heldout_texts(folder: Path) -> dict[str, list[str]]:
    """Return the held-out texts of each language, of all sources together."""
    texts: dict[str, list[str]] = {}
    for _, language, text in iterate_text(folder, heldout=True):
        texts.setdefault(language, []).append(text)
    return dict(sorted(texts.items()))


def _check_sources(recipe: Recipe) -> None:
    if not recipe.sources:
        raise ConfigError(f"recipe {recipe.name} has no sources: name some text under `sources`")
    if sum(source.kind == "catalogs" for source in recipe.sources.values()) > 1:
        raise ConfigError("only one source can be of kind catalogs: name all packages in it")


def drop_reason(document: Document, cleaning: Cleaning) -> str | None:
    """Return the reason to drop a document for its own content, or None."""
    return check(document, cleaning) or wrong_language(document, cleaning)


def is_held_out(document: Document, source: Source, cleaning: Cleaning) -> bool:
    """Return whether a document is held out, by a hash of its id. Sources with their own held-out text lose none."""
    if source.heldout is not None or source.kind == "catalogs" or cleaning.holdout == 0:
        return False
    digest = hashlib.blake2b(document.id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < int(cleaning.holdout * 2**64)


class _Preparation:
    """The preparation of the text of one source."""

    def __init__(self, name: str, source: Source, cleaning: Cleaning, folder: Path) -> None:
        self.name = name
        self.source = source
        self.cleaning = cleaning
        self.folder = folder
        self.text = text_folder(folder, name)
        self.heldout = text_folder(folder, name, heldout=True)
        self.seen = Seen()

    def run(self) -> SourceReport:
        """Do the tasks that are not done; returns the counts of all."""
        work = self._plan()
        tasks, self.fingerprint = work.tasks, work.fingerprint
        self._start_again_if_changed()
        report = SourceReport(fingerprint=self.fingerprint)
        waiting = [task for task in tasks if not self._done(task).is_file()]
        if waiting:
            if self.cleaning.near_duplicates is not None:
                raise ConfigError(
                    "cleaning.near_duplicates is found by datatrove: run `mmbert data scale` first, or set it to null"
                )
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
        if not work.ids:
            self._refuse_empty(report)
        self._mark_complete(work)
        return report

    def work(self) -> tuple[Work, bool]:
        """Return the plan, and whether it is done."""
        work = self._plan()
        done = [self._done(task) for task in work.tasks]
        return work, all(path.is_file() and read_json(path)["fingerprint"] == work.fingerprint for path in done)

    def _plan(self) -> Work:
        """Return the tasks and the fingerprint of everything that they depend on."""
        if self.source.kind == "hub" and (complete := self._complete()) is not None:
            return complete
        try:
            return plan_work(self.name, self.source, self.cleaning, self.folder)
        except DataError as error:
            if (complete := self._complete()) is None:
                raise
            logger.warning("%s; going on with what was prepared from it before", error)
            return complete

    def _mark_complete(self, work: Work) -> None:
        values: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "tasks": [task.name for task in work.tasks],
            "options": text_options(self.source, self.cleaning),
        }
        if work.ids:
            values["ids"] = [file.record() for file in work.ids]
        path = complete_path(self.folder, self.name)
        if not path.is_file() or read_json(path) != values:
            write_json(path, values)

    def _complete(self) -> Work | None:
        """Return the finished plan of a source with these options, or None. The source may be unreachable by now."""
        values = read_complete(self.folder, self.name)
        if values.get("options") != text_options(self.source, self.cleaning):
            return None
        tasks = [PrepareTask(name, lambda advance: iter(()), 0) for name in values["tasks"]]
        ids = tuple(restore(self.source, record) for record in values.get("ids", ()))
        return Work(tasks, values["fingerprint"], ids)

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

    def _remember(self, finished: Iterable[PrepareTask]) -> None:
        """Fill ``seen`` as it was after the finished tasks."""
        for task in finished:
            written = read_json(self._done(task))["written"]
            for heldout in (False, True):
                for language in written["heldout" if heldout else "text"]:
                    if heldout or self.cleaning.deduplicate:
                        for document in read_texts(self.folder, self.name, language, heldout=heldout):
                            self.seen.add(document.text)

    def _do(self, task: PrepareTask, advance: Callable[[float], None]) -> None:
        report = SourceReport(fingerprint=self.fingerprint)
        text, heldout = TextWriter(self.text), TextWriter(self.heldout)
        for document in task.documents(advance):
            counts = report.language(document.language)
            if task.heldout_only or is_held_out(document, self.source, self.cleaning):
                reason = self._hold_out(document, counts.heldout_characters, heldout_only=task.heldout_only)
                if reason is None:
                    heldout.add(document)
                    counts.hold_out(document.text)
            else:
                reason = self._keep(document)
                if reason is None:
                    text.add(document)
                    counts.keep(document.text)
            if reason is not None and not task.heldout_only:
                counts.drop(reason)
        written = {"heldout": heldout.close(), "text": text.close()}
        write_json(
            self._done(task),
            {"fingerprint": self.fingerprint, "written": written, "report": report.model_dump(mode="json")},
        )

    def _hold_out(self, document: Document, before: int, *, heldout_only: bool) -> str | None:
        """Return the reason not to keep a document for evaluation, or None."""
        reason = drop_reason(document, self.cleaning)
        if reason is None and before + len(document.text) > self.cleaning.holdout_characters:
            reason = BEYOND
        if reason is None and not self.seen.add(document.text):
            reason = COPY
        return reason

    def _keep(self, document: Document) -> str | None:
        """Return the reason not to train on a document, or None."""
        if (reason := drop_reason(document, self.cleaning)) is not None:
            return reason
        if self.cleaning.deduplicate:
            return None if self.seen.add(document.text) else COPY
        return COPY_OF_HELDOUT if document.text in self.seen else None

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
            f"no document of sources.{self.name}{where} is left to train on: {told}; fix the text or loosen `cleaning`"
        )

    def _done(self, task: PrepareTask) -> Path:
        return done_path(self.folder, self.name, task.name)
