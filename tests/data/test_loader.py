"""The loader: the same steps for any number of ranks, with or without its thread, and after any resume."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Bytes

from mmbert.data.loader import Loader
from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.pack import Cursor
from mmbert.data.plan import batch_at
from mmbert.data.shard import ShardWriter, read_index
from mmbert.data.steps import ALONE, Rank, Step, Steps
from mmbert.data.whole_words import WholeWords
from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.packed import Packed
from mmbert.recipe import Recipe

LANGUAGES = {"eng_Latn": 400, "fra_Latn": 120, "yor_Latn": 9, "zul_Latn": 2}
"""Language -> documents."""


TOKENIZER = Bytes(vocab_size=600)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four languages in one source, some in several shards."""
    return write_shards(tmp_path_factory.mktemp("shards"))


def write_shards(folder: Path) -> Path:
    random = np.random.default_rng(0)
    streams = []
    for language, documents in LANGUAGES.items():
        writer = ShardWriter(folder / "text" / language, {}, max_tokens=5000)
        for _ in range(documents):
            ids = random.integers(5, 600, max(1, int(random.lognormal(3.5, 1)))).astype(np.uint32)
            writer.add(ids, len(ids), len(ids))
        writer.close()
        infos = []
        for path in sorted((folder / "text" / language).glob("*.tokens")):
            values = read_index(path).info
            file = path.relative_to(folder).as_posix()
            infos.append(ShardInfo(file=file, **{key: values[key] for key in ("tokens", "documents", "sha256")}))
        tokens = sum(info.tokens for info in infos)
        streams.append(
            StreamInfo(
                source="text",
                language=language,
                tokens=tokens,
                documents=documents,
                characters=tokens,
                bytes=tokens,
                shards=tuple(infos),
            )
        )
    Manifest(tokenizer=TOKENIZER.fingerprint, streams=tuple(streams)).save(folder)
    return folder


def recipe(seed: int = 0, **values: object) -> Recipe:
    phase = {
        "tokens": 20_000, "data": {"temperature": 0.5, "max_epochs": None}, "context": 64, "mask_rate": 0.3,
        "batch": 2048, "batch_start": 512, "batch_warmup": 4000, "micro_batch": 256, "peak_lr": 1e-3, **values,
    }  # fmt: skip
    return Recipe.model_validate(
        {"name": "test", "seed": seed, "tokenizer": "none", "phases": {"pretrain": phase, "decay": phase},
         "model": {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1}}
    )  # fmt: skip


def steps(
    folder: Path,
    cursor: Cursor | None = None,
    phase: str = "pretrain",
    place: Rank = ALONE,
    made: Recipe | None = None,
) -> list[Step]:
    return list(Steps(made or recipe(), phase, folder, TOKENIZER, place).after(cursor or Cursor()))


def content(packed: Packed) -> tuple[object, ...]:
    """Everything in a micro-batch, comparable."""
    return tuple(tuple(part.tolist()) for part in (packed.ids, packed.offsets, packed.targets, packed.labels))


def contents(found: list[Step]) -> list[list[tuple[object, ...]]]:
    return [[content(packed) for packed in step.micro_batches] for step in found]


def original(packed: Packed) -> torch.Tensor:
    """The ids before masking."""
    ids = packed.ids.clone()
    ids[packed.targets] = packed.labels
    return ids


