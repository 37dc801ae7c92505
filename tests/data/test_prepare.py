"""Preparing: what is kept, held out and dropped; stopped anywhere and run again, it gives the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import little_corpus
import numpy as np
import pytest
import typer.testing

from mmbert.cli.data import app
from mmbert.data import prepare_tasks as tasks
from mmbert.data.manifest import Manifest
from mmbert.data.prepare import (
    heldout_texts,
    iterate_text,
    prepare_data,
    prepare_text,
    prepare_tokenizer,
)
from mmbert.data.shard import Shard
from mmbert.data.sources.read import read
from mmbert.data.store import SUFFIX, Report, TextWriter, text_sizes
from mmbert.data.tokenize import prepare_shards
from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.recipe import Recipe
from mmbert.recipe_text import Source
from mmbert.tokenizer.tokenizer import Tokenizer

KEEP_ALL = {"holdout": 0.0, "max_repetition": 1.0}


def corpus_recipe(folder: Path, **cleaning: object) -> Recipe:
    return little_corpus.recipe_for({"udhr": {"kind": "jsonl", "path": str(folder)}}, **cleaning)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fault(recipe: Recipe, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepare_text(recipe, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_corpus.write_corpus(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Tokenizer]:
    folder = tmp_path_factory.mktemp("prepared")
    return folder, *prepare_data(corpus_recipe(raw, holdout=0.2), folder)


class TestText:
    def test_everything_is_kept_held_out_or_dropped_with_a_reason(self, tmp_path: Path) -> None:
        english = little_corpus.documents("eng_Latn", 40)
        copies = [
            {"id": f"copy/{i}", "text": "  " + row["text"].replace("\n", " \n ")} for i, row in enumerate(english)
        ]
        bad = [{"id": "1", "text": "short"}, {"id": "2", "text": "*" * 40}, {"id": "3", "text": "\ud800" + "a" * 40}]
        raw = tmp_path / "raw"
        little_corpus.write_jsonl(raw / "eng_Latn.jsonl", english)
        (raw / "deu_Latn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*bad, *copies[:5]]))
        little_corpus.write_jsonl(raw / "fao_Latn.jsonl", little_corpus.documents("fao_Latn", 40))
        prepare_text(corpus_recipe(raw, holdout=0.25, holdout_characters=500), tmp_path)
        report = Report.load(tmp_path).sources["udhr"]
        english_counts, german = report.languages["eng_Latn"], report.languages["deu_Latn"]
        # German comes first in the order of languages, so that the copies are kept there and the originals dropped.
        assert german.dropped == {"invalid unicode": 1, "mostly symbols": 1, "too short": 1}
        assert english_counts.dropped["exact copy"] >= 3
        beyond = english_counts.dropped["held out beyond the limit"]
        assert beyond > 0
        told = english_counts.documents + english_counts.heldout_documents + sum(english_counts.dropped.values())
        assert told == 40
        assert 0 < english_counts.heldout_characters <= 500
        texts = {(language, text) for _, language, text in iterate_text(tmp_path)}
        held = {(language, text) for language, texts in heldout_texts(tmp_path).items() for text in texts}
        assert not {" ".join(text.split()) for _, text in texts} & {" ".join(text.split()) for _, text in held}
        assert len(texts) == sum(counts.documents for counts in report.languages.values())
        assert text_sizes(tmp_path)["udhr", "eng_Latn"] == english_counts.characters
        assert english_counts.characters == sum(len(text) for language, text in texts if language == "eng_Latn")
        assert english_counts.bytes == sum(len(text.encode()) for language, text in texts if language == "eng_Latn")

    def test_the_hold_out_follows_the_id_alone(self, tmp_path: Path) -> None:
        rows = little_corpus.documents("fao_Latn", 60)
        held = []
        for number, kept in enumerate((rows, rows[::-1][:30])):
            raw = tmp_path / f"raw{number}"
            little_corpus.write_jsonl(raw / "fao_Latn.jsonl", kept)
            prepare_text(corpus_recipe(raw, holdout=0.3), tmp_path / f"{number}")
            held.append(set(heldout_texts(tmp_path / f"{number}")["fao_Latn"]))
        assert held[1] == held[0] & {row["text"] for row in rows[30:]}
        assert 10 <= len(held[0]) <= 26

    def test_given_heldout_text_is_never_trained_on(self, tmp_path: Path) -> None:
        rows = little_corpus.documents("fao_Latn", 20)
        little_corpus.write_jsonl(tmp_path / "raw/fao_Latn.jsonl", rows)
        little_corpus.write_jsonl(tmp_path / "aside/fra_Latn.jsonl", rows[:3])
        sources = {"s": {"kind": "jsonl", "path": str(tmp_path / "raw"), "heldout": str(tmp_path / "aside")}}
        for number, deduplicate in enumerate((True, False)):
            out = tmp_path / str(number)
            prepare_text(little_corpus.recipe_for(sources, holdout=0.5, deduplicate=deduplicate), out)
            assert heldout_texts(out) == {"fra_Latn": [row["text"] for row in rows[:3]]}
            assert [text for _, _, text in iterate_text(out)] == [row["text"] for row in rows[3:]]
            counts = Report.load(out).sources["s"].languages["fao_Latn"]
            assert counts.dropped == {"exact copy" if deduplicate else "copy of held-out text": 3}

    def test_languages_mixed_in_one_file(self, tmp_path: Path) -> None:
        rows = [
            {**row, "lang": language}
            for group in zip(*(little_corpus.documents(code, 9) for code in little_corpus.SENTENCES), strict=True)
            for language, row in zip(little_corpus.SENTENCES, group, strict=True)
        ]
        path = little_corpus.write_jsonl(tmp_path / "all.jsonl", rows)
        source = {"kind": "jsonl", "path": str(path), "language_field": "lang"}
        prepare_text(little_corpus.recipe_for({"mixed": source}, **KEEP_ALL), tmp_path / "a")
        prepare_text(corpus_recipe(little_corpus.write_corpus(tmp_path / "raw", 9), **KEEP_ALL), tmp_path / "b")
        one, other = ([item[1:] for item in iterate_text(tmp_path / name)] for name in "ab")
        assert one == other
        assert len(one) == 45

    def test_many_languages_need_few_descriptors_and_large_ones_little_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mmbert.data.store._BUFFER", 100)
        raw = little_corpus.write_corpus(tmp_path / "raw", 9)
        prepare_text(corpus_recipe(raw, **KEEP_ALL), tmp_path / "out")
        expected = [
            row["text"] for language in sorted(little_corpus.SENTENCES) for row in little_corpus.documents(language, 9)
        ]
        assert [text for _, _, text in iterate_text(tmp_path / "out")] == expected
        assert not list(tmp_path.rglob("*.partial"))


class TestFaults:
    def test_no_sources(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="recipe little has no sources"):
            prepare_text(little_corpus.recipe_for({}), tmp_path)
        with pytest.raises(ConfigError, match="only one source can be of kind catalogs"):
            prepare_text(little_corpus.recipe_for({"a": {"kind": "catalogs"}, "b": {"kind": "catalogs"}}), tmp_path)

    def test_empty_corpus_tells_why(self, tmp_path: Path) -> None:
        path = little_corpus.write_jsonl(tmp_path / "raw/fao_Latn.jsonl", [])
        recipe = corpus_recipe(tmp_path / "raw")
        assert fault(recipe, tmp_path / "out") == f"sources.udhr ({tmp_path}/raw) holds no document"
        little_corpus.write_jsonl(path, [{"text": "short"}, {"text": "tiny"}, {"text": "?" * 30}])
        told = "is left to train on: 2 too short, 1 mostly symbols; fix the text or loosen `cleaning`"
        assert fault(recipe, tmp_path / "out").endswith(told)
        assert fault(recipe, tmp_path / "out").endswith(told)

    def test_what_reading_finds_is_passed_on_and_can_be_mended(self, tmp_path: Path) -> None:
        raw = little_corpus.write_corpus(tmp_path / "raw", 9)
        path = raw / "fra_Latn.jsonl.gz"
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        assert fault(corpus_recipe(raw), tmp_path / "out") == f"{path} is cut short: copy or download it again"
        path.write_bytes(whole)
        prepare_text(corpus_recipe(raw), tmp_path / "out")
        prepare_text(corpus_recipe(raw), tmp_path / "fresh")
        assert content(tmp_path / "out") == content(tmp_path / "fresh")

    def test_nothing_is_prepared(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such file: .*report\.json: run `mmbert data prepare` first"):
            list(iterate_text(tmp_path))


class TestAgain:
    def test_a_second_run_changes_nothing(
        self, raw: Path, prepared: tuple[Path, Manifest, Tokenizer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, manifest, tokenizer = prepared
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        monkeypatch.setattr(tasks, "read_inputs", None)
        again, same = prepare_data(corpus_recipe(raw, holdout=0.2), folder)
        assert again == manifest
        assert same.fingerprint == tokenizer.fingerprint
        assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    def test_changed_rules_or_files_prepare_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        raw = little_corpus.write_corpus(tmp_path / "raw", 9)
        prepare_text(corpus_recipe(raw, **KEEP_ALL), tmp_path / "out")
        with caplog.at_level("INFO", logger="mmbert"):
            prepare_text(corpus_recipe(raw, min_characters=150, **KEEP_ALL), tmp_path / "out")
        assert (
            "sources.udhr: its files, its options or the cleaning rules have changed: preparing it again" in caplog.text
        )
        assert min(len(text) for _, _, text in iterate_text(tmp_path / "out")) >= 150
        (raw / "fra_Latn.jsonl.gz").unlink()
        prepare_text(corpus_recipe(raw, **KEEP_ALL), tmp_path / "out")
        assert ("udhr", "fra_Latn") not in text_sizes(tmp_path / "out")
        assert not (tmp_path / "out/text/udhr/fra_Latn.jsonl.zst").exists()
        prepare_text(corpus_recipe(raw, **KEEP_ALL), tmp_path / "fresh")
        assert content(tmp_path / "out") == content(tmp_path / "fresh")

    def test_text_that_is_gone_is_not_missed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        raw = little_corpus.write_corpus(tmp_path / "raw", 9)
        prepare_text(corpus_recipe(raw), tmp_path / "out")
        before = content(tmp_path / "out")
        shutil.rmtree(raw)
        prepare_text(corpus_recipe(raw), tmp_path / "out")
        assert content(tmp_path / "out") == before
        assert "going on with what was prepared" in caplog.text
        assert "no such file or folder" in fault(corpus_recipe(raw, min_characters=17), tmp_path / "out")

    def test_killed_at_many_moments(
        self, raw: Path, prepared: tuple[Path, Manifest, Tokenizer], tmp_path: Path
    ) -> None:
        """Each process is killed at a rename, the only moments at which what others see changes; then one is not."""
        script = tmp_path / "prepare.py"
        script.write_text(
            "import os, pathlib, signal, sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "import little_corpus\n"
            "from mmbert.data import prepare, prepare_tasks as tasks\n"
            "tasks._TASK = 1  # a task for every language\n"
            "left = int(sys.argv[3])\n"
            "replace = pathlib.Path.replace\n"
            "def counting(self, target):\n"
            "    global left\n"
            "    left -= 1\n"
            "    if left == 0:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return replace(self, target)\n"
            "pathlib.Path.replace = counting\n"
            "source = {'kind': 'jsonl', 'path': sys.argv[1]}\n"
            "recipe = little_corpus.recipe_for({'udhr': source}, holdout=0.2)\n"
            "folder = pathlib.Path(sys.argv[2])\n"
            "prepare.prepare_text(recipe, folder)\n"
            "tokenizer = prepare.prepare_tokenizer(recipe, folder)\n"
            "prepare.prepare_shards(recipe, folder, tokenizer, max_tokens=700)\n"
        )

        def run(folder: Path, moment: int) -> int:
            command = [sys.executable, str(script), str(raw), str(folder), str(moment)]
            return subprocess.run(command, capture_output=True, timeout=120).returncode

        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        assert run(whole, 0) == 0
        moments = (2, 5, 9, 14, 13, 17)
        assert [run(stopped, moment) for moment in moments] == [-signal.SIGKILL] * len(moments)
        assert run(stopped, 0) == 0
        assert content(stopped) == content(whole)
        # In one task or in many: the text is the same.
        report = Report.load(whole).sources["udhr"].languages
        assert report == Report.load(prepared[0]).sources["udhr"].languages


class TestShards:
    def test_they_hold_the_text(self, prepared: tuple[Path, Manifest, Tokenizer]) -> None:
        folder, manifest, tokenizer = prepared
        assert manifest == Manifest.load(folder / "shards", verify=True)
        assert manifest.tokenizer == tokenizer.fingerprint == Tokenizer.load(folder / "tokenizer").fingerprint
        assert [stream.language for stream in manifest.streams] == sorted(little_corpus.SENTENCES)
        texts: dict[str, list[str]] = {}
        for _, language, text in iterate_text(folder):
            texts.setdefault(language, []).append(text)
        for stream in manifest.streams:
            shard = Shard.open(folder / "shards" / stream.shards[0].file)
            found = [tokenizer.decode(ids) for ids in np.split(shard.tokens, shard.ends[:-1])]
            assert found == texts[stream.language]
            assert stream.documents == len(found)
            assert stream.tokens == len(shard.tokens)
            assert stream.characters == sum(map(len, found))
            assert stream.bytes == sum(len(text.encode()) for text in found)

    def test_a_damaged_shard_is_deleted_and_written_again(
        self, raw: Path, prepared: tuple[Path, Manifest, Tokenizer], tmp_path: Path
    ) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(prepared[0], folder)
        recipe = corpus_recipe(raw, holdout=0.2)
        path = folder / "shards/udhr/fra_Latn/00000.tokens"
        whole = path.read_bytes()
        path.write_bytes(whole[:-2])
        with pytest.raises(DataError, match=f"^{re.escape(str(path))} has .*: delete it and run `mmbert data prepare`"):
            prepare_data(recipe, folder)
        path.unlink()
        prepare_data(recipe, folder)
        assert path.read_bytes() == whole
        assert content(folder) == content(prepared[0])

    def test_shards_of_another_tokenizer_are_refused_by_name(
        self, prepared: tuple[Path, Manifest, Tokenizer], raw: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(prepared[0], folder)
        recipe = corpus_recipe(raw, holdout=0.2).model_copy(update={"tokenizer": str(tmp_path / "other")})
        small = corpus_recipe(raw, holdout=0.2)
        small = small.model_copy(update={"tokenizer": small.tokenizer.model_copy(update={"vocab_size": 520})})  # type: ignore[union-attr]
        shutil.copytree(prepared[0], tmp_path / "without", ignore=shutil.ignore_patterns("shards"))
        other = prepare_tokenizer(small, tmp_path / "without")
        other.save(tmp_path / "other")
        told = f"were made with tokenizer {prepared[2].fingerprint}, this run's is {other.fingerprint}"
        with pytest.raises(TokenizerError, match=told):
            prepare_data(recipe, folder)
        assert Tokenizer.load(folder / "tokenizer").fingerprint == prepared[2].fingerprint  # theirs is not replaced
        (folder / "shards/manifest.json").unlink()
        with pytest.raises(TokenizerError, match=r"eng_Latn/00000\.tokens was made with tokenizer|fao_Latn/00000"):
            prepare_shards(recipe, folder, other)

    def test_changed_text_is_tokenised_again(self, tmp_path: Path) -> None:
        raw = little_corpus.write_corpus(tmp_path / "raw", 9)
        recipe = corpus_recipe(raw, **KEEP_ALL)
        _, tokenizer = prepare_data(recipe, tmp_path / "out")
        less = corpus_recipe(raw, min_characters=150, **KEEP_ALL)
        prepare_text(less, tmp_path / "out")
        manifest = prepare_shards(less, tmp_path / "out", tokenizer)
        assert {s.language: s.characters for s in manifest.streams} == {
            language: size for (_, language), size in text_sizes(tmp_path / "out").items()
        }
        assert Manifest.load(tmp_path / "out/shards", verify=True) == manifest


class TestCatalogs:
    def test_text_held_out_messages_and_pairs(self, tmp_path: Path) -> None:
        source = {"kind": "catalogs", "packages": ["django"]}
        prepare_text(little_corpus.recipe_for({"messages": source}, holdout=0.1), tmp_path)
        before = content(tmp_path)
        languages = {language for _, language in text_sizes(tmp_path)}
        assert len(languages) > 80
        held = heldout_texts(tmp_path)
        pairs = {
            path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in (tmp_path / "parallel").glob("*.jsonl")
        }
        assert len(pairs) > 70
        english = set("\n".join(held["eng_Latn"]).casefold().split("\n"))
        for language, found in pairs.items():
            # Older releases have so few messages of some languages that none is held out.
            lines = set("\n".join(held.get(language, [])).split("\n"))
            assert language not in held or {pair["text"] for pair in found} <= lines
            assert {pair["english"].casefold() for pair in found} <= english
            assert all(set(pair) == {"id", "text", "english"} for pair in found)
        for language in ("fra_Latn", "swh_Latn", "eng_Latn"):
            trained = {
                line for _, code, text in iterate_text(tmp_path) if code == language for line in text.split("\n")
            }
            assert not trained & set("\n".join(held[language]).split("\n"))
        prepare_text(little_corpus.recipe_for({"messages": source}, holdout=0.1), tmp_path)
        assert content(tmp_path) == before


class TestCommands:
    def test_prepare_and_show(self, raw: Path, tmp_path: Path) -> None:
        recipe = corpus_recipe(raw, holdout=0.2)
        recipe.save(tmp_path / "recipe.yaml")
        runner = typer.testing.CliRunner()
        out = str(tmp_path / "data")
        result = runner.invoke(
            app, ["prepare", str(tmp_path / "recipe.yaml"), "cleaning.min_characters=150", "--out", out]
        )
        assert result.exit_code == 0, result.output
        assert "tokens in 5 languages" in result.stdout
        result = runner.invoke(app, ["show", out, "--verify"])
        assert result.exit_code == 0, result.output
        head, *rows = (line.split("\t") for line in result.stdout.splitlines())
        assert head[:5] == ["source", "language", "name", "tokens", "documents"]
        shown = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
        manifest = Manifest.load(tmp_path / "data/shards")
        assert {code: int(row["tokens"]) for code, row in shown.items()} == {
            s.language: s.tokens for s in manifest.streams
        }
        assert shown["fao_Latn"]["name"] == "Faroese"
        assert shown["fao_Latn"]["dropped"].endswith(" too short")
        assert [int(row[3]) for row in rows] == sorted((int(row[3]) for row in rows), reverse=True)
        missing = runner.invoke(app, ["show", str(tmp_path)])
        assert isinstance(missing.exception, DataError)


def test_a_changed_bit_of_prepared_text_is_named(tmp_path: Path) -> None:
    writer = TextWriter(tmp_path)
    for number in range(300):
        writer.write("eng_Latn", f"{number}", f"text number {number} of {number * 7} words")
    writer.close()
    path = tmp_path / f"eng_Latn{SUFFIX}"
    whole = path.read_bytes()
    for place in range(20, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(DataError):
            list(read("web", Source(kind="jsonl", path=str(path), language="eng_Latn")))
