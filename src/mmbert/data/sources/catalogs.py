"""Text in more than 300 languages without a download: translations inside installed packages.

    django     messages of a web framework: whole sentences in about 90 languages            (BSD licence)
    babel      Unicode CLDR: names, amounts, dates, lists in about 300 languages             (Unicode licence)
    pycountry  ISO names of countries, languages, currencies, scripts in about 150 languages (LGPL)

Every message has an English source. A message is held out by a hash of its English text, and so in all languages
together: held-out messages are unseen in every language and serve as a parallel test set. Messages are sorted by hash
and concatenated into documents of about 800 to 1200 characters, one message on each line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import langcodes

from mmbert import languages
from mmbert.data.document import Document
from mmbert.data.sources.cldr import Locale, locales
from mmbert.data.sources.gettext import catalog_files, read_messages
from mmbert.errors import ConfigError, MissingExtra
from mmbert.log import progress

PACKAGES = ("django", "babel", "pycountry")
ENGLISH = "eng_Latn"

_DOCUMENT = 800
"""A document is closed when it has so many characters; a rest of less than half of it joins the one before."""
_NOT_ENGLISH = "pycountry/iso3166-2/"
"""Names of provinces, whose sources are not English: no English text, no pairs."""
_SCRIPTS = {"latin": "Latn", "iqtelif": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva"}
"""Modifiers of gettext locales (``sr@latin``) that name a script; locales with another modifier are not read."""
_GROUPS = ("ber", "bh", "nah")
"""Locales of a group of languages, where nothing tells which one is meant."""


class Message(NamedTuple):
    """One translated message."""

    key: str
    """Package, catalog and message, the same in every language."""
    english: str
    """Its source; empty if that is not English."""
    text: str


class MessagePair(NamedTuple):
    """A held-out message and its English source."""

    id: str
    text: str
    english: str


Catalogs = dict[str, list[Message]]
"""Language -> its messages, in hashed order, no text twice."""


def read_catalogs(source_name: str, packages: Iterable[str] = PACKAGES) -> Iterator[Document]:
    """Yield all documents, with nothing held out. Raises MissingExtra if a package is not installed."""
    for language, messages in load_catalogs(packages).items():
        yield from documents(source_name, language, messages)


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package. Raises ConfigError for an unknown name, MissingExtra."""
    for package in packages:
        if package not in PACKAGES:
            raise ConfigError(f"no catalogs are known in the package {package}: choose from {', '.join(PACKAGES)}")
        if find_spec(package) is None:
            raise MissingExtra(package, "catalogs")
    return {package: version(package) for package in packages}


def load_catalogs(packages: Iterable[str] = PACKAGES) -> Catalogs:
    """Return the messages of every language, sorted by language. Takes about ten seconds and 300 MB."""
    names = tuple(packages)
    package_versions(names)
    found: dict[str, dict[str, str]] = {}
    english: dict[str, str] = {}
    for package in names:
        for language, texts in _babel(english) if package == "babel" else _gettext(package, english):
            # The first to give a message keeps it: a language's own locale comes before those of its countries.
            found[language] = texts | found.get(language, {})
    order = {key: number for number, key in enumerate(sorted(english, key=lambda key: (_hash(key), key)))}
    arranged = {language: _arrange(language, found[language], english, order) for language in sorted(found)}
    return {language: messages for language, messages in arranged.items() if messages}


def split(catalogs: Catalogs, holdout: float) -> tuple[Catalogs, Catalogs]:
    """Return (kept, held out) by a hash of the English text. No held-out text occurs in the kept ones of a language."""
    kept: Catalogs = {}
    heldout: Catalogs = {}
    sources = {message.english or message.key for messages in catalogs.values() for message in messages}
    chosen = {source for source in sources if _hash(" ".join(source.casefold().split())) < int(holdout * 2**64)}
    for language, messages in catalogs.items():
        heldout_only = [message for message in messages if (message.english or message.key) in chosen]
        texts = {message.text.casefold() for message in heldout_only}
        kept[language] = [message for message in messages if message.text.casefold() not in texts]
        if heldout_only:
            heldout[language] = heldout_only
    return kept, heldout


