"""Check the claimed language of documents with a fastText model such as GlotLID.

A document is dropped only if the model is confident of another language. Predictions with a low probability, and
predictions for documents in a language that the model has no label for, do not count, so that rare languages are not
lost. ``fra`` agrees with ``fra_Latn``, a macrolanguage with its languages (``fas``, ``pes_Arab``), but two scripts of
one language are two languages (``srp_Latn``, ``srp_Cyrl``).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from mmbert import languages
from mmbert.data.document import Document
from mmbert.errors import ConfigError, DataError, import_extra
from mmbert.files import sha256
from mmbert.hub import HubFailed, hub_file
from mmbert.recipe import Cleaning, LanguageId

LANGUAGE = "language"
"""The reason to drop a document."""

_LABEL = "__label__"
_CHARACTERS = 2000
"""So many are shown to the model, from the beginning."""


class LanguageIdentifier:
    """The language model of a recipe. Raises DataError if it cannot be read, MissingExtra without fastText."""

    def __init__(self, spec: LanguageId) -> None:
        self.spec = spec
        self._model = _load(model_file(spec.model))
        self._labels = {label: _language(label) for label in self._model.get_labels()}
        if not any(self._labels.values()):
            raise DataError(f"the labels of {spec.model} name no languages ({', '.join(list(self._labels)[:3])})")
        self._agree = cache(self._compare)
        self._known = cache(lambda claimed: any(self._agree(claimed, label) for label in self._labels))

    def refuses(self, document: Document) -> bool:
        """Return whether the model is confident that the document is not in the language that it claims."""
        if not self._known(document.language):
            return False
        label, score = self._predict(document.text)
        return score >= self.spec.min_score and not self._agree(document.language, label)

    def _predict(self, text: str) -> tuple[str, float]:
        labels, scores = self._model.predict(text[:_CHARACTERS].replace("\n", " "))  # it reads one line
        return (labels[0], min(float(scores[0]), 1.0)) if labels else ("", 0.0)

    def _compare(self, claimed: str, label: str) -> bool:
        language = self._labels.get(label)
        if language is None:
            return False
        return languages.matches(language, [claimed]) or languages.matches(claimed, [language])


@cache
def identifier(spec: LanguageId) -> LanguageIdentifier:
    """Return the model of a recipe, loaded once in a process."""
    return LanguageIdentifier(spec)


def wrong_language(document: Document, cleaning: Cleaning) -> str | None:
    """Return ``LANGUAGE`` if the recipe's model refuses the document, else None."""
    if cleaning.language_id is None:
        return None
    return LANGUAGE if identifier(cleaning.language_id).refuses(document) else None


def model_file(name: str) -> Path:
    """Return the file of a model, downloaded from the hub unless it is a local file. Raises DataError."""
    path = Path(name)
    if path.is_file():
        return path
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+))?", name)
    if match is None or name.startswith("."):
        raise DataError(f"no language model at {name}: expected a file, or a name on the hub as cis-lmu/glotlid")
    try:
        return hub_file(match[1], match[2] or "model.bin")
    except HubFailed as error:
        raise DataError(f"no file {name} here, and the hub did not give the language model: {error}") from error


@cache
def model_hash(name: str) -> str:
    """Return the SHA-256 of a model's file: another model means that text is prepared again. Raises DataError."""
    return sha256(model_file(name))


def _load(path: Path) -> Any:
    fasttext = import_extra("fasttext", "langid")
    fasttext.FastText.eprint = lambda *args, **kwargs: None  # a warning on stderr at every load
    try:
        return fasttext.load_model(str(path))
    except ValueError as error:
        raise DataError(f"{path} is no model in fastText's form ({error}): fetch it again") from error


def _language(label: str) -> str | None:
    try:
        return languages.normalise(label.removeprefix(_LABEL))
    except ConfigError:
        return None
