"""A task, as a declaration: which examples in which languages, how a model learns it, and how it is scored.

    task = Task.load("sib200")             # one that the package brings: evaluation/tasks/*.yaml
    task = Task.load("my/task.yaml")       # one of your own

A declaration says everything a figure depends on. Where it pins no commit of a hub data set (``revision: null``), the
newest is taken at the first run and kept: see ``sources``.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mmbert import languages
from mmbert.errors import ConfigError
from mmbert.finetuning.hub import CONVERTED
from mmbert.recipe_file import Spec, explain, read_recipe

Kind = Literal["classify", "tag", "answer", "choose", "bitext", "mteb", "loss", "efficiency"]

METRICS: dict[str, tuple[str, ...]] = {
    "classify": (
        "accuracy", "macro_f1", "weighted_f1", "binary_f1", "matthews", "pearson", "spearman", "micro_f1",
    ),
    "tag": ("entity_f1", "span_f1", "token_accuracy"),
    "answer": ("f1", "exact", "f1_squad", "exact_squad"),
    "choose": ("accuracy",),
    "bitext": ("accuracy", "accuracy_from_english", "accuracy_centred"),
    "mteb": ("main_score",),
    "loss": ("bits_per_byte",),
    "efficiency": ("tokens_per_second",),
}  # fmt: skip
"""What each kind can be scored by (``mmbert.metrics``)."""

TRAINED = ("classify", "tag", "answer", "choose")
"""Kinds that a model is fine-tuned for; the others take it as it is."""

LOWER_IS_BETTER = ("bits_per_byte",)

Columns = dict[str, str | tuple[str, ...]]


class Splits(Spec):
    """Names of the parts."""

    train: str | None = "train"
    test: str = "test"
    """The part that is scored: for GLUE the validation set, since the labels of its test sets are not public."""


class Source(Spec):
    """Where the examples are: on the hub, and in a local folder of the same schema."""

    hub: str | None = None
    """Data set on the Hugging Face hub. Its code is never run."""
    revision: str | None = None
    """Its commit, 40 hexadecimal digits; null: pinned at the first run, in ``pins.json`` of the results. The branch
    ``refs/convert/parquet``, the hub's own Parquet copy, is pinned in the same way."""
    config: str | None = None
    """Its configuration; ``{language}`` stands for the source's own code."""
    files: str | None = None
    """Its Parquet files, instead of a configuration: ``{language}/{split}/*.parquet``."""
    splits: Splits = Splits()
    columns: Columns = Field({})
    """Our field -> theirs, as in the data of a fine-tuning recipe."""
    local: str | None = None
    """Name of the folder in the local data: ``<local>/<language>/{train,dev,test}.jsonl.gz``, languages in our form."""
    local_columns: Columns = Field({})
    """The same of the local files."""
    local_splits: Splits = Splits()
    """Names of the local files: ``{train: dev}`` where nothing else is there to train on."""
    local_only: tuple[str, ...] = ()
    """Languages that the hub's data set lacks."""
    test_only: tuple[str, ...] = ()
    """Languages without a training split in the hub's data set."""
    checked: str = ""
    """When and where the data set's format, splits and licence were looked up, and what could not be."""

    @field_validator("revision")
    @classmethod
    def _is_commit(cls, value: str | None) -> str | None:
        if value not in (None, CONVERTED) and (len(value) != 40 or set(value) - set("0123456789abcdef")):
            raise ValueError("a revision is a commit of 40 hexadecimal digits: a branch moves; write null to pin later")
        return value


class Protocol(Spec):
    """How a model learns the task before it is scored."""

    start: str | None = None
    """Another task, whose fine-tuned model this one starts from (RTE from MNLI); null: the pretrained model."""
    train: bool = True
    """False: the start is scored as it is (XNLI: the model of MNLI, in other languages)."""
    train_languages: tuple[str, ...] = ("eng_Latn",)
    """Trained on these together, scored in all languages: zero-shot transfer."""
    per_language: bool = False
    """A model of its own for every language, trained on that language; ``train_languages`` says nothing then."""
    training: dict[str, Any] = Field({})
    """What differs from the published defaults of a fine-tuning recipe's ``training``."""
    options: dict[str, Any] = Field({})
    """The recipe's section of the kind: ``{problem: regression}``."""
    train_limit: int | None = Field(None, ge=1)
    """At most so many training rows a language, the first ones."""


