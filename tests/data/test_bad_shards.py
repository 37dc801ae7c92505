"""Damaged shards stop a run or are left out of it, and where they are left out everything else stays where it was."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from test_loader import TOKENIZER, contents, recipe, write_shards

from mmbert.data.bad_shards import BadShards, LeftOut, record_bad_shards
from mmbert.data.loader import Loader
from mmbert.data.manifest import Manifest
from mmbert.data.pack import Cursor
from mmbert.data.steps import ALONE, Rank, Step, Steps
from mmbert.errors import BadShard, DataError
from mmbert.recipe import Recipe

BAD = "text/fra_Latn/00000.tokens"
"""One of two of its language."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def damage(folder: Path, file: str = BAD, place: int = 100) -> None:
    data = bytearray((folder / file).read_bytes())
    data[place] ^= 1
    (folder / file).write_bytes(data)


def skipping() -> Recipe:
    base = recipe(tokens=30_000)
    return base.model_copy(update={"runtime": base.runtime.model_copy(update={"on_bad_shard": "skip"})})


def steps(folder: Path, run: Path, *, made: Recipe | None = None, place: Rank = ALONE) -> Steps:
    return Steps(made or skipping(), "pretrain", folder, TOKENIZER, place, BadShards(run))


def texts(found: list[Step]) -> set[bytes]:
    """Every sequence of some steps, as before masking."""
    seen = set()
    for step in found:
        for packed in step.micro_batches:
            ids = packed.ids.clone()
            ids[packed.targets] = packed.labels
            seen |= {part.numpy().tobytes() for part in packed.unpack(ids)}
    return seen


def test_stop_names_the_shard_and_the_way_on(folder: Path, run: Path) -> None:
    record_bad_shards(folder, run, verify=True, skip=False)
    damage(folder)
    record_bad_shards(folder, run, verify=False, skip=False)  # lengths alone tell nothing
    with pytest.raises(BadShard) as caught:
        record_bad_shards(folder, run, verify=True, skip=False)
    said = str(caught.value)
    assert said.startswith(f"{folder / BAD} is damaged at tokens 0 to 1023, documents 0 to ")
    assert said.endswith("prepare` again, or go on without it: runtime.on_bad_shard=skip")
    assert not list(run.iterdir())


