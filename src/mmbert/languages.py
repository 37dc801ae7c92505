"""Language codes: one canonical form, with their names and scripts.

The canonical form is FineWeb2's: ISO 639-3, with the ISO 15924 script where it is known (``fra`` or ``fra_Latn``), and
``code`` for program code. :func:`normalise` brings other spellings to it: ``fr``, ``pt-BR``, ``sr@latin``,
``zh_TW`` (-> ``cmn_Hant``), BCP 47's registered tags and extended languages (``zh-min-nan``, ``ar-arz``), and the names
of Wikipedia's editions (``bat-smg``, ``simple``). Three-letter codes stay as they are, retired ones too, except codes
of macrolanguages which that corpus never uses: ``est`` -> ``ekk``. They mean what they mean in ISO 639-3, also where
Wikipedia means another language: ``als`` is Tosk Albanian, not Alemannic (``other_meaning``). Exceptions stand in
``languages.tsv``; names come from langcodes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

from mmbert.errors import ConfigError

_COVERS = {"Hani": ("Hans", "Hant"), "Jpan": ("Hira", "Kana", "Hani"), "Kore": ("Hang",)}
"""Scripts that include others."""

_PLAIN = {"Hans": "Hani", "Hant": "Hani", "Kore": "Hang"}
"""What FineWeb2 calls the script of a language that langcodes describes more closely."""

_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab"}
"""Scripts as gettext names them: ``sr@latin``."""


def normalise(code: str) -> str:
    """Return the canonical form of a code. Raises ConfigError, with the nearest known code, for an unknown one."""
    return _normalise(code)


def name(code: str) -> str:
    """Return the English name of the language, with the script unless it is the usual one: ``Serbian (Latin)``."""
    code = normalise(code)
    language, _, writing = code.partition("_")
    known = _table().get(language, ("", "", None))[1]
    if not known:
        known = _language(language).language_name().removesuffix(" (individual language)")
        if known.startswith("Unknown language"):
            known = language
    from langcodes.data_dicts import LIKELY_SUBTAGS

    usual_known = _letters()[1].get(language, language) in LIKELY_SUBTAGS
    if not writing or not usual_known or _same_script(writing, script(language)):
        return known
    return f"{known} ({_language(f'und-{writing}').script_name()})"


def script(code: str) -> str:
    """Return the ISO 15924 script of a code: stated or the usual one, which for rare languages is a guess: Latn."""
    language, _, writing = normalise(code).partition("_")
    if writing:
        return writing
    if language == "code":
        return "Zyyy"
    usual = _language(language).maximize().script or "Zyyy"
    return _PLAIN.get(usual, usual)


def matches(code: str, wanted: Collection[str]) -> bool:
    """Return whether ``wanted`` admits ``code``: ``fra`` admits every script, ``cmn_Hani`` also ``cmn_Hans``.

    A macrolanguage admits its languages: ``fas`` admits ``pes_Arab``. Codes that the canonical form makes specific
    (``ara`` means Standard Arabic) do not.
    """
    language, _, writing = normalise(code).partition("_")
    family = macrolanguage(language)
    for other in map(normalise, wanted):
        other_language, _, other_writing = other.partition("_")
        if other_language in (language, family) and (
            not other_writing or other_writing == writing or writing in _COVERS.get(other_writing, ())
        ):
            return True
    return False


@cache
def macrolanguage(code: str) -> str | None:
    """Return the macrolanguage (ISO 639-3) of a language: ``pes`` -> ``fas``; None if it is in none."""
    from langcodes.data_dicts import MACROLANGUAGES

    language = normalise(code).partition("_")[0]
    to_alpha3, to_alpha2, _ = _letters()
    family = MACROLANGUAGES.get(language) or MACROLANGUAGES.get(to_alpha2.get(language, ""))
    return None if family is None else to_alpha3.get(family, family)


@cache
def _normalise(code: str) -> str:
    if code.lower() == "code":
        return "code"
    spelled, _, modifier = code.partition("@")
    spelled = expand(spelled.partition(".")[0])  # fr_FR.UTF-8
    spelled = re.split(r"-[0-9a-z](?:-|$)", spelled)[
        0
    ]  # BCP 47's extensions and private parts: en-u-ca-gregory, de-x-a
    if not re.fullmatch(
        r"[A-Za-z]{2,3}(-([A-Za-z]{2}|[0-9]{3}|[A-Za-z]{4}|[0-9][A-Za-z0-9]{3}|[A-Za-z0-9]{5,8}))*", spelled
    ):
        raise _unknown(code)
    language, *rest = spelled.split("-")
    implied = _language(language.lower(), normalise=True).script if len(language) == 2 else None  # sh is sr-Latn
    writing = next(
        (part.title() for part in rest if re.fullmatch(r"[A-Za-z]{4}", part)), _MODIFIERS.get(modifier, implied)
    )
    from langcodes.data_dicts import ALL_SCRIPTS

    if writing is not None and writing not in ALL_SCRIPTS:
        near = difflib.get_close_matches(writing, sorted(ALL_SCRIPTS), n=1, cutoff=0.5)
        raise ConfigError(
            f"unknown script {writing!r} in language code {code!r}" + (f": did you mean {near[0]}?" if near else "")
        )
    territory = next((part.upper() for part in rest if re.fullmatch(r"[A-Za-z]{2}|[0-9]{3}", part)), None)
    alpha3 = _alpha3(language.lower())
    if alpha3 is None:
        raise _unknown(code)
    if writing is None and territory is not None:  # a territory may tell the script: zh-TW, pa-PK, sr-ME
        here = _language(f"{language}-{territory}").maximize().script
        writing = here if here != _language(language).maximize().script or language.lower() == "zh" else None
    canonical = _table().get(alpha3, ("", "", None))[0] or alpha3
    return canonical if writing is None else f"{canonical}_{writing}"


def expand(code: str) -> str:
    """Return a code in small letters with ``-``, registered tags and names of Wikipedias replaced: ``yue``."""
    from langcodes.data_dicts import LANGUAGE_REPLACEMENTS, MACROLANGUAGES

    parts = code.lower().replace("_", "-").split("-")
    for length in range(len(parts), 0, -1):
        tag = "-".join(parts[:length])
        canonical = _table()[tag][0] if tag in _table() and (length > 1 or len(tag) > 3) else None
        if replaced := canonical or (LANGUAGE_REPLACEMENTS.get(tag) if length > 1 else None):
            return "-".join([replaced.lower().replace("_", "-"), *parts[length:]])
    if len(parts) > 1 and len(parts[1]) == 3 and parts[1].isalpha():  # an extended language: ar-arz
        family = MACROLANGUAGES.get(parts[1])
        if parts[0] == "sgn" or (family is not None and _alpha3(family) == _alpha3(parts[0])):
            parts = parts[1:]
    return "-".join(parts)


def other_meaning(code: str) -> str | None:
    """Return what Wikipedia writes with a code that ISO 639-3 gives to another language: ``als`` -> ``gsw``."""
    return _table().get(code.lower(), ("", "", None))[2]


def _alpha3(language: str) -> str | None:
    """Return the ISO 639-3 code of a two- or three-letter code; None if there is no such language."""
    to_alpha3, _, bibliographic = _letters()
    if language in _table() or language in to_alpha3.values():
        return language
    if language in bibliographic:
        return to_alpha3[bibliographic[language]]
    if len(language) == 3:
        return language if _language(language).is_valid() else None
    try:
        modern: str = _language(language, normalise=True).to_alpha3()  # iw -> heb
    except LookupError:
        return None
    return modern


def _unknown(code: str) -> ConfigError:
    """Return the error for an unknown language, with the nearest code, or the code of a language of that name."""
    import langcodes
    from langcodes.data_dicts import LIKELY_SUBTAGS

    word, *rest = re.split(r"[_\-@]", code.lower())
    hint = ""
    if rest and 2 <= len(word) <= 3 and _alpha3(word) is not None:
        known = _normalise(word)
        hint = f": did you mean {known} ({name(known)})? The rest names neither a script nor a country"
    elif len(word) == 2 and (spoken := LIKELY_SUBTAGS.get(f"und-{word.upper()}")):
        spoken = _normalise(spoken.split("-")[0])
        hint = f": did you mean {spoken} ({name(spoken)})? {word.upper()} is a country"
    elif len(word) > 3:
        try:
            found = _normalise(langcodes.find(word).language or "")
            hint = f": did you mean {found} ({name(found)})?"
        except LookupError:
            pass
    for codes in [] if hint or len(word) < 2 else _known():
        near = difflib.get_close_matches(word, codes, n=1, cutoff=0.5)
        if near:
            hint = f": did you mean {near[0]} ({name(near[0])})?"
            break
    return ConfigError(f"unknown language code {code!r}{hint or '; write ISO 639-3 with a script, such as fra_Latn'}")


@cache
def _known() -> tuple[list[str], list[str]]:
    """Return codes to suggest: languages with a two-letter code, then the others that langcodes can place."""
    from langcodes.data_dicts import LIKELY_SUBTAGS

    common = sorted({_normalise(code) for code in _letters()[1]})
    return common, sorted(code for code in LIKELY_SUBTAGS if len(code) == 3 and code != "und")


@cache
def _letters() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return two letters -> three, three -> two, and bibliographic three (``ger``) -> two."""
    from langcodes.data_dicts import LANGUAGE_ALPHA3, LANGUAGE_ALPHA3_BIBLIOGRAPHIC

    return (
        LANGUAGE_ALPHA3,
        {three: two for two, three in LANGUAGE_ALPHA3.items()},
        {three: two for two, three in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()},
    )


def _language(code: str, *, normalise: bool = False) -> Any:
    """Return a langcodes object. Normalising it would turn Tagalog into Filipino and Dari into Persian."""
    import langcodes

    return langcodes.Language.get(_letters()[1].get(code, code), normalize=normalise)


@cache
def _table() -> dict[str, tuple[str, str, str | None]]:
    """Return code -> (canonical form, English name or "", what Wikipedia means by it or None) of ``languages.tsv``."""
    lines = files("mmbert").joinpath("languages.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {code: (canonical, english, other or None) for code, canonical, english, other in rows}


def _same_script(one: str, other: str) -> bool:
    return (
        one == other
        or _PLAIN.get(one, one) == _PLAIN.get(other, other)
        or one in _COVERS.get(other, ())
        or other in _COVERS.get(one, ())
    )
