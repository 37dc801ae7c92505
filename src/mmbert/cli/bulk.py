"""``--on ray`` of the commands that compute something for each line: many files, by many workers, into a folder."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmbert.cli.added_options import with_options
from mmbert.cli.input import STDIN
from mmbert.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from mmbert.bulk.jobs import Job

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT...",
        help="File of text lines or JSON lines, may be compressed (.gz, .zst); - for standard input, the default. "
        "With --on ray: files, folders, globs or URLs (s3://, hf://datasets/USER/NAME).",
        show_default=False,
    ),
]

_ADDED: dict[str, tuple[Any, Any]] = {
    "on": (
        Annotated[
            Literal["ray"] | None,
            typer.Option(help="ray: divide the files of INPUT among workers, and write --out as a folder of Parquet."),
        ],
        None,
    ),
    "workers": (
        Annotated[
            int | None,
            typer.Option(
                min=1, help="--on ray: workers. Default: one for each GPU, else as many as there are cores for."
            ),
        ],
        None,
    ),
    "cpus_per_worker": (
        Annotated[
            int | None, typer.Option(min=1, help="--on ray: cores of a worker. Default: 4, or all if there are fewer.")
        ],
        None,
    ),
    "ray_address": (
        Annotated[
            str | None,
            typer.Option(
                help="--on ray: address of a cluster, auto for the one on this machine, local to start one. Default: "
                "RAY_ADDRESS, else the one that runs here, else local."
            ),
        ],
        None,
    ),
    "price": (
        Annotated[
            float | None,
            typer.Option(min=0, help="--on ray: dollars an hour of all machines, for the price of a million texts."),
        ],
        None,
    ),
    "keep": (
        Annotated[
            list[str] | None,
            typer.Option("--keep", help="--on ray: field of the input that the result has too. May be repeated."),
        ],
        None,
    ),
}


@dataclass(frozen=True)
class OnRay:
    """What the options of ``--on ray`` say."""

    address: str | None
    workers: int | None
    cpus_per_worker: int | None
    price: float | None
    keep: tuple[str, ...]

    def run(
        self,
        job: Job,
        sources: list[str] | None,
        texts: list[str] | None,
        out: Path | None,
        *,
        id_field: str = "id",
        ranges: np.ndarray | None = None,
    ) -> None:
        """Run a job over all files, and print a summary. Raises ConfigError for options that do not go together."""
        from mmbert.bulk.cluster import Cluster
        from mmbert.bulk.on_ray import run_on_ray
        from mmbert.io.remote import as_typed

        if texts or not sources or STDIN in sources:
            raise ConfigError("--on ray reads files: give files, folders or URLs as INPUT")
        if out is None:
            raise ConfigError("--on ray writes a folder: give it with --out")
        cluster = Cluster(self.address, self.workers, self.cpus_per_worker)
        place = as_typed(out)
        done = run_on_ray(job, sources, place, cluster=cluster, id_field=id_field, keep=self.keep, ranges=ranges)
        sys.stderr.write("".join(f"{line}\n" for line in done.lines(self.price)))


def runs_on_ray(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the options of ``--on ray`` to a command, which gets them as ``on_ray``: an :class:`OnRay`, or None."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        on: str | None,
        workers: int | None,
        cpus_per_worker: int | None,
        ray_address: str | None,
        price: float | None,
        keep: list[str] | None,
        **options: Any,
    ) -> Any:
        asked = OnRay(ray_address, workers, cpus_per_worker, price, tuple(keep or ()))
        if on is None and asked != OnRay(None, None, None, None, ()):
            raise ConfigError("--workers, --cpus-per-worker, --ray-address, --price and --keep go with --on ray")
        return function(*arguments, **options, on_ray=asked if on else None)

    return with_options(command, function, _ADDED, hidden="on_ray")


def one_source(sources: list[str] | None) -> str:
    """Return the one input of a command on this machine. Raises ConfigError for several."""
    if sources and len(sources) > 1:
        raise ConfigError(f"{sources[0]} and {sources[1]} are two inputs: give one of them, or all with --on ray")
    return sources[0] if sources else STDIN
