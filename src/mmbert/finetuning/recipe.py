"""Every option of a fine-tuning run, on one page (those about examples in ``recipe_data``, about sentences next to it).

    recipe = FinetuneRecipe.load("ner", ["model=models/nano", "data.path=data/masakhaner"])

A YAML file is read as ``mmbert.recipe`` reads its own: ``extends``, overrides, an unknown key is an error. Defaults are
the published ones and depend on the task (``PUBLISHED``): mmBERT (arXiv 2509.06888, section 4: batch 32, warm-up 0.06,
learning rates of 2e-5 to 8e-5, epochs of 1 to 10 by task) over those of the code its evaluation stands on
(izhx/nlu-evals: lengths, weight decay). Paths are relative to the working directory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from mmbert.finetuning.recipe_data import Data, Sampling
from mmbert.finetuning.recipe_distil import Distil, Student
from mmbert.finetuning.recipe_heads import AnswerOptions, Choose, Classify, Tag
from mmbert.finetuning.recipe_sentence import Embed, LateInteraction, Rerank, Sparse
from mmbert.finetuning.recipe_teacher import TAUGHT, UNREAD_OPTIONS, Teacher
from mmbert.finetuning.recipe_trim import Trim
from mmbert.recipe_file import Spec, SpecFile, assign, read_recipe
from mmbert.recipe_names import find_recipe
from mmbert.recipe_text import Share
from mmbert.trackers import TRACKER

log = logging.getLogger(__name__)

Kind = Literal["classify", "tag", "answer", "choose", "embed", "rerank", "sparse", "late_interaction", "distil"]

PUBLISHED: dict[str, dict[str, Any]] = {
    "classify": {"learning_rate": 2e-5, "epochs": 3, "max_tokens": 128},
    "tag": {"learning_rate": 2e-5, "epochs": 10, "max_tokens": 128},
    "answer": {"learning_rate": 3e-5, "epochs": 3, "max_tokens": 384, "weight_decay": 1e-4},
    "choose": {"learning_rate": 2e-5, "epochs": 5, "max_tokens": 128},
    "embed": {"learning_rate": 1e-4, "epochs": 1, "batch": 1024, "warmup": 0.05, "max_tokens": 512},
    "rerank": {"learning_rate": 2e-5, "epochs": 1, "batch": 64, "warmup": 0.1, "max_tokens": 512},
    "sparse": {"learning_rate": 2e-5, "epochs": 1, "batch": 16, "warmup": 0.1, "max_tokens": 512},
    "late_interaction": {"learning_rate": 8e-5, "epochs": 1, "batch": 16, "warmup": 0.05, "max_tokens": 512},
    "distil": {"optimizer": "muon", "learning_rate": 2e-3, "epochs": 3, "batch": 64, "warmup": 0.05, "eval_every": 0.5,
               "max_tokens": 512},
}  # fmt: skip
"""Defaults of ``training`` by task. GLUE and XTREME: the paper's protocol and nlu-evals (its GLUE lengths and epochs,
XTREME's for tags, answers and choices); the sentence tasks: Ettin's ``train_st.py`` and the mmBERT blog's scripts."""

_TRAINED_STUDENT = {"optimizer": "adamw", "learning_rate": 1e-4}
"""Defaults of ``distil`` where the student is an mmBERT, or layers of one, and not fresh."""

ADAPTED = ("classify", "tag", "answer", "choose", "embed", "rerank")
"""Tasks whose ``final`` may be an adapter of peft (``training.lora.merge: false``)."""

_UNREAD = (
    ("training", "dropout", ("embed", "sparse", "late_interaction", "distil"), "it has no classifier"),
    ("training", "head_learning_rate", ("embed", "sparse", "distil"), "it has no new head"),
    ("data", "no_label", ("answer", "sparse", "late_interaction", "distil"), "its examples have no labels"),
    *UNREAD_OPTIONS,
)
"""(block, option, tasks that do not read it, why): set for one of these tasks, the option is an error."""


class Lora(Spec):
    """Low-rank adapters (arXiv 2106.09685) by peft."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    """The adapter is scaled by alpha / rank."""
    dropout: Share = 0.0
    """Dropout of the adapter's input, in training."""
    targets: tuple[str, ...] = ("Wqkv", "Wo", "Wi")
    """Ends of the names of linear layers that get one. The last ones of attention and MLP are both ``Wo``."""
    merge: bool = True
    """``final`` is a whole model, adapters merged into its weights; false: an adapter of peft, for ``model``."""