def test_skip_leaves_it_out_and_counts_it(folder: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(folder)
    (folder / "text/yor_Latn/00000.tokens").unlink()
    record_bad_shards(folder, run, verify=True, skip=True)
    infos = {shard.file: shard for stream in Manifest.read(folder).streams for shard in stream.shards}
    left = BadShards(run).shards
    assert [(s.file, s.phase, s.draw) for s in left] == [(BAD, None, 0), ("text/yor_Latn/00000.tokens", None, 0)]
    assert [(s.documents, s.tokens) for s in left] == [(infos[s.file].documents, infos[s.file].tokens) for s in left]
    with caplog.at_level(logging.WARNING, logger="mmbert"):
        found = list(steps(folder, run).after(Cursor()))
    part = sum(shard.tokens for shard in left) / sum(info.tokens for info in infos.values())
    assert f"pretrain goes without {100 * part:.2g} % of its tokens: damaged shards" in caplog.text
    assert found[-1].cursor_after.tokens >= 30_000
    record_bad_shards(folder, run, verify=True, skip=False)  # known ones stop nothing any more
    assert BadShards(run).shards == left


def test_everything_else_stays_where_it_was(folder: Path, run: Path) -> None:
    """The draws of the other shards are those of a run without damage."""
    before = Steps(skipping(), "pretrain", folder, TOKENIZER)
    whole = texts(list(before.after(Cursor())))
    damage(folder)
    record_bad_shards(folder, run, verify=True, skip=True)
    without = steps(folder, run)
    rest = texts(list(without.after(Cursor())))
    assert without.mixture == before.mixture
    for position in range(300):
        assert without.plan.draw(position) == before.plan.draw(position)
    bad = {path: set() for path in (BAD, "text/fra_Latn/00001.tokens")}
    for file, found in bad.items():
        info = before._corpus.info(folder / file)
        number = before._corpus._shards.index(next(s for s in before._corpus._shards if info in s))
        first = 0 if file == BAD else before._corpus._first_blocks[number][1]
        found |= {(number, block) for block in range(first, first + -(-info.tokens // 64))}
    assert all(without._corpus.segments(*place) == [] for place in bad[BAD])
    assert any(without._corpus.segments(*place) for place in bad["text/fra_Latn/00001.tokens"])
    assert len(rest & whole) > 0.6 * len(rest)  # what is not drawn in the place of the missing text


def test_found_while_training(folder: Path, run: Path) -> None:
    """Alone, the run goes on from the step at hand without the shard; stopped and resumed, it does so again."""
    whole = list(Steps(skipping(), "pretrain", folder, TOKENIZER).after(Cursor()))
    record_bad_shards(folder, run, verify=True, skip=True)
    damage(folder, place=4 * 1500)
    with Loader(steps(folder, run), Cursor()) as loader:
        found = list(loader)
    (left,) = BadShards(run).shards
    assert (left.file, left.phase) == (BAD, "pretrain")
    assert left.fault.startswith(f"{folder / BAD} is damaged at tokens 1024 to 2047, documents ")
    at = next(
        n
        for n, step in enumerate([*whole])
        if (step.cursor_after.draw, step.cursor_after.offset) >= (left.draw, left.offset)
    )
    assert 0 < at < len(found) - 2, "the test needs steps before and after"
    assert contents(found[: at + 1]) == contents(whole[: at + 1])
    assert contents(found[at + 1 :]) != contents(whole[at + 1 : len(found)])
    damage(folder, place=4 * 1500)  # repaired: it stays out all the same
    for cursor, since in ((Cursor(), 0), (found[at - 1].cursor_after, at), (found[at + 1].cursor_after, at + 2)):
        assert contents(list(steps(folder, run).after(cursor))) == contents(found[since:])
    two = [list(steps(folder, run, place=Rank(rank, 2)).after(Cursor())) for rank in range(2)]
    assert [contents(found)[n][rank::2] for rank in range(2) for n in range(len(found))] == [
        content for rank in range(2) for content in contents(two[rank])
    ]


def test_other_phases_leave_it_out_from_their_start(folder: Path, run: Path) -> None:
    bad = BadShards(run)
    bad.add([LeftOut(file=BAD, documents=1, tokens=1, fault="broken", phase="pretrain", draw=40, offset=3)])
    assert bad.at("pretrain", 40, 2) == bad.at("pretrain", 39, 9) == frozenset()
    assert bad.at("pretrain", 40, 3) == bad.at("pretrain", 41, 0) == bad.at("decay", 0, 0) == {BAD}


def test_stop_while_training_names_the_place(folder: Path, run: Path) -> None:
    made = recipe(tokens=30_000)
    damage(folder)
    with pytest.raises(BadShard, match=r"documents 0 to \d+ \(the checksum.*runtime\.on_bad_shard=skip"):
        list(steps(folder, run, made=made).after(Cursor()))
    assert not list(run.iterdir())


def test_several_ranks_end_and_go_on_when_started_again(folder: Path, run: Path) -> None:
    damage(folder)

    def all_ranks() -> list[list[Step]]:
        return [list(steps(folder, run, place=Rank(rank, 2)).after(Cursor())) for rank in range(2)]

    with pytest.raises(BadShard, match="run the same command again: it goes on without this shard"):
        all_ranks()
    again = all_ranks()
    assert [step.labels for step in again[0]] == [step.labels for step in again[1]]


def test_nothing_left_is_an_error(folder: Path, run: Path) -> None:
    for path in (folder / "text").rglob("*.tokens"):
        path.unlink()
    record_bad_shards(folder, run, verify=False, skip=True)
    with pytest.raises(DataError, match=r"every shard of this phase in .* is damaged"):
        list(steps(folder, run).after(Cursor()))


def test_a_damaged_list_is_refused(run: Path) -> None:
    (run / "bad_shards.json").write_text('{"version": 1, "shards": [{"file": 3}]}')
    with pytest.raises(DataError, match=r"bad_shards\.json is damaged: restore it"):
        BadShards(run)
