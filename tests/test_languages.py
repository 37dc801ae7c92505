from __future__ import annotations

import subprocess
import sys

import pytest

from mmbert import languages
from mmbert.errors import ConfigError


@pytest.mark.parametrize(
    ("code", "house"),
    [
        ("fra_Latn", "fra_Latn"), ("fra", "fra"), ("fr", "fra"), ("fre", "fra"), ("Fra-latn", "fra_Latn"),
        ("pt-BR", "por"), ("pt_BR.UTF-8", "por"), ("es_419", "spa"), ("ca@valencia", "cat"), ("be-tarask", "bel"),
        ("zh-Hans", "cmn_Hans"), ("zh_TW", "cmn_Hant"), ("zh_CN", "cmn_Hans"), ("zh", "cmn"), ("cmn_Hani", "cmn_Hani"),
        ("sr@latin", "srp_Latn"), ("sr_ME", "srp_Latn"), ("sh", "srp_Latn"), ("pa-PK", "pan_Arab"),
        ("et", "ekk"), ("est", "ekk"), ("no", "nob"), ("nb", "nob"), ("ar", "arb"), ("fa", "fas"), ("iw", "heb"),
        ("tgl_Latn", "tgl_Latn"), ("prs_Arab", "prs_Arab"), ("que_Latn", "que_Latn"), ("sme", "sme"),
        ("san_Gran", "san_Gran"),
        ("code", "code"), ("eml", "eml"), ("tok", "tok"), ("kzj", "kzj"), ("daf", "daf"), ("hmo", "hmo"),
        ("und_Kits", "und_Kits"),
    ],
)  # fmt: skip
def test_normalise(code: str, house: str) -> None:
    assert languages.normalise(code) == house
    assert languages.normalise(house) == house


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("frx", "unknown language code 'frx': did you mean f"),
        ("french", r"did you mean fra \(French\)"),
        ("fra_Ltn", r"unknown language code 'fra_Ltn': did you mean fra"),
        ("fra_Latm", "unknown script 'Latm' in language code 'fra_Latm': did you mean Lat"),
        ("xxx", "unknown language code 'xxx'"),
        ("", "unknown language code ''; write ISO 639-3"),
        ("C", "unknown language code 'C'"),
        ("12", "unknown language code '12'"),
        ("fra Latn", "unknown language code"),
    ],
)
def test_unknown_codes_name_the_nearest(code: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        languages.normalise(code)


@pytest.mark.parametrize(
    ("code", "english"),
    [
        ("fra_Latn", "French"), ("swh", "Swahili"), ("tgl_Latn", "Tagalog"), ("prs_Arab", "Dari"),
        ("cnr_Latn", "Montenegrin"),
        ("srp_Cyrl", "Serbian"), ("srp_Latn", "Serbian (Latin)"), ("cmn_Hani", "Mandarin Chinese"),
        ("kor_Hang", "Korean"),
        ("evn_Cyrl", "Evenki"), ("eml", "Emiliano-Romagnolo"), ("code", "Program code"), ("qaa", "qaa"),
    ],
)  # fmt: skip
def test_names(code: str, english: str) -> None:
    assert languages.name(code) == english


@pytest.mark.parametrize(
    ("code", "writing"),
    [
        ("rus", "Cyrl"),
        ("srp_Latn", "Latn"),
        ("cmn", "Hani"),
        ("ko", "Hang"),
        ("ja", "Jpan"),
        ("am", "Ethi"),
        ("code", "Zyyy"),
    ],
)
def test_scripts(code: str, writing: str) -> None:
    assert languages.script(code) == writing


def test_matches() -> None:
    assert languages.matches("fra_Latn", ["fra"])
    assert languages.matches("fra_Latn", {"deu", "fr"})
    assert languages.matches("fra_Latn", ["fra_Latn"])
    assert not languages.matches("fra_Latn", ["fra_Arab"])
    assert not languages.matches("fra", ["fra_Latn"])
    assert not languages.matches("fra_Latn", [])
    assert languages.matches("cmn_Hant", ["cmn_Hani"])
    assert not languages.matches("cmn_Hani", ["cmn_Hant"])
    assert languages.matches("code", ["code"])


def test_a_macrolanguage_admits_its_languages() -> None:
    assert languages.macrolanguage("pes_Arab") == languages.macrolanguage("prs") == "fas"
    assert languages.macrolanguage("quz") == "que"  # named by two letters in langcodes
    assert languages.macrolanguage("fas") is None
    assert languages.matches("pes_Arab", ["fas"])
    assert languages.matches("pes_Arab", ["fa_Arab"])
    assert languages.matches("quy_Latn", ["que"])
    assert not languages.matches("pes_Arab", ["fas_Cyrl"])
    assert not languages.matches("fas_Arab", ["pes_Arab"])
    # Codes that the house form makes specific stay so: ``ara`` means Standard Arabic, as in FineWeb2.
    assert languages.matches("arb_Arab", ["ara"])
    assert not languages.matches("arz_Arab", ["ara"])


def test_import_is_cheap() -> None:
    program = "import sys, mmbert.languages; sys.exit('langcodes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