class Training(Spec):
    """How the trainer trains."""

    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps; null: all epochs."""
    batch: int = Field(32, ge=1)
    """Examples per step, over all processes (the paper: 32)."""
    micro_batch: int | None = Field(None, ge=1)
    """Examples per forward pass of one process; null: all of its share. A batch is made of several."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: matrices of the layers by Muon and the rest by AdamW (``mmbert.finetuning.muon``), with one learning rate.
    For layers that are learned from nothing: a fresh student needs far fewer tokens with it."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak. Swept over 2e-5 to 8e-5 in the paper; most models are best at 2e-5 to 3e-5."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the head; null: ``learning_rate``."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of matrices, by AdamW (nlu-evals: 0 for GLUE, 1e-4 for questions; the guidance: 0.01)."""
    warmup: Share = 0.06
    """Part of the steps in which the learning rate rises (the paper: 0.06; the guidance: 0.1)."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt"] = "linear"
    """How it falls afterwards, to zero."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer relative to the one above it (ULMFiT, ELECTRA; 1: all alike)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm (the trainer's default)."""
    dropout: Share = 0.1
    """Dropout before the classifier (mmBERT's README)."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights stay fp32. auto: bf16 where the device is faster in it, fp16 (with a scaled
    loss) on GPUs without bf16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_tokens: int = Field(128, ge=8)
    """Longest sequence; longer texts are truncated (questions: read in windows), and the run says how many."""
    eval_every: float = Field(1.0, gt=0)
    """Epochs between evaluations on dev, with a checkpoint each."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better one; null: all epochs."""
    metric: str = ""
    """The metric on dev that chooses the checkpoint; empty: the task's own."""
    keep: int = Field(1, ge=1)
    """Checkpoints kept beside the best one."""
    seed: int = Field(42, ge=0)
    """Seed of the head, the order and dropout (the trainer's default; the paper states none)."""
    log_every: int = Field(10, ge=1)
    """Steps between log lines (TensorBoard, if it is installed, and the history)."""
    tracker: str | None = Field(None, pattern=TRACKER)
    """``wandb`` or ``trackio``, with ``:PROJECT`` if that is not mmbert: the curves are sent there too."""
    push_to_hub: str | None = None
    """Name of a repository on the hub that the finished model is uploaded to."""
    lora: Lora | None = None
    """Train adapters and the head only; null: all weights."""


