"""One phase of one run: what is trained, where, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbert.data.bad_shards import BadShards
from mmbert.data.steps import Steps
from mmbert.recipe import Phase, Recipe
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.trackers import Tracker
from mmbert.training.distributed import Mesh


@dataclass(frozen=True)
class PhaseContext:
    """One phase of one run, and where and how it runs."""

    recipe: Recipe
    name: str
    """Name of the phase."""
    folder: Path
    """Folder of the phase: checkpoints, metrics, final model."""
    shards: Path
    tokenizer: Tokenizer
    mesh: Mesh
    precision: str

    @property
    def phase(self) -> Phase:
        return self.recipe.phases[self.name]

    def steps(self) -> Steps:
        """Return what this rank trains on, from any cursor on."""
        # Read anew for each loader: a rollback or restart must see shards that were found damaged meanwhile.
        bad = BadShards(self.folder.parent)
        return Steps(self.recipe, self.name, self.shards, self.tokenizer, self.mesh, bad)

    def tracker(self) -> Tracker | None:
        """Open the run of this phase in the recipe's experiment tracker; None without one, and on other ranks."""
        wanted = self.recipe.runtime.tracker
        if wanted is None or not self.mesh.main:
            return None
        name, config = f"{self.recipe.name}-{self.name}", self.recipe.model_dump(mode="json")
        return Tracker(wanted, self.folder, name, group=self.recipe.name, config=config)

    @property
    def keep(self) -> int:
        """Checkpoints to keep: the newest and ``runtime.keep`` before it, more if they will be averaged."""
        merge = self.recipe.merge
        averaged = merge.checkpoints if merge and merge.method == "average" and self.name in merge.phases else 0
        # + 1: the last one becomes the phase's end and is not a checkpoint "before it".
        return max(self.recipe.runtime.keep + 1, averaged)