def test_steps_are_well_formed(shards: Path) -> None:
    found = steps(shards)
    seen = 0
    for number, step in enumerate(found):
        assert step.index == number
        assert step.batch == batch_at(recipe().phases["pretrain"], seen)
        assert step.tokens == 256 * len(step.micro_batches) == min(step.batch, -(-(20_000 - seen) // 256) * 256)
        assert step.labels == sum(len(packed.targets) for packed in step.micro_batches)
        seen += step.tokens
        assert (step.cursor_after.step, step.cursor_after.tokens) == (number + 1, seen)
        for packed in step.micro_batches:
            assert isinstance(packed.ids, torch.Tensor)
            assert 240 <= packed.tokens <= 256
            ids = original(packed)
            assert (ids[packed.offsets[:-1].long()] == 2).all()
            assert (ids[packed.offsets[1:].long() - 1] == 1).all()
            assert int((ids < 5).sum()) == 2 * packed.sequences
            assert packed.longest == max(packed.lengths) <= 64
    assert seen - 256 < 20_000 <= seen
    assert [step.batch for step in found[:3]] == [512, 512, 1024]
    assert found[-2].batch == 2048


def test_a_phase_may_have_a_seed_of_its_own(shards: Path) -> None:
    """It stands in for the recipe's, in the order of data and in the masks."""
    made = recipe()
    own = made.phases["pretrain"].model_copy(update={"seed": 7})
    changed = made.model_copy(update={"phases": {**made.phases, "pretrain": own}})
    assert contents(steps(shards, made=changed)) == contents(steps(shards, made=recipe(7)))
    assert contents(steps(shards, made=changed)) != contents(steps(shards))
    assert contents(steps(shards, phase="decay", made=changed)) == contents(steps(shards, phase="decay"))


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_any_number_of_ranks_sees_the_same_micro_batches(shards: Path, world: int, whole_words: bool) -> None:
    made = recipe(whole_words=whole_words)
    alone = steps(shards, made=made)
    ranks = [steps(shards, place=Rank(rank, world), made=made) for rank in range(world)]
    for number, step in enumerate(alone):
        theirs = [rank[number] for rank in ranks]
        assert {(each.labels, each.tokens, each.batch, each.cursor_after) for each in theirs} == {
            (step.labels, step.tokens, step.batch, step.cursor_after)
        }
        merged = [content(theirs[bin_ % world].micro_batches[bin_ // world]) for bin_ in range(len(step.micro_batches))]
        assert merged == [content(packed) for packed in step.micro_batches]
        assert sum(len(each.micro_batches) for each in theirs) == len(step.micro_batches)


def test_whole_words_change_the_masks_and_nothing_else(shards: Path) -> None:
    words = WholeWords(TOKENIZER.token_texts())
    differ = 0
    for plain, whole in zip(steps(shards), steps(shards, made=recipe(whole_words=True)), strict=True):
        assert plain.cursor_after == whole.cursor_after
        for one, other in zip(plain.micro_batches, whole.micro_batches, strict=True):
            assert torch.equal(original(one), original(other))
            differ += one.targets.tolist() != other.targets.tolist()
            starts = words.starts(original(other).numpy())
            chosen = np.isin(np.arange(len(starts)), other.targets.numpy())
            assert (chosen == chosen[starts]).all()
    assert differ


def test_resuming_after_any_step_goes_on_the_same(shards: Path) -> None:
    whole = steps(shards)
    expected = contents(whole)
    assert any(step.cursor_after.offset for step in whole)
    for number, step in enumerate(whole):
        rest = steps(shards, Cursor(**step.cursor_after.to_json()), place=Rank(number % 3, 3))
        assert contents(rest) == [step[number % 3 :: 3] for step in expected[number + 1 :]]
        assert [each.index for each in rest] == list(range(number + 1, len(whole)))


def test_the_thread_changes_nothing_and_ends(shards: Path) -> None:
    before = threading.active_count()
    with Loader(Steps(recipe(), "pretrain", shards, TOKENIZER), Cursor()) as loader:
        assert contents(list(loader)) == contents(steps(shards))
    loader = Loader(Steps(recipe(tokens=10_000_000), "pretrain", shards, TOKENIZER), Cursor())
    assert threading.active_count() == before + 1
    next(loader)
    loader.close()
    loader.close()
    assert threading.active_count() == before
    assert list(loader) == []


def test_the_order_depends_on_seed_and_phase(shards: Path) -> None:
    first = contents(steps(shards)[:2])
    assert first != contents(steps(shards, made=recipe(seed=1))[:2])
    assert first != contents(steps(shards, phase="decay")[:2])


def test_another_epoch_of_a_text_hides_other_tokens(shards: Path) -> None:
    """One language of two documents, which come around in every micro-batch."""
    one = recipe(data={"temperature": 1, "max_epochs": None, "languages": ["zul"]}, mask_rate=0.5, context=128)
    seen: dict[bytes, set[tuple[int, ...]]] = {}
    for step in steps(shards, made=one):
        for packed in step.micro_batches:
            hidden = torch.zeros(packed.tokens, dtype=torch.bool)
            hidden[packed.targets] = True
            for text, chosen in zip(packed.unpack(original(packed)), packed.unpack(hidden), strict=True):
                seen.setdefault(text.numpy().tobytes(), set()).add(tuple(chosen.nonzero().flatten().tolist()))
    often = max(seen.values(), key=len)
    assert len(often) > 50  # as good as every time


def test_a_micro_batch_without_labels_is_whole(shards: Path) -> None:
    found = steps(shards, made=recipe(mask_rate=0.0005))
    empty = [packed for step in found for packed in step.micro_batches if not len(packed.targets)]
    assert empty
    assert empty[0].targets.dtype == empty[0].labels.dtype == torch.int64
    assert sum(step.labels for step in found) == sum(len(p.targets) for step in found for p in step.micro_batches) > 0


def test_shares_are_met_in_tokens(shards: Path) -> None:
    long = recipe(tokens=400_000, data={"temperature": 0.3, "max_epochs": None})
    whole = Steps(long, "pretrain", shards, TOKENIZER)
    drawn = sum(step.tokens for step in whole.after(Cursor()))
    assert drawn >= 400_000
    streams = whole.mixture.streams
    draws = whole.plan.draws(0, int(0.9 * drawn / 64))
    tokens = np.zeros(len(streams))
    for stream, block in zip(draws.streams.tolist(), draws.blocks.tolist(), strict=True):
        tokens[stream] += sum(segment.length for segment in whole._corpus.segments(stream, block))
    assert tokens / tokens.sum() == pytest.approx([stream.share for stream in streams], rel=0.02)


def test_another_tokenizer_is_refused(shards: Path) -> None:
    with pytest.raises(TokenizerError, match=r"0123456789abcdef.*feedfeedfeedfeed"):
        Steps(recipe(), "pretrain", shards, Bytes(fingerprint="feedfeedfeedfeed"))


def test_an_error_in_the_thread_reaches_the_caller(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    with Loader(Steps(recipe(), "pretrain", folder, Bytes(vocab_size=300)), Cursor()) as loader:
        with pytest.raises(DataError, match="beyond the vocabulary of 300"):
            list(loader)
        assert list(loader) == []


def test_a_phase_that_cannot_be_drawn_is_refused(shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.max_epochs"):
        Steps(recipe(data={"temperature": 0.5, "max_epochs": 0.01}), "pretrain", shards, TOKENIZER)
