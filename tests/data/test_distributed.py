"""Preparation by many tasks: the folder of the plain loop, whatever the number of tasks and however often stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import little_corpus
import mds_writer
import numpy as np
import pytest
import typer.testing
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.cli.data import app
from mmbert.data.distributed import launch, stages, text_files
from mmbert.data.distributed.copies import HOLD, KEEP, VERDICTS, compare, decide
from mmbert.data.distributed.launch import prepare_at_scale
from mmbert.data.distributed.shingles import shingles, words
from mmbert.data.prepare import iterate_text, prepare_data, prepare_text
from mmbert.data.store import Report
from mmbert.errors import ConfigError, MissingExtra, MMBertError
from mmbert.recipe import Recipe

NEAR = {"ngram": 2, "buckets": 12, "hashes": 3}


def content(folder: Path) -> dict[str, Any]:
    """Every file but datatrove's; of JSON and of compressed text what is in it, since frames are cut by tasks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("scale/"):
            with path.open("rb") as file:
                packed = name.endswith(".zst")
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) if packed else file
                data = reader.read()
                found[name] = json.loads(data) if name.endswith(".json") else data
    return found


def without_marks(found: dict[str, Any]) -> dict[str, Any]:
    """Without the marks of tasks, where languages of held-out text alone may be counted in another task."""
    return {name: data for name, data in found.items() if "/done/0" not in name and "/done/h" not in name}


def write_messy(folder: Path) -> Path:
    """Several files a language, exact copies within and between them, and text that cleaning drops."""
    for language in little_corpus.SENTENCES:
        rows = little_corpus.documents(language, 36)
        for number in range(3):
            copies = [{"id": f"copy/{number}/{row['id']}", "text": f" {row['text']}\n"} for row in rows[::5]]
            bad = [{"id": f"{number}", "text": "short"}, {"id": f"{number}b", "text": "*" * 40}]
            part = rows[number * 12 : number * 12 + 12]
            little_corpus.write_jsonl(folder / f"{number}/{language}.jsonl.gz", [*part, *copies, *bad])
    english = [{"id": f"fo/{row['id']}", "text": row["text"]} for row in little_corpus.documents("eng_Latn", 9)]
    little_corpus.write_jsonl(folder / "3/fao_Latn.jsonl", english)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_messy(tmp_path_factory.mktemp("raw"))


def messy_recipe(raw: Path, **cleaning: object) -> Recipe:
    rules = {"holdout": 0.3, "holdout_characters": 1500, **cleaning}
    return little_corpus.recipe_for({"udhr": {"kind": "jsonl", "path": str(raw)}}, **rules)


