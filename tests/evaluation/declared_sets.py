"""The table of declared data sets in docs/guides/evaluate.md, out of the declarations.

python tests/evaluation/declared_sets.py      # writes it into the page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbert import recipe_names
from mmbert.evaluation.task import Task, task_names
from mmbert.finetuning.hub import SPLITS
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "evaluate.md"
RECIPES = recipe_names.RECIPES / "finetune"

BEGIN = "<!-- declared sets: tests/evaluation/declared_sets.py -->\n"
END = "<!-- end of declared sets -->\n"

HEAD = ("declared in", "data set", "configuration or files", "splits", "licence, as stated", "looked up")


def table() -> str:
    """Markdown: a row a declaration; commits in full, so that they can be looked up again."""
    rows = [HEAD, ("---",) * len(HEAD), *_tasks(), *_recipes()]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


def _tasks() -> Iterator[tuple[str, ...]]:
    for name in task_names():
        task = Task.load(name)
        source = task.source
        if source.hub is None and source.local is None:
            looked = "2026-11-29: names the benchmark; mteb pins its sets" if task.kind == "mteb" else "no data set"
            yield f"`{name}`", task.benchmark or "", "", "", task.licence, looked
            continue
        local = f"local files, `{source.local}/`" if source.local is not None else ""
        place = " or ".join(each for each in (_hub(source.hub, source.revision), local) if each)
        splits = source.splits if source.hub is not None else source.local_splits
        used = () if task.kind == "loss" else (splits.train if task.protocol.train else None, splits.test)
        parts = ", ".join(part for part in used if part)
        yield f"`{name}`", place, _code(source.files or source.config), parts, task.licence, source.checked


def _recipes() -> Iterator[tuple[str, ...]]:
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = FinetuneRecipe.load(path)
        roles = {role: spec for role in SPLITS if (spec := recipe.data.split(role)) is not None}
        train = roles.get("train")
        if train is None or train.hub is None:
            continue
        parts = ", ".join(dict.fromkeys(spec.split or SPLITS[role] for role, spec in roles.items()))
        yield f"`{path.stem}`", *_set(train), parts, train.licence or "", train.checked or ""


def _set(spec: DataSpec) -> tuple[str, str]:
    return _hub(spec.hub, spec.revision), _code(spec.files or spec.config)


def _hub(name: str | None, revision: str | None) -> str:
    return _code(name) + (f" at `{revision}`" if revision else "")


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def written() -> str:
    """The page with the table of today."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
