"""Curves of a run in an experiment tracker, Weights & Biases or trackio, beside TensorBoard's files.

A line of the recipe asks for it: ``tracker: wandb``, or ``tracker: trackio:my-project``. Both trackers are optional and
have one interface: ``init``, and a run with ``log`` and ``finish``. Keys and addresses are their own business
(``wandb login``, ``WANDB_MODE``, ``TRACKIO_SPACE_ID``) and belong in no recipe.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmbert.errors import MMBertError, first_line, import_extra
from mmbert.files import read_json, write_json

TRACKER = r"^(wandb|trackio)(:[A-Za-z0-9][A-Za-z0-9._-]*)?$"
"""``wandb`` or ``trackio``, and the project if that is not ``mmbert``."""

FILE = "tracker.json"
"""In the run's folder: the tracker's id of the run, so that a run which resumes goes on with its curves."""


class Tracker:
    """A run in a tracker. Of several processes only the main one opens it."""

    def __init__(self, wanted: str, folder: Path, name: str, *, group: str, config: Mapping[str, Any]) -> None:
        """Open the run of a folder, or go on with it.

        wanted  as ``TRACKER`` has it
        group   runs that belong together, such as the phases of one recipe
        Raises MissingExtra, and MMBertError if the tracker refuses, such as without a login.
        """
        kind, _, project = wanted.partition(":")
        module = import_extra(kind, kind)
        ids: dict[str, str] = read_json(folder / FILE) if (folder / FILE).is_file() else {}
        if wanted not in ids:
            # Random, since a run of the same name may be begun anew, here or by another user of the project.
            ids[wanted] = f"{name}-{secrets.token_hex(4)}"
            write_json(folder / FILE, ids)
        # trackio resumes a run by its name, wandb by its id; the folder is where wandb keeps its own files.
        own = {"name": ids[wanted]} if kind == "trackio" else {"name": name, "id": ids[wanted], "dir": str(folder)}
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                self._run = module.init(
                    project=project or "mmbert", group=group, config=dict(config), resume="allow", **own
                )
        except Exception as error:  # of the trackers' own kinds, of their clients and of the network
            raise MMBertError(f"{kind} cannot open a run: {first_line(error)}") from error

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Send the numbers among the values of a step."""
        self._run.log({key: value for key, value in values.items() if isinstance(value, int | float)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()
