"""What a teacher's ``config.json`` says: its labels, which become the student's, and its task. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError, DataError, WeightsError
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_teacher import Teacher
from mmbert.hub import HubFailed, hub_file
from mmbert.io.row_errors import Row
from mmbert.model.folder import LISTING, is_adapter, read_config, read_labels, read_modules, read_object

HEADS = {
    "classify": "ForSequenceClassification",
    "tag": "ForTokenClassification",
    "rerank": "ForSequenceClassification",
}
"""Task -> how the class of transformers ends that a teacher is saved as."""

_PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher, as far as its files tell without its weights.

    name    as the recipe names it
    place   where its config.json is: the folder, or that of its first module (of sentence-transformers)
    labels  names of its classes, in the order of its logits
    """

    name: str
    folder: Path
    place: Path
    labels: tuple[str, ...]

    def check_label(self, row: Row, name: str, label: str) -> None:
        """Raise DataError for a gold label that the teacher does not have."""
        if label not in self.labels:
            raise DataError(
                f"{row['place']}: {name} {label!r} is none of the labels of the teacher {self.name} "
                f"({_listed(self.labels)}), which the student takes over: rename it, or remove the row"
            )


def task_of(name: str) -> tuple[str, str | None]:
    """Return the task that a teacher of any architecture was tuned on: classify, tag, rerank, or embed without a head.

    Beside it stands ``classify.problem``, where its config names one; one score alone is a regression if the config
    says so, and else a reranker's. Raises WeightsError for a folder or hub name without a config.
    """
    folder = Path(name)
    if (folder / LISTING).is_file():
        return "embed", None
    try:
        path = folder / "config.json" if folder.is_dir() else hub_file(name, "config.json")
    except HubFailed as error:
        raise WeightsError(f"no folder {name} here, and the hub did not give its config.json: {error}") from error
    values = read_object(path)
    head = next((str(each) for each in values.get("architectures") or []), "")
    if head.endswith(HEADS["tag"]):
        return "tag", None
    if not head.endswith(HEADS["classify"]):
        return "embed", None
    problem = _PROBLEMS.get(str(values.get("problem_type")))
    # cross encoders of sentence-transformers have a key of that name
    if len(values.get("id2label") or {"0": "", "1": ""}) == 1 and (
        problem != "regression" or "sentence_transformers" in values
    ):
        return "rerank", None
    return "classify", problem


def is_near(teacher: Teacher) -> bool:
    """Return whether a teacher is a folder on this machine."""
    return Path(teacher.model).is_dir()


def read_teacher(recipe: FinetuneRecipe) -> TeacherConfig:
    """Return the teacher of a recipe, with the labels that its student gets.

    Raises ConfigError for a teacher of another task or problem, or with other labels than the recipe's, and
    WeightsError for a folder that is no model.
    """
    stated = recipe.teacher
    assert stated is not None, "the recipe has a teacher"
    folder = _folder(stated)
    place, values = _config(folder)
    kind = str((values.get("architectures") or ["model without a head"])[0])
    if not kind.endswith(HEADS[recipe.task]):
        fitting = [task for task in ("classify", "tag") if kind.endswith(HEADS[task])]
        hint = f"set task={fitting[0]}" if fitting else "give a tuned model"
        raise ConfigError(
            f"teacher.model {stated.model} is a {kind}, and {recipe.task} learns from a ...{HEADS[recipe.task]}: {hint}"
        )
    labels = tuple(read_labels(values, str(place / "config.json")).values())
    if recipe.task == "classify":
        _check_problem(recipe, values, len(labels))
    if recipe.task == "rerank" and len(labels) != 1:
        raise ConfigError(f"teacher.model {stated.model} has {len(labels)} labels, and rerank learns one score: "
                          "set task=classify")  # fmt: skip
    if recipe.task != "rerank":
        labels = _same_labels(stated.model, labels, recipe.options.labels, recipe.task)
    if stated.outside is not None and stated.outside not in labels:
        raise ConfigError(f"teacher.outside {stated.outside!r} is none of the teacher's labels {_listed(labels)}")
    return TeacherConfig(stated.model, folder, place, labels)


def _folder(stated: Teacher) -> Path:
    if is_near(stated):
        return Path(stated.model)
    from mmbert.model.weights import model_folder  # it imports torch

    return model_folder(stated.model, revision=stated.revision)


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return where the config.json is, and its values; of an adapter those of base and adapter together."""
    if is_adapter(folder):
        from mmbert.model.adapter import read_adapter  # it imports torch

        adapter = read_adapter(folder)
        return folder, adapter.config(read_config(adapter.base_folder()))
    modules = read_modules(folder)
    place = folder if (folder / "config.json").is_file() or not modules else folder / modules[0][1]
    return place, read_config(place)


def _check_problem(recipe: FinetuneRecipe, values: dict[str, Any], labels: int) -> None:
    """Raise ConfigError unless the teacher answers what ``classify.problem`` asks."""
    wanted, named = recipe.classify.problem, _PROBLEMS.get(str(values.get("problem_type")))
    fits = named in (None, wanted) and (labels == 1 if wanted == "regression" else labels > 1 or named == wanted)
    if not fits:
        own = named or ("regression" if labels == 1 else "single_label")
        assert recipe.teacher is not None
        raise ConfigError(
            f"the teacher {recipe.teacher.model} is {own} with {labels} labels, classify.problem is {wanted}: "
            f"set classify.problem={own}"
        )


def _same_labels(model: str, own: tuple[str, ...], stated: Sequence[str], task: str) -> tuple[str, ...]:
    """Return the student's labels: the teacher's, or, where its are numbers only, those that the recipe states."""
    unnamed = own == tuple(f"LABEL_{number}" for number in range(len(own)))
    if not stated or tuple(stated) == own or (unnamed and len(stated) == len(own)):
        return tuple(stated) or own
    raise ConfigError(
        f"{task}.labels is {_listed(stated)}, the labels of the teacher {model} are {_listed(own)}, in this order: "
        f"leave {task}.labels out"
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
