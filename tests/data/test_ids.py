"""Token ids that others made become shards as they are, and another tokenizer's are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import little_corpus
import mds_writer
import numpy as np
import pytest
import typer.testing

from mmbert.cli.data import app
from mmbert.data import ids as made
from mmbert.data.manifest import Manifest
from mmbert.data.prepare import prepare_data, prepare_text
from mmbert.data.shard import Shard
from mmbert.errors import ConfigError, DataError
from mmbert.recipe import Recipe
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

COLUMNS = {"id": "str", "input_ids": "ndarray:uint32"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [(code, row["text"]) for code in little_corpus.SENTENCES for row in little_corpus.documents(code, 20)]
    made = train_tokenizer(texts, little_corpus.recipe_for({}).tokenizer)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(folder)
    return Tokenizer.load(folder)


def samples(tokenizer: Tokenizer, language: str, count: int = 40) -> list[dict[str, Any]]:
    """As released: each <bos> ids, the last piece of a document with <eos>; here documents of two pieces."""
    found = []
    for row in little_corpus.documents(language, count):
        ids = tokenizer.encode(row["text"])
        half = len(ids) // 2
        pieces = (ids[:half], [tokenizer.bos_id, *ids[half:]])
        found += [{"id": row["id"], "input_ids": np.array(piece, np.uint32)} for piece in pieces]
    return found


def recipe_of(path: Path, tokenizer: Tokenizer, **options: object) -> Recipe:
    source = {"kind": "mds", "path": str(path), **options}
    recipe = little_corpus.recipe_for({"released": source})
    return recipe.model_copy(update={"tokenizer": str(Path(tokenizer.origin).parent)})


def documents(folder: Path, manifest: Manifest, language: str) -> list[list[int]]:
    (stream,) = (stream for stream in manifest.streams if stream.language == language)
    shards = [Shard.open(folder / "shards" / shard.file) for shard in stream.shards]
    return [ids.tolist() for shard in shards for ids in np.split(shard.tokens, shard.ends[:-1])]


class TestShards:
    @pytest.mark.parametrize("compression", [None, "zstd"])
    def test_ids_become_shards_without_their_specials(
        self, tokenizer: Tokenizer, tmp_path: Path, compression: str | None
    ) -> None:
        wanted = {}
        for language in ("fao_Latn", "hin_Deva"):
            rows = samples(tokenizer, language)
            place = tmp_path / f"mds/train/{language}-tokenized-chunked-8192-512-32-backfill-nodups"
            mds_writer.write_mds(place, COLUMNS, rows, per_shard=30, compression=compression)
            ends = {tokenizer.bos_id, tokenizer.eos_id}
            wanted[language] = [[index for index in row["input_ids"].tolist() if index not in ends] for row in rows]
        manifest, used = prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        assert used.fingerprint == manifest.tokenizer == tokenizer.fingerprint
        assert Manifest.load(tmp_path / "out/shards", verify=True) == manifest
        assert [stream.language for stream in manifest.streams] == ["fao_Latn", "hin_Deva"]
        for stream in manifest.streams:
            found = documents(tmp_path / "out", manifest, stream.language)
            assert found == wanted[stream.language]
            texts = [row["text"] for row in little_corpus.documents(stream.language, 40)]
            assert stream.bytes == sum(len(text.encode()) for text in texts)
            assert stream.characters == sum(map(len, texts))
        again, _ = prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        assert again == manifest

    def test_stopped_and_run_again(self, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(made, "_SHARD", 4000)
        mds_writer.write_mds(tmp_path / "mds/eng_Latn", COLUMNS, samples(tokenizer, "eng_Latn"), per_shard=9)
        whole, _ = prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "whole")
        assert len(whole.streams[0].shards) > 2
        assert [index for ids in documents(tmp_path / "whole", whole, "eng_Latn") for index in ids] == [
            int(index)
            for row in samples(tokenizer, "eng_Latn")
            for index in row["input_ids"]
            if index not in (tokenizer.bos_id, tokenizer.eos_id)
        ]
        write = made.write_shard
        written = []

        def stop_at_the_second(path: Path, *rest: Any) -> Any:
            written.append(path.name)
            if len(written) == 2:
                raise KeyboardInterrupt
            return write(path, *rest)

        monkeypatch.setattr(made, "write_shard", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        manifest, _ = prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        assert manifest == whole
        assert written.count("00000.tokens") == 1

    def test_a_mixture_of_languages_stays_one_stream(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        rows = [row for language in little_corpus.SENTENCES for row in samples(tokenizer, language, 5)]
        mds_writer.write_mds(tmp_path / "mds/fineweb2-sampled-decay-v2", COLUMNS, rows)
        recipe = recipe_of(tmp_path / "mds", tokenizer, language="mul")
        manifest, _ = prepare_data(recipe, tmp_path / "out")
        assert [(stream.language, stream.documents) for stream in manifest.streams] == [("mul", len(rows))]
        shown = typer.testing.CliRunner().invoke(app, ["show", str(tmp_path / "out")])
        assert shown.stdout.splitlines()[1].split("\t")[:3] == ["released", "mul", "Multiple languages"]

    def test_several_documents_in_a_sample(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        bos, eos, pad = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        rows = [[bos, 300, 301, eos, bos, 302, eos, pad, pad], [303], [bos, eos], []]
        samples = [{"id": "x", "input_ids": np.array(row, np.uint32)} for row in rows]
        mds_writer.write_mds(tmp_path / "mds/fao_Latn", COLUMNS, samples)
        manifest, _ = prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        assert documents(tmp_path / "out", manifest, "fao_Latn") == [[300, 301], [302], [303]]


class TestFaults:
    def told(self, tmp_path: Path, tokenizer: Tokenizer, rows: list[Any], column: str = "ndarray:uint32") -> str:
        samples = [{"id": "x", "input_ids": row} for row in rows]
        mds_writer.write_mds(tmp_path / "mds/fao_Latn", {"id": "str", "input_ids": column}, samples)
        with pytest.raises(DataError) as caught:
            prepare_data(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
        return str(caught.value)

    def test_ids_beyond_the_vocabulary(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        rows = [np.array([2, 5, 1], np.uint32), np.array([2, tokenizer.vocab_size, 1], np.uint32)]
        assert self.told(tmp_path, tokenizer, rows) == (
            f"{tmp_path}/mds/fao_Latn/shard.00000.mds, sample 1: id {tokenizer.vocab_size} is not in the vocabulary of "
            f"{tokenizer.origin} (0 to {tokenizer.vocab_size - 1}): another tokenizer made it"
        )

    def test_samples_that_begin_with_another_bos(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        rows = [np.array([300, 5, 9 + i], np.uint32) for i in range(20)]
        assert "every sample begins with 300, which is no <bos>" in self.told(tmp_path, tokenizer, rows)

    def test_no_ids(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        told = self.told(tmp_path, tokenizer, [np.ones((2, 2), np.uint32)])
        assert told.endswith("sample 0: 'input_ids' is no row of whole numbers, so no token ids")

    def test_options_that_ids_do_not_have(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path / "mds/fao_Latn", COLUMNS, samples(tokenizer, "fao_Latn", 2))
        with pytest.raises(ConfigError, match="token ids cannot be held out"):
            prepare_text(recipe_of(tmp_path / "mds", tokenizer, heldout=str(tmp_path / "mds")), tmp_path / "out")
        with pytest.raises(ConfigError, match="token ids are of one language a folder: set language instead"):
            prepare_text(recipe_of(tmp_path / "mds", tokenizer, language_field="id"), tmp_path / "out")
        with pytest.raises(DataError, match=r"neither column 'text' nor 'ids', there are 'id', 'input_ids': set"):
            prepare_text(recipe_of(tmp_path / "mds", tokenizer, ids_field="ids"), tmp_path / "out")
        mds_writer.write_mds(tmp_path / "mds/fra_Latn", {"text": "str"}, [{"text": "a"}])
        with pytest.raises(DataError, match="has both text and token ids"):
            prepare_text(recipe_of(tmp_path / "mds", tokenizer), tmp_path / "out")