class Sweep(Spec):
    """Several runs, of which the best on dev is kept. ``mmbert finetune RECIPE --sweep``."""

    values: dict[str, tuple[Any, ...]] = Field({})
    """Dotted key -> its values: ``training.learning_rate: [2e-5, 3e-5, 5e-5, 8e-5]``. All combinations run."""
    seeds: tuple[int, ...] = ()
    """Each combination with each of these; empty: the recipe's."""

    @field_validator("values", mode="before")
    @classmethod
    def _flatten(cls, values: Any) -> Any:
        """Write maps inside maps (as an override makes them) as dotted keys."""

        def walk(inner: dict[str, Any], place: str) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for key, value in inner.items():
                found |= walk(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
            return found

        return walk(values, "") if isinstance(values, dict) else values


class FinetuneRecipe(SpecFile):
    """A whole fine-tuning run: task, model, examples, training."""

    command = "finetune"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Kind
    model: str
    """Folder or hub name of a pretrained or already fine-tuned model. The head is loaded too if it is of the same kind
    with the same labels."""
    model_revision: str | None = None
    """Commit of ``model`` to read, if that is a hub name."""
    student: Student | None = None
    """Make a smaller model of ``model`` first, and tune that; null: ``model`` itself."""
    trim: Trim | None = None
    """Keep only the tokens that the training texts need; null: all."""
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    classify: Classify = Classify()
    tag: Tag = Tag()
    answer: AnswerOptions = AnswerOptions()
    choose: Choose = Choose()
    embed: Embed = Embed()
    rerank: Rerank = Rerank()
    sparse: Sparse = Sparse()
    late_interaction: LateInteraction = LateInteraction()
    distil: Distil = Distil()
    teacher: Teacher | None = None
    """A tuned model to learn from, beside the labels or without any; null: none."""
    sweep: Sweep = Sweep()

    @property
    def writes_adapter(self) -> bool:
        """Return whether the run's ``final`` is an adapter of peft, not a whole model."""
        return self.training.lora is not None and not self.training.lora.merge

    @property
    def options(self) -> Any:
        """Options of the task: the block of its name."""
        return getattr(self, self.task)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a file, or a recipe of the package by its name, with ``key.path=value`` overrides.

        If an override names a local file (``data.train.path=train.csv``), it replaces the hub data set of the recipe,
        and the dev and test parts and tables of texts of that set are removed unless an override gives them; a log line
        says so. Without a dev a tenth of the training rows serves as one.
        Raises ConfigError with the dotted path of what is wrong.
        """
        file = find_recipe(path, cls.command)
        values = read_recipe(file, list(overrides))
        _leave_hub(values, [override.partition("=")[0] for override in overrides])
        return cls.of_values(values, file)

    def changed(self, changes: dict[str, Any]) -> FinetuneRecipe:
        """Return the recipe with other values at dotted keys. Raises ConfigError naming a key that is not there."""
        values = self.model_dump(mode="json")
        for key, value in changes.items():
            assign(values, key.split("."), value)
        return FinetuneRecipe.of_values(values, Path(self.name))

    @model_validator(mode="before")
    @classmethod
    def _of_the_task(cls, values: Any) -> Any:
        """Fill in what is published for the task, and refuse what the task does not read."""
        task = str(values.get("task")) if isinstance(values, dict) else ""
        if task not in PUBLISHED:
            return values
        other = next((each for each in PUBLISHED if each != task and values.get(each) is not None), None)
        if other is not None:
            raise ValueError(
                f"{other} is the block of another task, and task is {task}: remove it, or set task={other}"
            )
        for block, option, tasks, why in _UNREAD:
            inner = values.get(block)
            if task in tasks and isinstance(inner, dict) and inner.get(option) is not None:
                raise ValueError(f"{block}.{option} has no effect on {task} ({why}): remove it")
        stated, defaults = values.get("training") or {}, PUBLISHED[task]
        student = values.get("student")
        if task == "distil" and (student is None or (isinstance(student, dict) and student.get("keep") is not None)):
            defaults = {**defaults, **_TRAINED_STUDENT}
        if not isinstance(stated, dict):
            return values
        stated = {key: value for key, value in stated.items() if value is not None or key not in defaults}
        return {**values, "training": {**defaults, **stated}}

    @model_serializer(mode="wrap")
    def _only_what_is_read(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the blocks and options that the task does not read: a saved recipe must be readable again."""
        values: dict[str, Any] = handler(self)
        for block, option, tasks, _ in _UNREAD:
            if self.task in tasks:
                (values.get(block) or {}).pop(option, None)
        return {key: value for key, value in values.items() if key == self.task or key not in PUBLISHED}

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if self.trim is not None and self.task == "distil":
            raise ValueError("trim: a student of distil keeps the vocabulary; trim it afterwards: mmbert trim")
        if self.teacher is None:
            return self
        if self.task not in TAUGHT:
            raise ValueError(
                f"teacher: its logits are learnt in {', '.join(TAUGHT)}, and task is {self.task}: remove it"
            )
        if self.teacher.outside is not None and self.teacher.doc_stride is None:
            raise ValueError("teacher.outside is a label of windows: give teacher.doc_stride")
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.task == "distil" and (self.data.split("train") is not None or self.data.dev_share):
            raise ValueError("data.train and data.dev_share have no effect on distil: name its texts in distil.text")
        if self.data.split("train") is None and self.task != "distil":
            raise ValueError("data.train says neither path nor hub: give data.train.path=FILE")
        for role in ("train", "dev", "test"):
            spec = self.data.split(role)
            if spec is not None and spec.path is None and "{language}" in (spec.config or "") and not spec.languages:
                raise ValueError(f"data.{role}.config {spec.config} has a place for languages: give data.languages")
        if self.training.lora is not None and not self.training.lora.merge:
            if self.task not in ADAPTED:
                raise ValueError(
                    f"training.lora.merge: adapters are written by {', '.join(ADAPTED)}, not by {self.task}"
                )
            if self.student is not None or self.trim is not None:
                raise ValueError("training.lora.merge false makes an adapter of model: remove student and trim")
        if self.training.patience is not None and self.data.split("dev") is None and not self.data.dev_share:
            raise ValueError("training.patience needs examples to judge by: give data.dev or data.dev_share")
        return self


DEV_SHARE = 0.1
"""Part of the training rows that replaces a dev part of the hub, where a local file replaces its training part."""

_OF_HUB = ("hub", "config", "files", "revision", "licence", "checked", "split", "spelled", "language")
"""Options of a split that describe its data set on the hub."""


def _leave_hub(values: dict[str, Any], stated: list[str]) -> None:
    """Remove from a recipe's values what belongs to a data set of the hub that local files replace.

    stated  the dotted keys of overrides
    """

    def given(key: str) -> bool:
        return any(f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}.") for each in stated)

    data = values.get("data")
    if not isinstance(data, dict):
        return
    specs: dict[str, Any] = {role: data.get(role) for role in ("train", "dev", "test")}
    own = [role for role, spec in specs.items() if isinstance(spec, dict) and spec.get("path") and spec.get("hub")]
    for role in own:
        data[role] = {
            key: value for key, value in specs[role].items() if key not in _OF_HUB or given(f"data.{role}.{key}")
        }
    if "train" not in own:
        return
    task = str(values.get("task"))
    block = values.get(task)
    lookup = block.get("lookup") if isinstance(block, dict) else None
    places = [(data, role, f"data.{role}") for role in ("dev", "test")]
    places += [(lookup, role, f"{task}.lookup.{role}") for role in lookup] if isinstance(lookup, dict) else []
    left = []
    for inside, role, key in places:
        spec = inside.get(role)
        if isinstance(spec, dict) and spec.get("hub") and not spec.get("path") and not given(key):
            inside[role] = None
            left.append(key)
    if "data.dev" in left and not data.get("dev_share"):
        data["dev_share"] = DEV_SHARE
    if left:
        dev = f"; dev is {data['dev_share']:.4g} of the training rows (data.dev_share)" if "data.dev" in left else ""
        log.info("%s is read instead of the hub: without the recipe's %s, of the hub%s", data["train"]["path"],
                 " and ".join(left), dev)  # fmt: skip
