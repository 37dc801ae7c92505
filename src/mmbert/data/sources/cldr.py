"""Texts of the Unicode CLDR in Babel, in some 300 languages.

Names of languages, countries, currencies, units, days and so on, and short phrases built with each language's own
patterns and plural rules: spans of time, amounts, dates, lists.
Only what a locale states itself is used, never what it inherits from the root or from English.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = ("territories", "languages", "scripts", "variants", "currency_names", "measurement_systems")
_FORMS = ("months", "days", "quarters", "day_periods")
_FIRST_DAY = datetime.date(2027, 1, 1)
_DATES = 64
_LISTS = 64
_LISTED = ("territories", "languages")


def locales() -> list[str]:
    """Return Babel's locales of a language, or of one script (``sr_Latn``). Locales of countries only repeat them."""
    from babel import localedata

    names = [name for name in localedata.locale_identifiers() if name != "root"]
    return sorted(name for name in names if all(len(part) == 4 for part in name.split("_")[1:]))


class Locale:
    """The texts of one locale by key. The same key means the same in every locale."""

    def __init__(self, name: str) -> None:
        from babel import Locale as BabelLocale
        from babel import localedata

        self.name = name
        self.data: Mapping[str, Any] = localedata.load(name, merge_inherited=False)
        self._locale = BabelLocale.parse(name)

    def texts(self) -> dict[str, str]:
        """Return key -> text, in a fixed order."""
        texts: dict[str, str] = {}
        for key, value in (*self._names(), *self._amounts(), *self._dates(), *self._lists()):
            if isinstance(value, str):  # not an alias to another locale or width
                texts[key] = " ".join(value.split())
        return texts

    def _names(self) -> Iterator[tuple[str, Any]]:
        for section in _NAMES:
            for code, name in self._section(section).items():
                yield f"{section}/{code}", name
        for section in _FORMS:
            for use, widths in self._section(section).items():
                for code, name in _map(_map(widths).get("wide")).items():
                    yield f"{section}/{use}/{code}", name
        for code, name in _map(self._section("eras").get("wide")).items():
            yield f"eras/{code}", name
        for unit, widths in self._section("unit_display_names").items():
            yield f"units/{unit}", _map(widths).get("long")
        for zone, widths in self._section("meta_zones").items():
            for kind, name in _map(_map(widths).get("long")).items():
                yield f"zones/{zone}/{kind}", name
        for zone, names in self._section("time_zones").items():
            yield f"cities/{zone}", _map(names).get("city")

    def _amounts(self) -> Iterator[tuple[str, Any]]:
        """Yield ``3 kilometers``, ``in 3 years``, ``3 US dollars``: one singular and one plural each."""
        for unit, widths in self._section("unit_patterns").items():
            yield from self._counted(f"amounts/{unit}", _map(_map(widths).get("long")))
        for field, tenses in self._section("date_fields").items():
            if not field.endswith(("-short", "-narrow")):
                for tense in ("past", "future"):
                    yield from self._counted(f"spans/{field}/{tense}", _map(_map(tenses).get(tense)))
        for code, forms in self._section("currency_names_plural").items():
            patterns = {form: "{0} " + name for form, name in _map(forms).items() if isinstance(name, str)}
            yield from self._counted(f"prices/{code}", patterns, singular=False)

    def _counted(self, key: str, patterns: Mapping[str, Any], *, singular: bool = True) -> Iterator[tuple[str, Any]]:
        plural = 2 + sum(key.encode()) % 97  # any number will do, if it is the same in every language
        for number in (1, plural) if singular else (plural,):
            pattern = patterns.get(self._locale.plural_form(number), patterns.get("other"))
            if isinstance(pattern, str):
                yield f"{key}/{number}", pattern.replace("{0}", str(number))

    def _dates(self) -> Iterator[tuple[str, str]]:
        """Yield ``Friday, January 1, 2027`` if the locale has its own names of months and days."""
        from babel.dates import format_date

        names = (_map(_map(self._section(part).get("format")).get("wide")) for part in ("months", "days"))
        if [len(part) for part in names] != [12, 7] or "full" not in self._section("date_formats"):
            return
        for i in range(_DATES):
            date = _FIRST_DAY + datetime.timedelta(days=29 * i)
            try:
                text = format_date(date, "full", locale=self._locale)
            except KeyError:  # its pattern asks for a width of names that the locale lacks
                return
            yield f"dates/{date.isoformat()}", text

    def _lists(self) -> Iterator[tuple[str, str]]:
        """Yield ``Chad, Mali and Peru``: names at fixed distances in the English list, if the locale has all three."""
        patterns = _map(self._section("list_patterns").get("standard"))
        if not isinstance(patterns.get("end"), str):
            return
        start = patterns.get("start", "{0}, {1}")
        for section in _LISTED:
            names = self._section(section)
            codes = _english_codes(section)
            for i in range(_LISTS // len(_LISTED)):
                places = (7 * i, 11 * i + 3, 13 * i + 5)
                chosen = [names.get(codes[place % len(codes)]) for place in places]
                if all(isinstance(name, str) for name in chosen) and len(set(chosen)) == 3:
                    rest = patterns["end"].replace("{0}", str(chosen[1])).replace("{1}", str(chosen[2]))
                    yield f"lists/{section}/{i}", start.replace("{0}", str(chosen[0])).replace("{1}", rest)

    def _section(self, name: str) -> Mapping[Any, Any]:
        return _map(self.data.get(name))


def _english_codes(section: str) -> list[str]:
    """Return codes in the English list that most locales name: two letters, so neither continents nor dialects."""
    from babel import localedata

    names = localedata.load("en", merge_inherited=False)[section]
    return sorted(code for code in names if len(code) == 2)


def _map(value: Any) -> Mapping[Any, Any]:
    """Return ``value`` if it is a map; an alias or nothing counts as empty."""
    return value if isinstance(value, Mapping) else {}
