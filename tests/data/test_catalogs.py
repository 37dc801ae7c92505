"""Translations inside installed packages: real text in more than 300 languages, held out in all of them together."""

from __future__ import annotations

import importlib
import struct
import sys
from pathlib import Path

import pytest

from mmbert.data.clean import check
from mmbert.data.sources.catalogs import (
    ENGLISH,
    Catalogs,
    Message,
    documents,
    load_catalogs,
    package_versions,
    pairs,
    split,
)
from mmbert.data.sources.gettext import catalog_files, plain, read_messages
from mmbert.errors import ConfigError, DataError, MissingExtra
from mmbert.recipe import Cleaning

HOLDOUT = 0.05


@pytest.fixture(scope="module")
def catalogs() -> Catalogs:
    return load_catalogs()


@pytest.fixture(scope="module")
def parts(catalogs: Catalogs) -> tuple[Catalogs, Catalogs]:
    """(kept, held out)"""
    return split(catalogs, HOLDOUT)


def test_more_than_300_languages_survive_cleaning(parts: tuple[Catalogs, Catalogs]) -> None:
    kept, _ = parts
    sizes = {}
    for language, messages in kept.items():
        texts = [d.text for d in documents("s", language, messages) if check(d, Cleaning()) is None]
        if texts:
            sizes[language] = sum(map(len, texts))
    assert len(sizes) > 300
    assert sum(sizes.values()) > 8_000_000
    assert sorted(sizes.values())[len(sizes) // 2] > 5_000
    assert len({language.split("_")[-1] for language in sizes}) > 30  # scripts


def test_what_is_said_is_right(catalogs: Catalogs) -> None:
    def texts(language: str) -> dict[str, str]:
        return {message.english: message.text for message in catalogs[language]}

    assert texts("deu_Latn")["Germany"] == "Deutschland"
    assert texts("fao_Latn")["Monday"] == "mánadagur"
    assert texts("fra_Latn")["This field is required."] == "Ce champ est obligatoire."
    assert texts("deu_Latn")["Friday, January 1, 2027"] == "Freitag, 1. Januar 2027"
    assert texts("cmn_Hant")["Germany"] == "德國"
    assert texts("cmn_Hans")["Germany"] == "德国"
    assert texts("kor_Hang")["Germany"] == "독일"
    assert texts("srp_Latn")["Germany"] == "Nemačka"
    assert texts("rus_Cyrl")["in 1 week"] == "через 1 неделю"
    assert texts(ENGLISH)["Enter a valid email address."] == "Enter a valid email address."
    plural = next(text for english, text in texts("pol_Latn").items() if english.endswith(" Polish zlotys"))
    assert plural.endswith((" złote polskie", " złotych polskich"))


def test_messages_are_plain_distinct_and_in_one_order(catalogs: Catalogs) -> None:
    order = {message.key: number for number, message in enumerate(catalogs[ENGLISH])}
    for language, messages in catalogs.items():
        folded = [message.text.casefold() for message in messages]
        assert len(set(folded)) == len(folded)
        assert not any("\n" in text or "%(" in text or "{0}" in text for text in folded)
        known = [order[message.key] for message in messages if message.key in order]
        assert known == sorted(known)
        if language != ENGLISH:
            assert not any(message.text.casefold() == message.english.casefold() for message in messages)


def test_held_out_in_all_languages_together(parts: tuple[Catalogs, Catalogs]) -> None:
    kept, heldout = parts
    trained, unseen = ({m.english.casefold() for messages in part.values() for m in messages} for part in parts)
    assert trained & unseen <= {""}
    assert len(unseen) / len(trained | unseen) == pytest.approx(HOLDOUT, abs=0.005)
    for language, messages in heldout.items():
        assert not {m.text.casefold() for m in messages} & {m.text.casefold() for m in kept[language]}
    few = {language: kept[language][:50] for language in ("fao_Latn", "swh_Latn")}
    assert split(few, 0.0) == (few, {})


def test_pairs(parts: tuple[Catalogs, Catalogs]) -> None:
    _, heldout = parts
    assert pairs(heldout[ENGLISH]) == []
    counts = {language: pairs(messages) for language, messages in heldout.items()}
    assert sum(len(found) >= 10 for found in counts.values()) > 200
    for found in counts.values():
        assert len({pair.text.casefold() for pair in found}) == len(found)
        assert len({pair.english.casefold() for pair in found}) == len(found)
        assert all(len(pair.text) >= 3 and len(pair.english) >= 3 for pair in found)
    by_id = {pair.id: pair.english for found in counts.values() for pair in found}
    assert all(by_id[pair.id] == pair.english for found in counts.values() for pair in found)
    messages = [Message("p/c/1", "No", "no"), Message("p/c/2", "yes", "ja"), Message("p/c/3", "", "Ostrava")]
    assert pairs(messages) == []


def test_documents_have_a_sensible_length(catalogs: Catalogs) -> None:
    messages = catalogs["swh_Latn"]
    found = list(documents("s", "swh_Latn", messages))
    assert sum(400 <= len(document.text) <= 1300 for document in found) > 0.95 * len(found)
    assert [line for d in found for line in d.text.split("\n")] == [
        m.text for package in ("django", "babel", "pycountry") for m in messages if m.key.startswith(package)
    ]
    assert len({document.id for document in found}) == len(found)
    short = [Message("babel/a/1", "a", "eins"), Message("babel/a/2", "b", "zwei")]
    assert [d.text for d in documents("s", "deu_Latn", short)] == ["eins\nzwei"]


def test_packages_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(package_versions(("django",))) == {"django"}
    with pytest.raises(ConfigError, match="no catalogs are known in the package gettext: choose from django"):
        load_catalogs(("gettext",))
    monkeypatch.setitem(sys.modules, "pycountry", None)
    importlib.import_module("packaging.requirements")  # is imported late, and could then not be found
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtra, match=r"pycountry is not installed: pip install 'mmbert\[catalogs\]'"):
        load_catalogs(("pycountry",))