@pytest.fixture(scope="module")
def plain(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    prepare_data(messy_recipe(raw), folder)
    return content(folder)


class TestSameFolder:
    @pytest.mark.parametrize("tasks", [1, 7])
    def test_as_the_plain_loop(self, raw: Path, plain: dict[str, Any], tmp_path: Path, tasks: int) -> None:
        report = plain["text/report.json"]["sources"]["udhr"]["languages"]
        reasons: Counter[str] = Counter()
        for counts in report.values():
            reasons += Counter(counts["dropped"])
        assert set(reasons) == {"too short", "mostly symbols", "exact copy", "held out beyond the limit"}
        prepare_at_scale(messy_recipe(raw), tmp_path, tasks=tasks)
        assert content(tmp_path) == plain
        assert not (tmp_path / "scale/work").exists()
        prepare_data(messy_recipe(raw), tmp_path)  # finds its work done
        prepare_at_scale(messy_recipe(raw), tmp_path, tasks=tasks)
        assert content(tmp_path) == plain

    def test_without_deduplication_and_with_text_held_out_apart(self, raw: Path, tmp_path: Path) -> None:
        source = {"kind": "jsonl", "path": str(raw), "heldout": str(raw / "1")}
        recipe = little_corpus.recipe_for({"udhr": source}, deduplicate=False, holdout_characters=900)
        prepare_data(recipe, tmp_path / "plain")
        prepare_at_scale(recipe, tmp_path / "scaled", tasks=5)
        found, wanted = content(tmp_path / "scaled"), content(tmp_path / "plain")
        assert without_marks(found) == without_marks(wanted)
        assert "copy of held-out text" in (tmp_path / "plain/text/report.json").read_text()

    def test_long_languages_become_several_shards(
        self, raw: Path, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (text_files, sys.modules["mmbert.data.distributed.shards"]):
            monkeypatch.setattr(module, "PART", 2000)
        prepare_at_scale(messy_recipe(raw), tmp_path, tasks=4)
        found = content(tmp_path)
        for language in little_corpus.SENTENCES:
            name = f"shards/udhr/{language}/00000.tokens"
            parts = [data for path, data in found.items() if path.startswith(name[:-12]) and path.endswith(".tokens")]
            assert len(parts) > 1
            assert b"".join(parts) == plain[name]
        sizes = [stream["tokens"] for stream in found["shards/manifest.json"]["streams"]]
        assert sizes == [stream["tokens"] for stream in plain["shards/manifest.json"]["streams"]]

    def test_real_text_by_two_workers(self, tmp_path: Path) -> None:
        sources = {"messages": {"kind": "catalogs", "packages": ["django"]}}
        recipe = little_corpus.recipe_for(sources, holdout=0.1)
        prepare_text(recipe, tmp_path / "plain")
        prepare_at_scale(recipe, tmp_path / "scaled", tasks=3, workers=2)
        found, wanted = content(tmp_path / "scaled"), content(tmp_path / "plain")
        assert len(Report.load(tmp_path / "scaled").sources["messages"].languages) > 80
        assert {name: found[name] for name in without_marks(wanted)} == without_marks(wanted)

    def test_released_shards_and_text_prepared_before(self, raw: Path, tmp_path: Path) -> None:
        prepare_data(messy_recipe(raw), tmp_path / "scaled")
        rows = [{"input_ids": np.array([2, 300 + i, 1], np.uint32)} for i in range(40)]
        mds_writer.write_mds(tmp_path / "mds/fao_Latn", {"input_ids": "ndarray:uint32"}, rows)
        old = {"kind": "jsonl", "path": str(raw)}
        sources = {"udhr": old, "released": {"kind": "mds", "path": str(tmp_path / "mds")}}
        recipe = little_corpus.recipe_for(sources, holdout=0.3, holdout_characters=1500)
        recipe = recipe.model_copy(update={"tokenizer": str(tmp_path / "scaled/tokenizer")})
        text = tmp_path / "scaled/text/udhr/fao_Latn.jsonl.zst"
        before = text.stat().st_mtime_ns
        prepare_at_scale(recipe, tmp_path / "scaled", tasks=3)
        assert text.stat().st_mtime_ns == before
        prepare_data(recipe, tmp_path / "plain")
        assert content(tmp_path / "scaled") == content(tmp_path / "plain")


class TestCopies:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.sampled_from("ab"), st.integers(1, 9)), max_size=40),
        st.integers(0, 20),
        st.booleans(),
    )
    def test_verdicts_are_those_of_the_loop(
        self, documents: list[tuple[int, bool, str, int]], limit: int, deduplicate: bool
    ) -> None:
        seen: set[int] = set()
        sizes: Counter[str] = Counter()
        wanted = []
        for text, held, language, size in documents:
            if held:
                reason = "held out beyond the limit" if sizes[language] + size > limit else None
                reason = reason or ("exact copy" if text in seen else None)
                if reason is None:
                    seen.add(text)
                    sizes[language] += size
            elif text in seen:
                reason = "exact copy" if deduplicate else "copy of held-out text"
            else:
                reason = None
                if deduplicate:
                    seen.add(text)
            wanted.append(reason or ("held" if held else "kept"))
        keys = np.array([text for text, *_ in documents], np.uint64)
        flags = np.array([held for _, held, *_ in documents], bool)
        copies, contested = compare(keys % 2, keys // 2, flags, np.arange(len(keys), dtype=np.uint64))
        verdicts = dict.fromkeys(copies.tolist(), 2) if deduplicate else {}
        groups = {place: (0, text) for text, place, _ in contested.tolist()}
        heldout = {i: (language, size) for i, (_, held, language, size) in enumerate(documents) if held}
        verdicts |= decide(groups, heldout, limit, deduplicate=deduplicate)
        names = {KEEP: "kept", HOLD: "held", **VERDICTS}
        assert [names[verdicts.get(i, KEEP)] for i in range(len(documents))] == wanted


class TestNearDuplicates:
    def recipe(self, folder: Path, **options: object) -> Recipe:
        return messy_recipe(folder, holdout=0.0, near_duplicates=NEAR, **options)

    def write(self, folder: Path) -> Path:
        """Three documents a language that share no sentence, and copies of the first with another word in one place."""
        for language, sentences in little_corpus.SENTENCES.items():
            rows = [{"id": f"{i}", "text": sentence} for i, sentence in enumerate(sentences)]
            near = [{"id": f"near/{i}", "text": f"{sentences[0]} {word}"} for i, word in enumerate(("Amen", "Finis"))]
            little_corpus.write_jsonl(folder / f"a/{language}.jsonl", rows)
            little_corpus.write_jsonl(folder / f"b/{language}.jsonl", near)
        return folder

    def test_one_of_a_cluster_is_kept_and_the_rest_counted_by_language(self, tmp_path: Path) -> None:
        recipe = self.recipe(self.write(tmp_path / "raw"))
        for tasks in (1, 4):
            prepare_at_scale(recipe, tmp_path / str(tasks), tasks=tasks)
        assert content(tmp_path / "1") == content(tmp_path / "4")
        for counts in Report.load(tmp_path / "4").sources["udhr"].languages.values():
            assert counts.dropped == {"near_duplicate": 2}
            assert counts.documents == 3
        for language, sentences in little_corpus.SENTENCES.items():
            kept = [text for _, code, text in iterate_text(tmp_path / "4") if code == language]
            assert all(any(sentence in text for text in kept) for sentence in sentences)
        prepare_data(recipe, tmp_path / "4")  # goes on from what is there

    def test_the_plain_loop_sends_to_the_other(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="near_duplicates is found by datatrove: run `mmbert data scale` first"):
            prepare_text(self.recipe(self.write(tmp_path / "raw")), tmp_path / "out")

    def test_words_of_every_script(self) -> None:
        assert words("Fødd, fræls\u00a0(og)  12.5") == ["fødd", "fræls", "og", "0", "0"]
        assert words("人人生而自由，abc ไทย।") == [*"人人生而自由", "abc", *"ไทย"]
        assert words("العَرَبيّة، हिन्दी में।") == ["العربية", "हिन्दी", "में"]
        assert words("Ὅλοι") == words("ΟΛΟΙ".lower()), "accents do not count"

    def test_shingles_are_runs_of_words(self) -> None:
        one, other = (set(shingles(text, 3).ravel().tolist()) for text in ("a b c d e f", "x a b c d y"))
        assert (len(one), len(other), len(one & other)) == (4, 4, 2)
        assert shingles("a b", 3).shape == (0, 1)
        assert shingles("a b c", 3).tolist() != shingles("c b a", 3).tolist()

    def test_signatures_are_datatroves(self) -> None:
        from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

        from mmbert.data.distributed.minhash import HashConfig, MinhashConfig, _NoWords, _Signature

        found = np.random.default_rng(0).integers(0, 2**64, (3000, 1), dtype=np.uint64)
        found[:4, 0] = (0, 2**61 - 1, 2**61, 2**64 - 1)
        options = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))
        theirs, ours = (of("unused", options, _NoWords()) for of in (MinhashDedupSignature, _Signature))
        for count in (1, 4, 3000):
            assert ours.get_signature(found[:count]) == theirs.get_signature(found[:count])


