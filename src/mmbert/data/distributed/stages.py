"""The stages of a distributed preparation: the datatrove steps of each one, and its number of tasks."""

from __future__ import annotations

from typing import NamedTuple

from datatrove.pipeline.base import PipelineStep

from mmbert.data.distributed import copies, minhash, pipeline_steps, shards, text_files
from mmbert.data.distributed.task_plan import TaskPlan


class Stage(NamedTuple):
    """Tasks that do not depend on each other."""

    name: str
    tasks: int
    steps: list[PipelineStep]


def stages(plan: TaskPlan, tasks: int) -> list[Stage]:
    """Return the stages of a plan in order; a source whose text is prepared already is only tokenised."""
    folder, ranks, sources = str(plan.folder), len(plan.ranks), len(plan.fingerprints)
    cleaning = plan.recipe.cleaning
    found: list[Stage] = []
    if sources:
        read = [pipeline_steps.Read(folder), pipeline_steps.Clean(folder), pipeline_steps.Spill(folder)]
        found.append(Stage("1-read", ranks, read))
        found.append(Stage("2-copies", plan.partitions, [copies.Compare(folder)]))
        found.append(Stage("3-decide", sources, [copies.Decide(folder)]))
        drop = []
        if (near_duplicates := cleaning.near_duplicates) is not None:
            kept = [copies.Kept(folder, write=False), minhash.Signatures(folder)]
            found.append(Stage("4-signatures", ranks, kept))
            found.append(Stage("5-buckets", sources * near_duplicates.buckets, [minhash.Buckets(folder)]))
            found.append(Stage("6-clusters", sources, [minhash.Clusters(folder)]))
            drop = [minhash.DropNear(folder)]
        write = [copies.Kept(folder, write=True), *drop, text_files.Write(folder)]
        found.append(Stage("7-write", ranks, write))
        found.append(Stage("8-collect", ranks, [text_files.Collect(folder)]))
    found.append(Stage("9-text", 1, [text_files.Finish(folder)]))
    found.append(Stage("10-tokenise", max(tasks, 1), [shards.Tokenise(folder)]))
    found.append(Stage("11-manifest", 1, [shards.WriteManifest(folder)]))
    return found
