"""Our task models as ``transformers`` trains them: a thin PreTrainedModel around packed batches.

The trainer sees a model with a config, ``forward`` that returns a loss, and ``save_pretrained``. Inside is the encoder
of this package and a head of ``mmbert.model.tasks``, under the parameter names that Hugging Face's classes have, so
that what is saved loads there. A batch:

    lengths    (S,)    of each text, or (E, C) of each choice of each example, 0 where an example has fewer; it comes
                       first, since the trainer takes the first tensor's rows for the number of examples
    input_ids  (T,)    texts end to end, never padded
    labels             as the task's loss wants them

Letters: S texts, T tokens, E examples, C choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ModernBertConfig, PreTrainedModel

from mmbert.model.config import config_to_hf
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import TaskHead, TaskModel, pool_texts
from mmbert.model.weights import fill, save_state
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer

Loss = Callable[[Tensor, Packed, Tensor, "Tensor | int | None"], Tensor]
"""(logits, packed, labels, items in the whole step or None) -> the sum over labelled items, divided by the items."""

Gather = Callable[[Tensor, Packed, Tensor], Tensor]
"""(logits, packed, lengths) -> one row an example, which the trainer can put under one another."""

ADAPTERS = "adapters.safetensors"
"""Beside the merged weights of a checkpoint: what LoRA and the head were, so that training can go on."""


class PackedModel(PreTrainedModel):  # type: ignore[misc]
    """A task model of ours in the trainer's hands.

    task       what is trained; its parts become this module's
    loss       of the task
    gather     of the task
    names      of its classes, for the saved config
    tokenizer  saved beside the weights
    choices    the loss is of the gathered rows (E, C), not of each text by itself
    """

    config_class = ModernBertConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True

    def __init__(
        self,
        task: TaskModel,
        loss: Loss,
        gather: Gather,
        names: Sequence[str],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        problem_type: str | None = None,
        choices: bool = False,
    ) -> None:
        super().__init__(ModernBertConfig(**config_to_hf(task.config, task.architecture)))
        self.model, self.head, self.classifier = task.model, task.head, task.classifier
        self.pooling, self.dropout = task.pooling, task.dropout
        self._kind, self._loss, self._gather = type(task), loss, gather
        self.names, self._tokenizer, self._max_tokens, self._problem = names, tokenizer, max_tokens, problem_type
        self._choices = choices

    def forward(
        self,
        lengths: Tensor,
        input_ids: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> dict[str, Tensor]:
        """``loss``, with labels, and in evaluation ``logits``, a row an example."""
        packed = as_packed(lengths, input_ids)
        x = self.model(packed)
        x = self.head(pool_texts(x, packed, self.pooling) if self.pooling else x)
        logits = self.classifier(F.dropout(x, self.dropout, self.training) if self.dropout else x).float()
        rows = self._gather(logits, packed, lengths) if self._choices or not self.training else logits
        out = {}
        if labels is not None:
            out["loss"] = self._loss(rows if self._choices else logits, packed, labels, num_items_in_batch)
        if not self.training:
            out["logits"] = rows
        return out

    def gradient_checkpointing_enable(self, *options: Any, **more: Any) -> None:
        """The encoder's own."""
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.model.gradient_checkpointing = False

    def save_pretrained(self, save_directory: Any, *ignored: Any, is_main_process: bool = True, **more: Any) -> None:
        """A folder as ``transformers`` and our facades load it, LoRA merged into the weights, tokenizer beside them."""
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
            save_state(trained_state(self), folder / ADAPTERS)
        self._tokenizer.save(folder, max_tokens=self._max_tokens)

    def _task(self) -> TaskModel:
        """The task model again, of this module's own parts."""
        with torch.device("meta"):
            head = TaskHead(self.model.config, self.classifier.out_features)
        head.head, head.classifier = self.head, self.classifier
        task = self._kind.around(self.model, head, self.pooling)
        task.dropout = self.dropout
        return task


def as_packed(lengths: Tensor, input_ids: Tensor) -> Packed:
    """The batch as the encoder takes it. The lengths are wanted on the host, where attention plans with them."""
    sizes = [length for length in lengths.flatten().tolist() if length]
    offsets = torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32)).to(input_ids.device)
    packed = Packed(input_ids, offsets, max(sizes))
    packed.__dict__["lengths"] = sizes
    return packed


def add_lora(model: PackedModel, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
    """Adapters of peft inside the encoder, in place. What trains is they and the head.

    In place, and not peft's own wrapper: the trainer then saves through ``save_pretrained`` above, whose folders need
    no peft to be loaded.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none")
    inject_adapter_in_model(config, model.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or not name.startswith("model."))


def has_lora(model: PackedModel) -> bool:
    """Whether :func:`add_lora` was here."""
    return any(name.endswith("lora_A") for name, _ in model.named_modules())


def trained_state(model: PackedModel) -> dict[str, Tensor]:
    """Weights that train."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def merged_state(model: PackedModel) -> dict[str, Tensor] | None:
    """Weights by their plain names, adapters added to the matrices they stand beside; None where there are none."""
    if not has_lora(model):
        return None
    from peft.tuners.lora import LoraLayer

    deltas = {
        name: module.get_delta_weight("default")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    merged = {}
    for name, value in model.state_dict().items():
        if "lora_" in name:
            continue
        owner, base, leaf = name.partition(".base_layer.")
        merged[f"{owner}.{leaf}" if base else name] = value + deltas[owner] if base and leaf == "weight" else value
    return merged


def copy_shape(task: TaskModel) -> TaskModel:
    """A model of the same shape without adapters, its weights not there yet; call it under the meta device."""
    return type(task)(Encoder(task.config), task.labels, pooling=task.pooling, dropout=task.dropout)
