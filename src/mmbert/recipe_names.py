"""The recipes that the package brings, by name: ``nano`` for ``mmbert run``, ``ner`` for ``mmbert finetune``.

    find_recipe("nano", "run")          # the file of that name in the working folder, else the package's
    beside_or_shipped(folder, "languages/60.txt")   # what a recipe names, beside it or else beside the package's

A copy of a recipe (``mmbert recipes mmbert-base > my.yaml``) thus reads the same lists, tables and recipes as the
original.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from mmbert.errors import ConfigError

COMMANDS = {"run": "", "finetune": "finetune", "evaluate": "evaluate"}
"""Command that reads a recipe -> the folder in ``RECIPES`` of its recipes."""

RECIPES = Path(str(files("mmbert"))) / "recipes"
"""A folder of files: a package with compiled kernels is never imported from a zip archive."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of the package."""

    name: str
    command: str
    """``run``, ``finetune`` or ``evaluate``."""
    path: Path

    @property
    def summary(self) -> str:
        """The first line of the file, which is a comment."""
        return self.path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


@cache
def shipped() -> dict[str, ShippedRecipe]:
    """Return the recipes of the package by name, those of ``mmbert run`` first."""
    found = [
        ShippedRecipe(path.stem, command, path)
        for command, folder in COMMANDS.items()
        for path in sorted((RECIPES / folder).glob("*.yaml"), key=lambda path: path.stem)
    ]
    return {recipe.name: recipe for recipe in found}


def shipped_recipe(name: str) -> ShippedRecipe:
    """Return a recipe of the package. Raises ConfigError, with similar names, if there is none of this name."""
    if name not in shipped():
        near = _similar(Path(name).stem, shipped())
        fix = f"did you mean {' or '.join(near)}?" if near else "`mmbert recipes` lists all"
        raise ConfigError(f"the package has no recipe {name}: {fix}")
    return shipped()[name]


def find_recipe(given: str | Path, command: str | None = None) -> Path:
    """Return the file of a recipe: the one at this path, else the package's of this name.

    command  which command reads it; None: any
    Raises ConfigError, with what else may be meant, if there is neither or if the recipe is for another command.
    """
    path = Path(given)
    if path.is_file():
        return path
    recipe = shipped().get(str(given))
    if recipe is None:
        raise ConfigError(f"no such recipe: {given}{_elsewhere(path)}")
    if command not in (None, recipe.command):
        raise ConfigError(
            f"{given} is a recipe for `mmbert {recipe.command}`, not for `mmbert {command}`: `mmbert recipes` lists all"
        )
    return recipe.path


def is_recipe(given: str) -> bool:
    """Return whether what may also be a text file is a recipe: YAML, or a name of the package's."""
    path = Path(given)
    return path.suffix in (".yaml", ".yml") or (given in shipped() and not path.exists())


def beside_or_shipped(folder: Path, reference: str) -> Path:
    """Return what a recipe in ``folder`` names: a path relative to it, else the package's file or recipe of this name.

    If nothing is there, the path relative to ``folder`` is returned.
    """
    beside = folder / reference
    if beside.is_file():
        return beside
    if reference in shipped():
        return shipped()[reference].path
    packaged = RECIPES / reference
    return packaged if packaged.is_file() else beside


def _elsewhere(path: Path) -> str:
    """Return what may be meant by a path: a recipe with a similar name, in its folder or in the package."""
    if path.is_dir():
        return f": that is a folder, name one of {', '.join(_recipes(path)) or 'its files'}"
    beside = [str(path.parent / name) for name in _similar(path.name, _recipes(path.parent))]
    near = [*beside, *_similar(path.stem, shipped())]
    if near:
        return f": did you mean {' or '.join(near[:3])}?"
    there = ", ".join(_recipes(path.parent))
    return (f": {path.parent} holds {there};" if there else ":") + " `mmbert recipes` lists those of the package"


def _similar(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=2, cutoff=0.6)


def _recipes(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.yaml")) if folder.is_dir() else []
