"""``mmbert data scale``: what ``mmbert data prepare`` makes, by many tasks on one machine or a cluster.

The stages run one after the other on datatrove's executors. Each records its completed tasks, so that the same command
resumes if interrupted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbert.errors import ConfigError, MissingExtra, MMBertError
from mmbert.locks import lock_folder
from mmbert.recipe import Recipe

if TYPE_CHECKING:
    from mmbert.data.distributed.stages import Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Resources to request from Slurm and Ray."""

    partition: str | None = None
    time: str = "24:00:00"
    memory_gb: int = 4
    """Of each task."""
    setup: str | None = None
    """A command that makes ``mmbert`` available, as ``source .venv/bin/activate``."""
    options: dict[str, str] = field(default_factory=dict)
    """Further ``#SBATCH`` lines: ``account`` -> ``mine``."""

    def slurm_options(self) -> dict[str, Any]:
        """Return the options of datatrove's Slurm executor."""
        return {
            "partition": self.partition, "time": self.time, "mem_per_cpu_gb": self.memory_gb,
            "env_command": self.setup, "sbatch_args": dict(self.options),
        }  # fmt: skip


def prepare_at_scale(
    recipe: Recipe,
    folder: Path,
    *,
    executor: str = "local",
    tasks: int = 1,
    workers: int = 1,
    cluster: Cluster | None = None,
    dry_run: bool = False,
) -> list[Path]:
    """Prepare text, tokenizer and shards below ``folder``, or with ``slurm`` submit the jobs that do.

    executor ``local``, ``slurm`` or ``ray``
    tasks    parts that the sources are divided into; kept as they are when a stopped run goes on
    workers  tasks at the same time
    dry_run  for ``slurm``: write the launch files, which are returned, and submit nothing
    Raises ConfigError and MissingExtra before anything runs, else what ``prepare_data`` raises.
    """
    cluster = cluster or Cluster()
    _require(recipe, executor)
    if executor == "slurm" and cluster.partition is None:
        raise ConfigError("a Slurm cluster needs --partition: see `sinfo -s`")
    if dry_run and executor != "slurm":
        raise ConfigError("--dry-run writes the launch files of --executor slurm; the others have none")
    from mmbert.data.distributed.stages import stages
    from mmbert.data.distributed.task_plan import make_plan

    folder = folder.absolute()
    with lock_folder(folder):
        plan = make_plan(recipe, folder, tasks)
        found = stages(plan, tasks)
        logs = folder / "scale" / "logs"
        if executor == "slurm":
            from mmbert.data.distributed import slurm

            return slurm.launch(found, logs, workers, cluster.slurm_options(), recipe.name, dry_run=dry_run)
        for stage in found:
            logger.info("%s: %d tasks", stage.name, stage.tasks)
            _run(stage, logs / stage.name, workers, executor, cluster)
    return []


def _require(recipe: Recipe, executor: str) -> None:
    """Raises MissingExtra for a package that a task would miss hours later."""
    for package, extra in (
        ("datatrove", "scale"),
        *((("ray", "ray"),) if executor == "ray" else ()),
        *((("fasttext", "langid"),) if recipe.cleaning.language_id is not None else ()),
        *((("regex", "scale"),) if recipe.cleaning.near_duplicates is not None else ()),
    ):
        if find_spec(package) is None:
            raise MissingExtra(package, extra)


def _run(stage: Stage, logs: Path, workers: int, executor: str, cluster: Cluster) -> None:
    """Run what is not complete of a stage, and wait for it."""
    options: dict[str, Any] = {"pipeline": stage.steps, "tasks": stage.tasks, "logging_dir": str(logs)}
    options["workers"] = max(1, min(workers, stage.tasks))
    if executor == "ray":
        from datatrove.executor.ray import RayPipelineExecutor

        running = RayPipelineExecutor(**options, mem_per_cpu_gb=cluster.memory_gb)
    else:
        from mmbert.data.distributed.local import LocalExecutor

        running = LocalExecutor(**options)
    running.run()
    failed = running.get_incomplete_ranks(skip_completed=True)
    if failed:
        raise MMBertError(
            f"{len(failed)} of {stage.tasks} tasks of {stage.name} failed, the first is {failed[0]}: "
            f"see {logs}/logs/task_{failed[0]:05d}.log, then run the same command again"
        )
