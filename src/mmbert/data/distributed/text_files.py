"""Write the kept documents as the text that ``prepare_text`` would have written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from datatrove.data import Document as Item

from mmbert.data.distributed.pipeline_steps import DataStep, fresh_folder, reports
from mmbert.data.distributed.task_plan import TaskPlan
from mmbert.data.prepare import prepare_text, prepare_tokenizer, text_work
from mmbert.data.prepare_tasks import PrepareTask
from mmbert.data.store import SUFFIX, SourceReport, TextWriter, done_path, text_folder
from mmbert.errors import DataError
from mmbert.files import atomic_file, read_json, write_json

PART = 2**28
"""UTF-8 bytes of text in a part, and so in a shard: no tokenizer makes more than a token of a byte."""

_FILE = "parts.json"
_COPY = 1 << 22


class TextPart(NamedTuple):
    """Documents of one language that a rank has written to one file."""

    language: str
    file: str
    documents: int
    characters: int
    bytes: int


class Write(DataStep):
    """Writes the kept documents of a rank, in parts."""

    name = "Write text"
    type = "💽 - WRITER"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> None:
        """Write files of each language, and last the list of them."""
        folder = fresh_folder(self.plan, "parts", rank)
        writer, report = TextWriter(folder), self.report(rank)
        parts: dict[str, list[TextPart]] = {}
        for item in data:
            language, size = item.metadata["language"], len(item.text.encode())
            of = parts.setdefault(language, [])
            if not of or of[-1].bytes + size > PART:
                of.append(TextPart(language, f"{language}.{len(of):05d}", 0, 0, 0))
            last = of[-1]
            writer.write(last.file, item.id, item.text)
            of[-1] = last._replace(
                documents=last.documents + 1, characters=last.characters + len(item.text), bytes=last.bytes + size
            )
            report.language(language).keep(item.text)
        writer.close()
        self.write_report(rank, report)
        write_json(folder / _FILE, [part for language in sorted(parts) for part in parts[language]])


def parts_of(plan: TaskPlan, source: str) -> Iterator[tuple[int, TextPart]]:
    """Yield (rank, part) of a source, in the order of its documents within each language."""
    for rank in plan.sources[source]:
        for values in read_json(plan.place("parts", rank, _FILE)):
            yield rank, TextPart(*values)


class Collect(DataStep):
    """Concatenates the parts of every language; each task handles some languages."""

    name = "Collect text"
    type = "💽 - WRITER"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write files below ``text`` and ``heldout``."""
        plan = self.plan
        work: list[tuple[str, str, bool]] = []
        for source in plan.sources:
            for language, counts in reports(plan, source).languages.items():
                work += [(source, language, False)] if counts.documents else []
                work += [(source, language, True)] if counts.heldout_documents else []
        for source, language, heldout in work[rank::world_size]:
            if heldout:
                files = [plan.place("heldout", member, language + SUFFIX) for member in plan.sources[source]]
            else:
                found = parts_of(plan, source)
                files = [plan.place("parts", i, part.file + SUFFIX) for i, part in found if part.language == language]
            with atomic_file(text_folder(plan.folder, source, heldout=heldout) / (language + SUFFIX)) as out:
                for path in files:
                    if path.is_file():
                        with path.open("rb") as file:
                            shutil.copyfileobj(file, out, _COPY)


class Finish(DataStep):
    """Marks the text as prepared and makes the tokenizer; one task."""

    name = "Finish text"
    type = "✅ - REPORT"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the marks that ``prepare_text`` would have left, then let it write the report."""
        plan = self.plan
        works = text_work(plan.recipe, plan.folder)
        for source, fingerprint in plan.fingerprints.items():
            work = works[source][0]
            if work.fingerprint != fingerprint:
                raise DataError(f"sources.{source}: its files have changed meanwhile: run the same command again")
            _mark_done(plan, source, work.tasks)
        prepare_text(plan.recipe, plan.folder)
        prepare_tokenizer(plan.recipe, plan.folder)


def _mark_done(plan: TaskPlan, source: str, tasks: list[PrepareTask]) -> None:
    """Mark every task as done. Held-out text is counted in the task that brings it, the rest where it is read."""
    total = reports(plan, source)
    counted = {task.name: SourceReport(fingerprint=total.fingerprint) for task in tasks}
    readers = {file.language: task.name for task in tasks for file in task.inputs if not task.heldout_only}
    for language, counts in total.languages.items():
        name = readers.get(language) or readers.get(None) or tasks[-1].name
        held = counts.model_copy(update={"documents": 0, "characters": 0, "bytes": 0, "dropped": {}})
        if tasks[0].heldout_only and counts.heldout_documents:
            counted[tasks[0].name].languages[language] = held
            counts = counts.model_copy(update={"heldout_documents": 0, "heldout_characters": 0})
        counted[name].languages[language] = counts
    for task in tasks:
        report = counted[task.name]
        written = {
            "heldout": [code for code, counts in report.languages.items() if counts.heldout_documents],
            "text": [code for code, counts in report.languages.items() if counts.documents],
        }
        values = {"fingerprint": total.fingerprint, "written": written, "report": report.model_dump(mode="json")}
        write_json(done_path(plan.folder, source, task.name), values)
