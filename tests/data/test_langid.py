"""Language identification: a fastText model, trained here on Django's translations, refuses other languages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import little_corpus
import pytest

from mmbert.data import langid
from mmbert.data.distributed.launch import prepare_at_scale
from mmbert.data.document import Document
from mmbert.data.langid import LanguageIdentifier, model_file, wrong_language
from mmbert.data.prepare import iterate_text, prepare_text
from mmbert.data.sources import catalogs
from mmbert.data.store import Report
from mmbert.errors import DataError, MissingExtra
from mmbert.recipe import Cleaning, LanguageId, Recipe

CODES = ("deu_Latn", "eng_Latn", "fas_Arab", "fin_Latn", "fra_Latn", "rus_Cyrl", "srp_Cyrl", "srp_Latn")
LABELS = {"fas_Arab": "pes_Arab", "rus_Cyrl": "ru"}
"""What the model calls some of them: another member of a macrolanguage, and a code of two letters."""

TRAINING = {"dim": 16, "minn": 2, "maxn": 4, "bucket": 20_000, "epoch": 25, "lr": 1.0, "thread": 1, "verbose": 0}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Language -> runs of eight messages, a fifth of which the model does not see."""
    found = catalogs.load_catalogs(["django"])
    lines = {code: [message.text.replace("\n", " ") for message in found[code]] for code in CODES}
    return {code: ["\n".join(of[i : i + 8]) for i in range(0, len(of) - 8, 8)] for code, of in lines.items()}


@pytest.fixture(scope="module")
def model(texts: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("fasttext")
    folder = tmp_path_factory.mktemp("model")
    with (folder / "train.txt").open("w", encoding="utf-8") as file:
        for code, runs in texts.items():
            for number, run in enumerate(runs):
                if number % 5:
                    lines = (run.replace("\n", " "), *run.split("\n"))
                    file.writelines(f"__label__{LABELS.get(code, code)} {line}\n" for line in lines)
        file.write("__label__zxx 1 2 3\n")
    for name, labels in (("model", {}), ("moods", {"deu_Latn": "positive", "fin_Latn": "negative"})):
        lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        for code, label in labels.items():
            lines = [line.replace(code, label) for line in lines]
        chosen = [line for line in lines if not labels or line.split()[0].removeprefix("__label__") in labels.values()]
        (folder / "chosen.txt").write_text("".join(chosen), encoding="utf-8")
        # Each in a process of its own: a second training in one process now and then meets NaN, in fastText itself.
        program = f"import fasttext; fasttext.train_supervised('chosen.txt', **{TRAINING}).save_model('{name}.bin')"
        subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, capture_output=True)
    return str(folder / "model.bin")


@pytest.fixture(scope="module")
def identifier(model: str) -> LanguageIdentifier:
    return LanguageIdentifier(LanguageId(model=model))


def unseen(texts: dict[str, list[str]], code: str) -> list[str]:
    return texts[code][::5]


def claim(text: str, language: str) -> Document:
    return Document(text, "x", language, "s")


class TestModel:
    def test_it_knows_text_that_it_has_not_seen(
        self, identifier: LanguageIdentifier, texts: dict[str, list[str]]
    ) -> None:
        for code in CODES:
            kept = [not identifier.refuses(claim(text, code)) for text in unseen(texts, code)]
            assert sum(kept) >= 0.95 * len(kept), code
            others = [other for other in CODES if other[:3] != code[:3]]
            refused = [identifier.refuses(claim(text, other)) for text in unseen(texts, code) for other in others]
            assert sum(refused) >= 0.9 * len(refused), code

    def test_what_agrees(self, identifier: LanguageIdentifier, texts: dict[str, list[str]]) -> None:
        persian, latin = unseen(texts, "fas_Arab")[0], unseen(texts, "srp_Latn")[0]
        assert identifier._labels[identifier._predict(persian)[0]] == "pes_Arab"
        for claimed in ("fas", "fas_Arab", "fa", "pes_Arab", "pes"):
            assert not identifier.refuses(claim(persian, claimed))
        assert identifier.refuses(claim(latin, "srp_Cyrl")), "another script is another language"
        assert not identifier.refuses(claim(latin, "srp"))
        assert not identifier.refuses(claim(latin, "fao_Latn")), "a language that the model does not know"

    def test_an_unsure_model_refuses_nothing(self, model: str) -> None:
        text = "OK 12"
        unsure = LanguageIdentifier(LanguageId(model=model))
        label, score = unsure._predict(text)
        assert score < 0.99
        document = claim(text, next(code for code in CODES if code != unsure._labels[label]))
        assert LanguageIdentifier(LanguageId(model=model, min_score=score - 1e-6)).refuses(document)
        assert not LanguageIdentifier(LanguageId(model=model, min_score=score + 1e-6)).refuses(document)

    def test_without_a_model_the_claim_is_believed(self, texts: dict[str, list[str]]) -> None:
        assert wrong_language(claim(texts["deu_Latn"][0], "fra_Latn"), Cleaning()) is None