def documents(source_name: str, language: str, messages: list[Message]) -> Iterator[Document]:
    """Yield documents of messages joined by newlines, package by package, with package and number as id."""
    for package in PACKAGES:
        parts: list[str] = []
        gathered: list[str] = []
        size = 0
        for message in messages:
            if message.key.startswith(package + "/"):
                gathered.append(message.text)
                size += len(message.text)
                if size >= _DOCUMENT:
                    parts.append("\n".join(gathered))
                    gathered, size = [], 0
        if parts and size < _DOCUMENT // 2:
            gathered.insert(0, parts.pop())
        if gathered:
            parts.append("\n".join(gathered))
        for number, part in enumerate(parts):
            yield Document(part, f"{package}/{language}/{number:05d}", language, source_name)


def pairs(messages: list[Message]) -> list[MessagePair]:
    """Return messages with their English sources: no equal sides, none shorter than 3 characters, none twice."""
    found = []
    texts: set[str] = set()
    sources: set[str] = set()
    for message in messages:
        text, english = message.text, message.english
        if min(len(text), len(english)) < 3 or text.casefold() == english.casefold():
            continue
        if text.casefold() not in texts and english.casefold() not in sources:
            found.append(MessagePair(_identity(message.key), text, english))
            texts.add(text.casefold())
            sources.add(english.casefold())
    return found


def _arrange(language: str, found: dict[str, str], english: dict[str, str], order: dict[str, int]) -> list[Message]:
    """Return messages sorted by ``order``, without untranslated ones, second copies and those that are no text."""
    texts: set[str] = set()
    kept = []
    for key in sorted(found, key=order.__getitem__):
        text, source = found[key], english[key]
        folded = text.casefold()
        translated = language == ENGLISH or folded != source.casefold()
        if len(folded) > 1 and translated and folded not in texts and any(map(str.isalpha, folded)):
            texts.add(folded)
            kept.append(Message(key, source, text))
    return kept


def _gettext(package: str, english: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (language, key -> text) of every catalog of Django or pycountry; English catalogs are the sources of all.

    Notes the sources in ``english``.
    """
    spec = find_spec(package)
    assert spec is not None, "the package is installed"
    assert spec.origin is not None, "it has files"
    files = []
    for locale, name, path in catalog_files(Path(spec.origin).parent):
        if (language := _language(locale)) is not None:
            files.append((len(locale), locale, name, path, language))  # short names first: es before es_AR
    sources: dict[str, str] = {}
    for _, _, name, path, language in progress(sorted(files), desc=f"reading {package}", unit="file"):
        prefix = f"{package}/{name}/"
        wrong_language = prefix.startswith(_NOT_ENGLISH)
        texts: dict[str, str] = {}
        for source, text in read_messages(path):
            if wrong_language and text == source:
                continue
            key = prefix + source
            texts.setdefault(key, text)
            if wrong_language:
                english[key] = ""
            else:
                sources[key] = source
        yield language, texts
    english.update(sources)
    yield ENGLISH, sources


def _babel(english: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (language, key -> text) of every CLDR locale, and add the English texts to ``english``."""
    sources = Locale("en").texts()
    for name in progress(sorted(locales(), key=lambda name: (len(name), name)), desc="reading babel", unit="locale"):
        language = _language(name)
        if language is None:
            continue
        texts = {f"babel/{key}": text for key, text in Locale(name).texts().items()}
        for key in texts:
            if key not in english:
                english[key] = _english(key.removeprefix("babel/"), sources)
        yield language, texts


def _english(key: str, sources: dict[str, str]) -> str:
    """Return the English text of CLDR, stated or by a rule; empty if there is none."""
    if key not in sources and key.startswith("cities/"):  # named by their time zone: America/New_York
        return key.rpartition("/")[2].replace("_", " ")
    return sources.get(key) or sources.get(key.replace("/stand-alone/", "/format/"), "")


@cache
def _language(locale: str) -> str | None:
    """Return the canonical code of a locale with its script, ``cmn_Hant`` for ``zh_TW``; None for a group."""
    base, _, modifier = locale.partition("@")
    tag = langcodes.Language.get(base.replace("_", "-"), normalize=False)
    if tag.language in _GROUPS or (modifier and modifier not in _SCRIPTS):
        return None
    script = _SCRIPTS.get(modifier) or tag.maximize().script
    if script == "Kore":  # FineWeb2 writes kor_Hang
        script = "Hang"
    try:
        return languages.normalise(f"{tag.language}-{script}" if script else str(tag.language))
    except ConfigError:
        return None


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _identity(key: str) -> str:
    """Return package, catalog and 12 hexadecimal digits as an id."""
    *place, _ = key.split("/", 2)
    return "/".join((*place, blake2b(key.encode(), digest_size=6).hexdigest()))
