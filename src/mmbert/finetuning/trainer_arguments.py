"""What the trainers of transformers and of sentence-transformers get from a recipe: arguments and learning rates.

One builder for all tasks: sentence-transformers' arguments are subclasses of ``transformers.TrainingArguments``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmbert.errors import ConfigError
from mmbert.files import world_size
from mmbert.finetuning.finetune import CHECKPOINTS
from mmbert.finetuning.recipe import Training
from mmbert.training.distributed import pick_device
from mmbert.training.run_folder import choose_precision

log = logging.getLogger(__name__)

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "inverse_sqrt": "inverse_sqrt"}


def training_arguments(
    kind: type[Any], training: Training, folder: Path, width: int, *, metric: str | None, every: int = 1, **own: Any
) -> Any:
    """Return the arguments of a trainer.

    kind     ``TrainingArguments`` or a subclass; ``own``: options of one trainer, which win
    width    hidden size of the model, which decides ``precision: auto``
    metric   the name on dev that chooses the checkpoint; None: there is no dev
    every    steps between evaluations, each with a checkpoint
    Raises ConfigError for a batch that cannot be divided, for CUDA on a machine without, and for fp16 on a CPU.
    """
    processes, device = world_size(), pick_device(training.device, "training.device")
    share, rest = divmod(training.batch, processes)
    micro = min(training.micro_batch or share, share)
    if rest or share % micro:
        raise ConfigError(
            f"training.batch {training.batch} is not a multiple of {processes} processes times training.micro_batch "
            f"{micro}: change one of them"
        )
    precision = training.precision
    if precision == "auto":
        precision = choose_precision(torch.device(device), width)
    if precision == "fp16" and device == "cpu":
        raise ConfigError("training.precision fp16 is for GPUs without bf16: take auto, bf16 or fp32 on a CPU")
    dev = metric is not None
    options = {
        "output_dir": str(folder / CHECKPOINTS),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": max(micro, 32),  # without gradients there is room for more
        "gradient_accumulation_steps": share // micro,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "warmup_steps": min(training.warmup, 0.9999),  # a number below 1 is a share of the steps
        "lr_scheduler_type": SCHEDULES[training.schedule],
        "max_grad_norm": training.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",  # accelerate scales the loss and skips steps whose gradients overflow
        "use_cpu": device == "cpu",
        "seed": training.seed,
        "eval_strategy": "steps" if dev else "no",
        "eval_steps": every if dev else None,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": training.keep,
        "load_best_model_at_end": dev,
        "metric_for_best_model": metric,
        "greater_is_better": True if dev else None,
        "logging_steps": training.log_every,
        "report_to": "none",  # TensorBoard is added by hand, with its own folder
        "disable_tqdm": True,  # the trainer's bars write to stdout
        "dataloader_pin_memory": device == "cuda",
    }
    arguments = kind(**{**options, **own})
    if arguments.n_gpu > 1:
        log.info("one of %d devices is used: start with torchrun --nproc-per-node to use all", arguments.n_gpu)
        arguments._n_gpu = 1  # else the trainer wraps the model in torch's DataParallel, which cuts packed batches
    return arguments


def learning_rates(training: Training, layers: int, head: str = "") -> dict[str, float]:
    """Return pattern of names -> learning rate, for the parameters whose rate is not ``training.learning_rate``.

    layers  of the encoder; ``head``: the pattern of the head's names, if ``head_learning_rate`` applies to one
    Layer i of n has the rate ``learning_rate * layer_decay ** (n - i)``, the embeddings one step less than layer 0.
    """
    found = {}
    if training.layer_decay < 1:
        steps = {rf"\.layers\.{index}\.": layers - index for index in range(layers)} | {r"\.embeddings\.": layers + 1}
        found = {name: training.learning_rate * training.layer_decay**below for name, below in steps.items()}
    if training.head_learning_rate is not None and head:
        found[head] = training.head_learning_rate
    return found


def parameter_groups(model: nn.Module, training: Training, layers: int) -> list[dict[str, Any]]:
    """Return the groups of AdamW for a task model of ours: its learning rates, and weight decay for matrices only.

    The final norm has the rate of the last layer.
    """
    rates = learning_rates(training, layers, r"^(head|classifier)\.")
    rates |= {r"\.final_norm\.": training.learning_rate * training.layer_decay}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((rate for pattern, rate in rates.items() if re.search(pattern, name)), training.learning_rate)
        decay = training.weight_decay if parameter.dim() > 1 else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())
