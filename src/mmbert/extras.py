"""Which extra of the package brings which distribution, from the metadata of what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MODULES = {
    "fasttext": "fasttext-numpy2-wheel",
    "opensearchpy": "opensearch-py",
    "opentelemetry": "opentelemetry-sdk",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
}
"""Modules whose distribution has another name."""

FOR_DEVELOPERS = ("dev", "clients")


def extras() -> dict[str, tuple[Requirement, ...]]:
    """Return the requirements of every extra; without metadata (the source alone on the path) there is none."""
    try:
        return _stated()
    except PackageNotFoundError:
        return {}


@cache
def _stated() -> dict[str, tuple[Requirement, ...]]:
    from packaging.requirements import Requirement

    found = metadata("mmbert")
    stated = [Requirement(line) for line in found.get_all("Requires-Dist") or ()]
    return {extra: tuple(_of(stated, extra)) for extra in found.get_all("Provides-Extra") or ()}


def _of(stated: list[Requirement], extra: str) -> Iterator[Requirement]:
    for requirement in stated:
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement


def distribution(module: str) -> str:
    """Return the name under which pip knows a module: ``sklearn.metrics`` -> scikit-learn."""
    name = module.partition(".")[0]
    return MODULES.get(name, _canonical(name))


def extra_of(module: str, preferred: str = "") -> str | None:
    """Return the extra that brings a module or distribution: ``preferred`` if it does, else the smallest."""
    wanted = distribution(module)
    bringing = [
        (extra != preferred, extra in FOR_DEVELOPERS, len(requirements), extra)
        for extra, requirements in extras().items()
        if wanted in {_canonical(requirement.name) for requirement in requirements}
    ]
    return min(bringing)[-1] if bringing else None


def missing(extra: str) -> list[str]:
    """Return what of an extra is not installed, or too old."""
    return [found for requirement in extras()[extra] if (found := _lack(requirement))]


def _lack(requirement: Requirement) -> str:
    try:
        there = version(requirement.name)
    except PackageNotFoundError:
        return requirement.name
    fits = requirement.specifier.contains(there, prereleases=True)
    return "" if fits else f"{requirement.name}{requirement.specifier} ({there} is there)"


def _canonical(name: str) -> str:
    """Return a name as PyPI compares them: ``ir_measures`` is ir-measures."""
    return name.lower().replace("_", "-").replace(".", "-")
