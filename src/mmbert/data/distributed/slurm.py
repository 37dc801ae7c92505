"""Slurm: each stage is a datatrove job array that waits for the stage before."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dill
from datatrove.executor.slurm import SlurmPipelineExecutor

from mmbert.data.distributed.stages import Stage
from mmbert.errors import ConfigError
from mmbert.files import write_text

SUBMIT = "submit.sh"


def launch(
    stages: list[Stage], logs: Path, workers: int, options: Mapping[str, Any], name: str, *, dry_run: bool
) -> list[Path]:
    """Submit all stages, or with ``dry_run`` only write what would be submitted. Return the launch files.

    options  keyword arguments of ``SlurmPipelineExecutor``: partition, time, memory
    """
    executors: list[Any] = []
    for stage in stages:
        executors.append(
            SlurmPipelineExecutor(
                stage.steps,
                tasks=stage.tasks,
                workers=min(workers, stage.tasks),
                job_name=f"{name}-{stage.name}",
                qos=None,
                logging_dir=str(logs / stage.name),
                slurm_logs_folder=str(logs / stage.name / "slurm"),
                depends=executors[-1] if executors else None,
                **options,
            )
        )
    if dry_run:
        waiting = [executor for executor in executors if executor.get_incomplete_ranks()]
        return [_write(executor) for executor in waiting] + [_write_submit(waiting, logs)]
    if shutil.which("sbatch") is None:
        raise ConfigError("there is no sbatch here: run this on a login node, or add --dry-run for the launch files")
    executors[-1].run()
    return [Path(executor.logging_dir.resolve_paths("launch_script.slurm")) for executor in executors]


def _write(executor: Any) -> Path:
    """Write what ``SlurmPipelineExecutor.launch_job`` writes before it calls sbatch. Return the launch file."""
    executor.depends = None  # not pickled with all that comes before it
    place = Path(executor.logging_dir.resolve_paths(""))
    place.mkdir(parents=True, exist_ok=True)
    ranks = executor.get_incomplete_ranks()
    with (place / "executor.pik").open("wb") as file:
        dill.dump(executor, file, fmode=dill.CONTENTS_FMODE)
    write_text(place / "ranks_to_run.json", json.dumps(ranks))
    array = min(len(ranks), executor.max_array_size)
    command = f"srun -l -n 1 launch_pickled_pipeline {shlex.quote(str(place / 'executor.pik'))}"
    path = place / "launch_script.slurm"
    write_text(path, executor.get_launch_file_contents(executor.get_sbatch_args(array), command))
    return path


def _write_submit(executors: list[Any], logs: Path) -> Path:
    """Write a script that submits all launch files, each after the one before. Return its path."""
    lines = ["#!/bin/bash", "# Submits every stage; each waits until the one before is complete.", "set -e", "after="]
    for executor in executors:
        script = shlex.quote(executor.logging_dir.resolve_paths("launch_script.slurm"))
        for offset in range(math.ceil(len(executor.get_incomplete_ranks()) / executor.max_array_size)):
            lines.append(f"job=$(sbatch --parsable --export=ALL,RUN_OFFSET={offset} $after {script})")
            lines.append('after="--dependency=afterok:$job"')
    path = logs.parent / SUBMIT
    write_text(path, "\n".join(lines) + "\n")
    return path
