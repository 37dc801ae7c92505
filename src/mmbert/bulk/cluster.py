"""A Ray cluster: one that runs, or one on this machine alone, which listens on loopback and reports nothing.

Ray's workers run whatever code a client of the cluster sends. So a cluster that is started here is bound to 127.0.0.1;
who may reach one that is started elsewhere is decided where it is started.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmbert.errors import ConfigError, MMBertError, first_line, import_extra
from mmbert.files import environment, set_environment

log = logging.getLogger(__name__)

CORES = 4
"""Cores of a worker on a CPU, if nothing else is said: more do little for batches of 2,048 tokens."""

_OBJECT_STORE = 80 << 20
"""Bytes for objects in a cluster of our own, Ray's least: workers read and write files themselves."""

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and how many.

    address          of a running cluster (``auto``: the one on this machine), or ``local`` to start one. None: the one
                     that ``RAY_ADDRESS`` names or that runs on this machine, else a local one
    workers          None: one for each GPU, or without GPUs as many as there are cores for
    cpus_per_worker  None: 4, or all cores of the machine if it has fewer
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: int | None = None


@dataclass(frozen=True)
class Placement:
    """The workers of a run: their number, and what each one takes."""

    workers: int
    cpus: int
    gpus: int


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Yield the module ``ray``, connected; what is started here is stopped at the end. Raises ConfigError."""
    if cluster.address is not None and cluster.address.startswith("ray://"):
        raise ConfigError(
            f"{cluster.address} is an address for Ray Client, which cannot stream results: run this on a machine of "
            "the cluster (`ray job submit -- mmbert ...`) with --ray-address auto"
        )
    set_environment(RAY_USAGE_STATS_ENABLED="0")
    ray = import_extra("ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    if not _connect(ray, cluster.address or environment("RAY_ADDRESS")):
        _start(ray)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to a running cluster; returns whether there is one. Raises ConfigError if one is named and is not."""
    if address == "local":
        return False
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None:
            raise ConfigError(
                f"no Ray cluster at {address} ({first_line(error)}): start it with `ray start`"
            ) from error
        return False
    log.info("Ray cluster at %s", ray.get_runtime_context().gcs_address)
    return True


def _start(ray: Any) -> None:
    """Start a cluster on this machine. Raises MMBertError if it would listen on more than loopback."""
    from ray._private import ray_constants

    # So Ray starts on macOS and Windows. On Linux it listens on all interfaces otherwise, whatever address it is given.
    # The variable is for the processes that it starts; the constant was read from it when ray was imported.
    set_environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    ray_constants.ENABLE_RAY_CLUSTER = False
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **options)
    if (address := ray.nodes()[0]["NodeManagerAddress"]) != _LOOPBACK:
        ray.shutdown()
        raise MMBertError(
            f"ray {ray.__version__} would listen on {address}, not on {_LOOPBACK} alone: start a cluster yourself "
            "(`ray start`), and give --ray-address auto"
        )


def place(nodes: list[dict[str, Any]], cluster: Cluster, device: str) -> Placement:
    """Return the workers for the nodes of a cluster. Raises ConfigError for more than they have.

    nodes   as ``ray.nodes()`` returns them
    device  auto (GPUs if there are any), cpu or cuda
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: on Ray each worker gets a device of its own: auto, cpu or cuda")
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in alive)
    if device == "cuda" and not gpus:
        raise ConfigError("--device cuda: no machine of the Ray cluster has a GPU")
    most = max(int(node.get("CPU", 0)) for node in alive)
    if device != "cpu" and gpus:
        shares = [int(node["CPU"]) // int(node["GPU"]) for node in alive if node.get("GPU")]
        cpus = cluster.cpus_per_worker or max(1, min(CORES, *shares))
        return Placement(cluster.workers or gpus, cpus, 1)
    cpus = cluster.cpus_per_worker or max(1, min(CORES, most))
    if cpus > most:
        raise ConfigError(f"--cpus-per-worker {cpus}: the largest machine of the Ray cluster has {most}")
    if cluster.workers and cluster.cpus_per_worker is None:
        cpus = max(1, min(cpus, sum(int(node.get("CPU", 0)) for node in alive) // cluster.workers))
    return Placement(cluster.workers or sum(int(node.get("CPU", 0)) // cpus for node in alive), cpus, 0)
