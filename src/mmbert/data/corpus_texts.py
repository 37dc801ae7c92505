"""Texts with their languages for commands: from files, folders, globs, or a run with prepared text."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbert.recipe_text import Source

UNKNOWN = "und"
"""Code of a language that nothing names, where the language does not matter."""


def file_texts(
    paths: list[str], language: str | None, language_field: str | None, text_field: str
) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of files and folders; the file name tells the format."""
    for path in paths:
        yield from _read(path, None, language, language_field, text_field)


def chosen_texts(
    paths: list[str], languages: Collection[str], *, language_field: str | None = None, text_field: str = "text"
) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of files, folders, globs and run folders, in ``languages`` (empty: all).

    If the name of a file is no language code, ``language_field`` (default ``language``) of each document names it.
    Files in other languages are not opened. Raises DataError, also for a language without text.
    """
    from mmbert.errors import DataError
    from mmbert.languages import matches

    missing = set(languages)
    for path in paths:
        prepared = next((place for place in (Path(path), Path(path) / "data") if _is_prepared(place)), None)
        if prepared is not None:
            pairs = _prepared(prepared, languages)
        else:
            pairs = _read(path, languages, None, language_field, text_field)
        for found, text in pairs:
            if missing:
                missing = {code for code in missing if not matches(found, [code])}
            yield found, text
    if missing:
        raise DataError(f"no text of {', '.join(sorted(missing))} in {', '.join(paths)}")


def text_files(path: str) -> int:
    """Return the number of files that :func:`chosen_texts` reads of a path; of a run, its sources. Raises DataError."""
    prepared = next((place for place in (Path(path), Path(path) / "data") if _is_prepared(place)), None)
    if prepared is not None:
        from mmbert.data.store import Report

        return len(Report.load(prepared).sources)
    from mmbert.data.sources.read import source_inputs

    return sum(1 for _ in source_inputs(path, _source(path, None, None, "text")))


def _is_prepared(folder: Path) -> bool:
    return (folder / "text" / "report.json").is_file()


def _prepared(folder: Path, languages: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the training text that `mmbert data prepare` wrote, in these languages."""
    from mmbert.data.store import Report, read_texts
    from mmbert.languages import matches

    for name, source in Report.load(folder).sources.items():
        for language, counts in source.languages.items():
            if counts.documents and (not languages or matches(language, languages)):
                for document in read_texts(folder, name, language):
                    yield language, document.text


def _source(path: str, language: str | None, language_field: str | None, text_field: str) -> Source:
    from mmbert.io.find import bare_name
    from mmbert.recipe import Source

    form = {".txt": "text", ".parquet": "parquet"}.get(Path(bare_name(path)).suffix, "jsonl")
    options = {"kind": form, "path": path, "language": language, "language_field": language_field}
    return Source.model_validate({**options, "text_field": text_field, "id_field": None})


def _read(
    path: str, languages: Collection[str] | None, language: str | None, language_field: str | None, text_field: str
) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of one path. With ``languages`` (may be empty: all) file names may be no language code."""
    from mmbert.data.sources.inputs import input_language
    from mmbert.data.sources.read import read_input, source_inputs
    from mmbert.errors import DataError
    from mmbert.languages import matches

    source = _source(path, language, language_field, text_field)
    if languages is not None and language_field is None and Path(path).is_file():
        try:
            input_language(path, source, Path(path).name, path)
        except DataError:  # the file name is no language: each document names its own, or it does not matter
            told = {"language_field": "language"} if languages else {"language": UNKNOWN}
            source = source.model_copy(update=told)
    try:
        for input in source_inputs(path, source):
            if languages and input.language is not None and not matches(input.language, languages):
                continue
            for document in read_input(path, source, input):
                if not languages or matches(document.language, languages):
                    yield document.language, document.text
    except DataError as error:  # the message names options of a recipe: name those of the command instead
        message = str(error).replace(f"sources.{path}.language or .language_field", "--language-field")
        message = message.replace(f"sources.{path}.language_field", "--language-field")
        message = message.replace(f"sources.{path}.text_field", "--text-field").partition(", or .skip_bad_rows")[0]
        raise DataError(
            message.replace(f"set sources.{path}.language,", "name its language in the file's name,")
        ) from error
