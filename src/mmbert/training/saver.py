"""Writes checkpoints in a thread while training goes on: the loop waits for a copy in memory, not for the disk.

One at a time: the next save, the end of a phase and a stop wait for the one that is being written. What goes wrong in
the thread is raised where the loop asks next, on all ranks.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save

from mmbert.errors import MMBertError, TrainingError
from mmbert.files import write_json
from mmbert.model.config import config_to_hf
from mmbert.model.heads import MaskedLM
from mmbert.training.checkpoint import STATE, State, path_of, prune, tensors_of
from mmbert.training.distributed import is_lost, lost
from mmbert.training.optim import StableAdamW
from mmbert.training.phase_context import PhaseContext
from mmbert.training.storage import Writer, failure, quiet

log = logging.getLogger(__name__)

_LAST_WAIT = 60.0
"""Seconds that an error elsewhere leaves to a checkpoint that is being written."""


class Saver:
    """Of one phase. All ranks call the same methods at the same steps."""

    def __init__(self, ctx: PhaseContext) -> None:
        self._job = ctx
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._path = ctx.folder
        self._bytes = 0
        self._waited = 0.0
        self._scope = ExitStack()

    def save(self, state: State, model: MaskedLM, optimizer: StableAdamW, path: Path | None = None) -> None:
        """Begin to write ``<phase>/step-<number>`` (or ``path``); returns when the weights may change again."""
        began = time.perf_counter()
        self.wait()
        mesh = self._job.mesh
        tensors = tensors_of(model, optimizer)
        self._bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if not (mesh.sharded or mesh.main):
            tensors = {}  # whole tensors are written by the first rank, alone
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copy = stager.stage(tensors)
        self._path = path or path_of(self._job.folder, state)
        writer = Writer(self._path, lambda folder: self._write_rest(folder, state, model))
        self._thread = threading.Thread(target=self._write, args=(writer, stager, copy), name="saver", daemon=True)
        self._thread.start()
        self._waited += time.perf_counter() - began

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written; :meth:`wait` says why."""
        return self._error is not None

    def wait(self) -> None:
        """Until the checkpoint at hand is on disk. Raises TrainingError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._explain(error) from error

    def waited(self) -> float:
        """Seconds that saving held the loop up, since this was last asked."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def __enter__(self) -> Self:
        self._scope.enter_context(quiet())  # here, since the thread must not touch the process's filters
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._scope:
            if error is None:
                self.wait()
            elif self._thread is not None and not is_lost(error):  # the thread would wait for the lost ones too
                self._thread.join(_LAST_WAIT)

    def _write(self, writer: Writer, stager: DefaultStager, tensors: Any) -> None:
        """The thread."""
        began = time.perf_counter()
        mesh = self._job.mesh
        try:
            save(tensors, storage_writer=writer, process_group=mesh.host_group, no_dist=mesh.world == 1)
            if mesh.main:
                prune(self._job.folder, self._job.keep)
                log.debug("%s is on disk after %.2f s", self._path, time.perf_counter() - began)
        except BaseException as error:  # torch's CheckpointException is no Exception; handed to the loop
            if mesh.main:
                writer.discard()
            self._error = error
        finally:
            stager.close()

    def _write_rest(self, folder: Path, state: State, model: MaskedLM) -> None:
        """What a checkpoint holds beside its tensors."""
        write_json(folder / "config.json", config_to_hf(model.config, "ModernBertForMaskedLM", "float32"))
        self._job.tokenizer.save(folder, max_tokens=model.config.max_context)
        write_json(folder / STATE, state.to_json())

    def _explain(self, error: BaseException) -> BaseException:
        reason = failure(error)
        mesh = self._job.mesh
        if mesh.world > 1 and is_lost(reason):
            return lost(mesh.rank, mesh.world, reason)
        if not isinstance(reason, OSError | MMBertError):
            return reason  # our own mistake: with its traceback
        cause = reason.strerror if isinstance(reason, OSError) else reason
        free = shutil.disk_usage(self._job.folder).free
        return TrainingError(
            f"cannot save {self._path} ({cause}): it needs {self._bytes:,} bytes, "
            f"{free:,} are free; the checkpoint before it is whole: free some space, and run the same command again"
        )