class Task(Spec):
    """One task."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str
    kind: Kind
    about: str = ""
    source: Source = Source()
    languages: dict[str, str] = Field({})
    """Our code -> the source's. A list means that the codes are the same."""
    metric: str
    """The one that counts; the others of the kind are kept too."""
    positive: str | None = None
    """``binary_f1``: the label that is looked for."""
    normalisation: Literal["squad", "mlqa", "tiquad"] = "squad"
    """``answer``: what counts as the same answer (``mmbert.metrics.answers``). ``f1_squad`` and ``exact_squad`` stand
    beside those of another one than SQuAD's."""
    average: tuple[str, ...] = ()
    """Languages (of ``mteb``: types of tasks) that the task's mean is over, as its source defines; empty: all."""
    average_by: Literal["languages", "types"] = "languages"
    """``types``: the mean of the means of types of tasks, as MTEB's tables show."""
    protocol: Protocol = Protocol()
    limit: int | None = Field(None, ge=1)
    """At most so many rows of a language are scored, the first ones; null: all."""
    benchmark: str | None = None
    """``mteb``: the name of a benchmark of mteb's: ``MTEB(eng, v2)``."""
    subtasks: tuple[str, ...] = ()
    """``mteb``: only these of its tasks; empty: all."""
    licence: str
    """As the source states it."""
    citation: str
    """Whom to cite."""
    url: str = ""

    @classmethod
    def load(cls, name: str | Path) -> Task:
        """A task that the package brings, by name, or a file. Raises ConfigError naming the place and the fix."""
        text = str(name)
        if text.endswith((".yaml", ".yml")):
            return _read(Path(text))
        if text not in task_names():
            near = difflib.get_close_matches(text, task_names(), n=1, cutoff=0.5)
            fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(task_names())}"
            raise ConfigError(f"no task {text!r}: {fix} (your own: give the path of its .yaml)")
        return _packaged(text)

    @field_validator("languages", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return {code: code for code in value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.metric not in METRICS[self.kind]:
            raise ValueError(f"metric {self.metric} is none of {', '.join(METRICS[self.kind])}, which {self.kind} has")
        if self.metric == "binary_f1" and self.positive is None:
            raise ValueError("binary_f1 looks for one label: say which in positive")
        if self.kind == "mteb":
            if self.benchmark is None and not self.subtasks:
                raise ValueError("a task of kind mteb names a benchmark or subtasks of mteb's")
            return self
        if self.kind != "efficiency" and self.source.hub is None and self.source.local is None:
            raise ValueError("source says neither hub nor local: where are the examples?")
        if self.metric.endswith("_squad") and self.normalisation == "squad":
            raise ValueError(f"metric {self.metric} is for another normalisation: write {self.metric[:-6]}")
        if self.kind not in ("loss", "efficiency"):
            self._check_languages()
        return self

    def _check_languages(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty: list the codes, or map ours to the source's")
        for code in self.languages:
            try:
                canonical = languages.normalise(code)
            except ConfigError as error:
                raise ValueError(f"languages: {error}") from error
            if canonical != code:
                raise ValueError(
                    f"languages: {code} is written {canonical} here: write {canonical}: {self.languages[code]}"
                )
        missing = [code for code in self.average if code not in self.languages]
        if missing:
            raise ValueError(f"average names {missing[0]}, which is not in languages")
        if self.kind in TRAINED and self.protocol.train and not self.protocol.per_language:
            missing = [code for code in self.protocol.train_languages if code not in self.languages]
            if missing or not self.protocol.train_languages:
                named = missing[0] if missing else "no language"
                raise ValueError(f"protocol.train_languages names {named}: choose from languages")


def task_names() -> list[str]:
    """The tasks that the package brings."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


@cache
def _folder() -> Path:
    return Path(str(files("mmbert.evaluation"))) / "tasks"


@cache
def _packaged(name: str) -> Task:
    return _read(_folder() / f"{name}.yaml")


def _read(path: Path) -> Task:
    values = read_recipe(path, [])
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, Task, path)) from error