class TestPreparing:
    def recipe(self, folder: Path, model: str, texts: dict[str, list[str]]) -> Recipe:
        """A corpus in which a tenth of the German file is Russian and Finnish."""
        mixed = [*unseen(texts, "deu_Latn"), *unseen(texts, "rus_Cyrl")[:2], *unseen(texts, "fin_Latn")[:2]]
        for code, runs in (("deu_Latn", mixed), ("fra_Latn", unseen(texts, "fra_Latn"))):
            rows = [{"id": f"{code}/{i}", "text": text} for i, text in enumerate(runs)]
            little_corpus.write_jsonl(folder / f"{code}.jsonl.gz", rows)
        source = {"kind": "jsonl", "path": str(folder)}
        return little_corpus.recipe_for({"web": source}, language_id={"model": model}, holdout=0.0)

    def test_dropped_with_a_reason_on_both_ways(self, model: str, texts: dict[str, list[str]], tmp_path: Path) -> None:
        recipe = self.recipe(tmp_path / "raw", model, texts)
        prepare_text(recipe, tmp_path / "plain")
        report = Report.load(tmp_path / "plain")
        dropped = report.sources["web"].languages["deu_Latn"].dropped["language"]
        assert 4 <= dropped <= 4 + 0.05 * len(unseen(texts, "deu_Latn"))
        foreign_texts = {*unseen(texts, "rus_Cyrl"), *unseen(texts, "fin_Latn")}
        assert not foreign_texts & {text for _, _, text in iterate_text(tmp_path / "plain")}
        prepare_at_scale(recipe, tmp_path / "scaled", tasks=2)
        assert Report.load(tmp_path / "scaled") == report

    def test_another_model_prepares_again_and_a_moved_one_does_not(
        self, model: str, texts: dict[str, list[str]], tmp_path: Path
    ) -> None:
        prepare_text(self.recipe(tmp_path / "raw", model, texts), tmp_path / "out")
        first = Report.load(tmp_path / "out").sources["web"].fingerprint
        moved = tmp_path / "moved.bin"
        moved.write_bytes(Path(model).read_bytes())
        recipe = little_corpus.recipe_for({"web": {"kind": "jsonl", "path": str(tmp_path / "raw")}}, holdout=0.0)
        moved_recipe = recipe.model_copy(
            update={"cleaning": recipe.cleaning.model_copy(update={"language_id": LanguageId(model=str(moved))})}
        )
        prepare_text(moved_recipe, tmp_path / "out")
        assert Report.load(tmp_path / "out").sources["web"].fingerprint == first
        prepare_text(recipe, tmp_path / "out")
        assert Report.load(tmp_path / "out").sources["web"].fingerprint != first
        assert "language" not in Report.load(tmp_path / "out").sources["web"].languages["deu_Latn"].dropped


class TestFaults:
    def test_no_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            DataError, match=r"no language model at \./none\.bin: expected a file, or a name on the hub"
        ):
            model_file("./none.bin")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            DataError, match=r"no file cis-lmu/glotlid-none here, and the hub did not give the language model: "
        ):
            model_file("cis-lmu/glotlid-none")
        (tmp_path / "bad.bin").write_bytes(b"no model")
        with pytest.raises(DataError, match=r"bad\.bin is no model in fastText's form \(.*\): fetch it again"):
            LanguageIdentifier(LanguageId(model=str(tmp_path / "bad.bin")))

    def test_labels_that_are_no_languages(self, model: str) -> None:
        with pytest.raises(DataError, match=r"name no languages \(__label__(posi|nega)tive"):
            LanguageIdentifier(LanguageId(model=model.replace("model.bin", "moods.bin")))

    def test_without_the_package_the_extra_is_named(self, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "fasttext", None)
        told = r"fasttext-numpy2-wheel is not installed: pip install 'mmbert\[langid\]'"
        with pytest.raises(MissingExtra, match=told):
            langid._load(Path(model))