class TestGettext:
    @staticmethod
    def mo(messages: dict[str, str], order: str) -> bytes:
        keys, values = ([text.encode() for text in texts] for texts in (messages, messages.values()))
        start = 28 + 16 * len(messages)
        tables = []
        body = b""
        for texts in (keys, values):
            for text in texts:
                tables += [len(text), start + len(body)]
                body += text + b"\0"
        head = struct.pack(order + "7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
        return head + struct.pack(f"{order}{len(tables)}I", *tables) + body

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_context_plural_and_header(self, tmp_path: Path, order: str) -> None:
        messages = {
            "": "Content-Type: text/plain; charset=UTF-8\n",
            "month\x04May": "mai",
            "%d day\0%d days": "%d dagur\0%d dagar",
            "none": "",
            "<a href='x'>All &amp; %(n)s</a>": "Allir &amp; %(n)s",
        }
        path = tmp_path / "x.mo"
        path.write_bytes(self.mo(messages, order))
        assert list(read_messages(path)) == [("May", "mai"), ("… days", "… dagar"), ("All & …", "Allir & …")]

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mo"
        whole = self.mo({"a": "b"}, "<")
        for data in (b"", b"text", whole[:30], whole[:-2].replace(b"b", b"\xff")):
            path.write_bytes(data)
            with pytest.raises(DataError, match=r"x\.mo is not a gettext catalog"):
                list(read_messages(path))

    def test_placeholders(self) -> None:
        assert plain("%(count)d of {name}, %s\n 100%% <b>%(x).1f</b> &quot;") == '… of …, … 100% … "'
        assert plain("50 % of it is less < than {") == "50 % of it is less < than {"

    def test_files_in_order(self, tmp_path: Path) -> None:
        for name in ("contrib/admin/locale/sw/LC_MESSAGES/django.mo", "locales/fo/LC_MESSAGES/iso.mo", "x/other.mo"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(b"")
        found = [(locale, name) for locale, name, _ in catalog_files(tmp_path)]
        assert found == [("fo", "iso"), ("sw", "contrib/admin/django")]
