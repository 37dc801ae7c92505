from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmbert import languages
from mmbert.data.sources.read import read
from mmbert.errors import ConfigError
from mmbert.recipe import Source


@pytest.mark.parametrize(
    ("code", "canonical"),
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
        # as BCP 47 registers them, with extended languages, extensions and private parts
        ("zh-yue", "yue"), ("zh-min-nan", "nan"), ("zh_min_nan", "nan"), ("zh-yue-Hant", "yue_Hant"), ("ar-arz", "arz"),
        ("zh-cmn-Hans-CN", "cmn_Hans"), ("zh-hakka", "hak"), ("i-klingon", "tlh"), ("no-nyn", "nno"),
        ("art-lojban", "jbo"), ("sgn-ase", "ase"), ("sgn-US", "ase"), ("ms-zsm", "zsm"), ("de-x-dialect", "deu"),
        ("ar-EG-u-nu-latn", "arb"),
        # as editions of Wikipedia are named
        ("be-x-old", "bel"), ("roa-rup", "rup"), ("bat-smg", "sgs"), ("fiu-vro", "vro"), ("zh-classical", "lzh"),
        ("map-bms", "jav"), ("cbk-zam", "cbk"), ("nds-nl", "nds"), ("simple", "eng"), ("roa-tara", "nap"),
        ("mo", "ron"), ("als", "als"), ("sr-el", "srp_Latn"), ("sr-ec", "srp_Cyrl"),
    ],
)  # fmt: skip
def test_normalise(code: str, canonical: str) -> None:
    assert languages.normalise(code) == canonical
    assert languages.normalise(canonical) == canonical


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
        ("zh-foo", r"did you mean cmn \(Mandarin Chinese\)\? The rest names neither a script nor a country"),
        ("roa-foo", r"did you mean roa \(Romance languages\)"),
        ("cz", r"did you mean ces \(Czech\)\? CZ is a country"),
        ("dk", r"did you mean dan \(Danish\)"),
        ("i-foo", "unknown language code 'i-foo'; write ISO 639-3"),
        ("x-foo", "unknown language code 'x-foo'; write ISO 639-3"),
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
    # Codes that the canonical form makes specific stay so: ``ara`` means Standard Arabic, as in FineWeb2.
    assert languages.matches("arb_Arab", ["ara"])
    assert not languages.matches("arz_Arab", ["ara"])


def test_import_is_cheap() -> None:
    program = "import sys, mmbert.languages; sys.exit('langcodes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_codes_that_mean_another_language_on_wikipedia(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert languages.other_meaning("als") == "gsw"
    assert languages.other_meaning("gsw") is None
    (tmp_path / "als.jsonl").write_text('{"text": "Tungjatjeta"}')
    (document,) = read("s", Source(kind="jsonl", path=str(tmp_path)))
    assert document.language == "als"
    assert (
        "als is read as Tosk Albanian (ISO 639-3); for Wikipedia's als, which is Swiss German, write gsw" in caplog.text
    )


def test_wikipedias_names_are_names_of_files(tmp_path: Path) -> None:
    for name in ("zh-min-nan", "be_x_old", "fiu-vro"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}')
    assert [d.language for d in read("s", Source(kind="jsonl", path=str(tmp_path)))] == ["bel", "nan", "vro"]
