"""datatrove's executor on one machine, with short logs and one-line errors as everywhere in the package."""

from __future__ import annotations

from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from mmbert.errors import MMBertError


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]  # datatrove has no types
    """Writes the output of tasks to their logs and shows only errors."""

    def run(self) -> Any:
        """Run the tasks that are not complete. Raises MMBertError with the message of the first that fails."""
        logger.disable("datatrove")
        try:
            return super().run()
        finally:
            logger.enable("datatrove")

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.enable("datatrove")
        try:
            return super()._run_for_rank(rank, local_rank=1, node_rank=node_rank)  # only rank 0 logs
        except MMBertError as error:
            # Some errors of the package take other arguments than their message, and would not come through a pipe.
            raise MMBertError(str(error)) from error
        finally:
            logger.disable("datatrove")
