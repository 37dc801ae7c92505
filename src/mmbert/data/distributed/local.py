"""datatrove's executor on one machine, with the house's manners: little talk, and errors in one line."""

from __future__ import annotations

from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from mmbert.errors import MMBertError


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]  # datatrove has no types
    """What the tasks say goes to their logs; only errors are shown."""

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
            return super()._run_for_rank(rank, local_rank=1, node_rank=node_rank)  # rank 0 alone talks
        except MMBertError as error:
            # Some errors of the package take other arguments than their message, and would not come through a pipe.
            raise MMBertError(str(error)) from error
        finally:
            logger.disable("datatrove")