SCRIPT = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import test_distributed
from mmbert.data.distributed.launch import prepare_at_scale
left = int(sys.argv[3])
replace = pathlib.Path.replace
def counting(self, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = counting
recipe = test_distributed.messy_recipe(pathlib.Path(sys.argv[1]), near_duplicates=test_distributed.NEAR)
prepare_at_scale(recipe, pathlib.Path(sys.argv[2]), tasks=4)
"""


class TestStopped:
    def test_killed_and_run_again(self, raw: Path, tmp_path: Path) -> None:
        """Each process is killed at a rename, when what others see changes, in a later stage each time."""
        script = tmp_path / "run.py"
        script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
        recipe = messy_recipe(raw, near_duplicates=NEAR)
        prepare_at_scale(recipe, tmp_path / "whole", tasks=4)
        stopped = tmp_path / "stopped"
        complete = set()
        for moment in (12, 25, 60):
            command = [sys.executable, str(script), str(raw), str(stopped), str(moment)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
            assert process.wait(timeout=120) == -signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # datatrove's manager of queues, which is left over
            marks = {path: path.stat().st_mtime_ns for path in stopped.glob("scale/logs/*/completions/*")}
            assert complete <= set(marks.items()), "a complete task was done again"
            assert len(marks) > len(complete), "nothing was completed between two stops"
            complete = set(marks.items())
        prepare_at_scale(recipe, stopped, tasks=9)  # the number of tasks stays that of the beginning
        assert content(stopped) == content(tmp_path / "whole")

    def test_a_task_that_fails_tells_where_and_is_done_again(
        self, raw: Path, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        shutil.copytree(raw, tmp_path / "raw")
        path = tmp_path / "raw/1/fra_Latn.jsonl.gz"
        whole = path.read_bytes()
        stamp = path.stat()
        path.write_bytes(whole[:-9])
        with pytest.raises(MMBertError, match=f"^{path} is cut short: copy or download it again$"):
            prepare_at_scale(messy_recipe(tmp_path / "raw"), tmp_path / "out", tasks=4)
        path.write_bytes(whole)
        assert stamp.st_size == len(whole)
        prepare_at_scale(messy_recipe(tmp_path / "raw"), tmp_path / "out", tasks=4)
        found = content(tmp_path / "out")
        text = [name for name in plain if name.endswith((".zst", ".tokens"))]
        assert {name: found[name] for name in text} == {name: plain[name] for name in text}

    def test_a_changed_recipe_begins_anew(self, raw: Path, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "stages", lambda plan, tasks: [])  # stopped before the first
            prepare_at_scale(messy_recipe(raw), tmp_path / "out", tasks=2)
        assert (tmp_path / "out/scale/plan.json").is_file()
        recipe = messy_recipe(raw, min_characters=150)
        prepare_at_scale(recipe, tmp_path / "out", tasks=2)
        prepare_data(recipe, tmp_path / "plain")
        assert content(tmp_path / "out") == content(tmp_path / "plain")


class TestClusters:
    def run(self, *arguments: str) -> typer.testing.Result:
        return typer.testing.CliRunner().invoke(app, ["scale", *arguments])

    def test_slurm_launch_files(self, raw: Path, tmp_path: Path) -> None:
        messy_recipe(raw, near_duplicates=NEAR).save(tmp_path / "recipe.yaml")
        arguments = [str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--executor", "slurm"]
        assert "needs --partition" in str(self.run(*arguments).exception)
        options = ["--partition", "cpu", "--setup", "source .venv/bin/activate", "--sbatch", "account=mine"]
        limits = ["--tasks", "6", "--workers", "3", "--memory-gb", "8", "--time", "02:00:00"]
        result = self.run(*arguments, *options, *limits, "--dry-run")
        assert result.exit_code == 0, result.output
        logs = tmp_path / "out/scale/logs"
        first = (logs / "1-read/launch_script.slurm").read_text()
        assert first in result.stdout
        for line in (
            "#SBATCH --partition=cpu", "#SBATCH --array=0-5%3", "#SBATCH --mem-per-cpu=8G", "#SBATCH --time=02:00:00",
            "#SBATCH --account=mine", "#SBATCH --job-name=little-1-read", "source .venv/bin/activate",
            f"srun -l -n 1 launch_pickled_pipeline {logs}/1-read/executor.pik",
        ):  # fmt: skip
            assert line in first.splitlines()
        assert json.loads((logs / "1-read/ranks_to_run.json").read_text()) == [0, 1, 2, 3, 4, 5]
        assert "#SBATCH --array=0-11%3" in (logs / "5-buckets/launch_script.slurm").read_text()
        submit = (tmp_path / "out/scale/submit.sh").read_text()
        jobs = [line for line in submit.splitlines() if "sbatch" in line]
        assert [line.split("/")[-2] for line in jobs] == [
            "1-read", "2-copies", "3-decide", "4-signatures", "5-buckets", "6-clusters", "7-write", "8-collect",
            "9-text", "10-tokenise", "11-manifest",
        ]  # fmt: skip
        assert "no sbatch here" in str(self.run(*arguments, *options).exception)

    def test_the_pickled_task_runs_anywhere(self, raw: Path, tmp_path: Path) -> None:
        """What a node of the cluster does: load the executor by its file alone, and run its part."""
        messy_recipe(raw).save(tmp_path / "recipe.yaml")
        arguments = [str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--partition", "cpu"]
        assert self.run(*arguments, "--executor", "slurm", "--dry-run", "--tasks", "3").exit_code == 0
        place = tmp_path / "out/scale/logs/1-read"
        program = (
            "import sys, dill\n"
            "from datatrove.executor import base, slurm\n"
            "names = dict.fromkeys(base.DistributedEnvVars.__annotations__, '1')\n"
            "slurm.SlurmPipelineExecutor.get_distributed_env = lambda self, node: names\n"  # asks scontrol
            "dill.load(open(sys.argv[1], 'rb')).run()\n"
        )
        environment = {"SLURM_ARRAY_TASK_ID": "2", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", program, str(place / "executor.pik")]
        ended = subprocess.run(command, capture_output=True, timeout=120, env=environment, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr.decode()
        assert [path.name for path in (place / "completions").iterdir()] == ["00002"]
        assert (tmp_path / "out/scale/work/spill/00002.jsonl.zst").is_file()

    def test_missing_extras_are_named_before_anything_runs(
        self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = launch.find_spec
        for package, extra, options in (
            ("ray", "ray", {"executor": "ray"}),
            ("datatrove", "scale", {}),
        ):
            monkeypatch.setattr(launch, "find_spec", lambda name, gone=package: None if name == gone else find(name))
            with pytest.raises(MissingExtra, match=rf"{package} is not installed: pip install 'mmbert\[{extra}\]'"):
                prepare_at_scale(messy_recipe(raw), tmp_path / "out", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
        monkeypatch.setattr(launch, "find_spec", find)
        with pytest.raises(ConfigError, match="--dry-run writes the launch files of --executor slurm"):
            prepare_at_scale(messy_recipe(raw), tmp_path / "out", dry_run=True)
