"""Our task models as ``transformers`` trains them: a thin PreTrainedModel around packed batches.

The trainer sees a model with a config, a ``forward`` that returns a loss, and ``save_pretrained``. It consists of the
encoder of this package and a head of ``mmbert.model.tasks``, with the parameter names of Hugging Face's classes, so
that saved folders load there. A batch:

    lengths    (S,)    of each text, or (E, C) of each choice of each example, 0 where an example has fewer; it comes
                       first, since the trainer takes the first tensor's rows for the number of examples
    input_ids  (T,)    texts end to end, never padded
    labels             as the task's loss wants them
    teacher            logits of a teacher, for a loss that takes them

Letters: S texts, T tokens, E examples, C choices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ModernBertConfig, PreTrainedModel

from mmbert.finetuning.adapters import merged_state, save_trained
from mmbert.finetuning.init_model import Start
from mmbert.model.config import config_to_hf
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import TaskHead, TaskModel, pool_texts
from mmbert.model.weights import fill
from mmbert.packed import Packed

Loss = Callable[..., Tensor]
"""(logits, packed, labels, items in the whole step or None), and a teacher's logits where the batch has them -> the sum
over labelled items, divided by the items."""

Gather = Callable[[Tensor, Packed, Tensor], Tensor]
"""(logits, packed, lengths) -> one row an example, which the trainer can put under one another."""


class PackedModel(PreTrainedModel):  # type: ignore[misc]
    """A task model of ours in the trainer's hands.

    start    the task model, whose parts become this module's, and what is saved with it
    loss     of the task; ``gather``: of the task
    choices  the loss is of the gathered rows (E, C), not of each text by itself
    """

    config_class = ModernBertConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True

    def __init__(
        self, start: Start, loss: Loss, gather: Gather, *, problem_type: str | None = None, choices: bool = False
    ) -> None:
        task = start.task
        super().__init__(ModernBertConfig(**config_to_hf(task.config, task.architecture)))
        self.model, self.head, self.classifier = task.model, task.head, task.classifier
        self.pooling, self.dropout = task.pooling, task.dropout
        self._kind, self._loss, self._gather = type(task), loss, gather
        self.names, self._tokenizer = start.names, start.tokenizer
        self._problem, self._choices = problem_type, choices

    def forward(
        self,
        lengths: Tensor,
        input_ids: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        teacher: Tensor | None = None,
        **more: Any,
    ) -> dict[str, Tensor]:
        """Return ``loss``, if there are labels, and in evaluation ``logits``, a row an example."""
        packed = as_packed(lengths, input_ids)
        x = self.model(packed)
        x = self.head(pool_texts(x, packed, self.pooling) if self.pooling else x)
        logits = self.classifier(F.dropout(x, self.dropout, self.training) if self.dropout else x).float()
        rows = self._gather(logits, packed, lengths) if self._choices or not self.training else logits
        out = {}
        if labels is not None:
            taught = () if teacher is None else (teacher,)
            out["loss"] = self._loss(rows if self._choices else logits, packed, labels, num_items_in_batch, *taught)
        if not self.training:
            out["logits"] = rows
        return out

    def gradient_checkpointing_enable(self, *options: Any, **more: Any) -> None:
        """Use the encoder's own."""
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.model.gradient_checkpointing = False

    def save_pretrained(self, save_directory: Any, *ignored: Any, is_main_process: bool = True, **more: Any) -> None:
        """Write a folder that ``transformers`` and this package load: adapters merged, tokenizer included."""
        if not is_main_process:
            return
        folder = Path(save_directory)
        merged = merged_state(self)
        if merged is None:
            self._task().save(folder, self.names, problem_type=self._problem)
        else:
            with torch.device("meta"):
                task = copy_shape(self._task())
            fill(task, merged, str(folder))
            task.save(folder, self.names, problem_type=self._problem)
            save_trained(self, folder)
        self._tokenizer.save(folder, max_tokens=self.model.config.max_context)

    def _task(self) -> TaskModel:
        """Return the task model again, made of this module's own parts."""
        with torch.device("meta"):
            head = TaskHead(self.model.config, self.classifier.out_features)
        head.head, head.classifier = self.head, self.classifier
        task = self._kind.around(self.model, head, self.pooling)
        task.dropout = self.dropout
        return task


def as_packed(lengths: Tensor, input_ids: Tensor) -> Packed:
    """Return the batch that the encoder takes. Lengths stay on the host, where attention plans with them."""
    sizes = [length for length in lengths.flatten().tolist() if length]
    offsets = torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32)).to(input_ids.device)
    packed = Packed(input_ids, offsets, max(sizes))
    packed.__dict__["lengths"] = sizes  # fills the cached property
    return packed


def copy_shape(task: TaskModel) -> TaskModel:
    """Return a model of the same shape without adapters and without weights; call it under the meta device."""
    return type(task)(Encoder(task.config), task.labels, pooling=task.pooling, dropout=task.dropout)
