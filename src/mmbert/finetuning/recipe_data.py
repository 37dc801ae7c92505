"""The options of a recipe about examples: where they are, what their columns are called, how languages mix."""

from __future__ import annotations

from pydantic import Field

from mmbert.recipe_file import Spec
from mmbert.recipe_text import Share


class DataSpec(Spec):
    """One split of a data set: files on this machine (``path``) or a data set of the hub (``hub``); a path wins."""

    path: str | None = None
    """A file, a glob, or a folder: ``<language>/<split>.jsonl.gz`` or ``<split>.jsonl``. JSON lines, a JSON list, CSV,
    TSV or Parquet, all but the last also as .gz, .zst, .xz or .bz2; with a teacher also .txt, a text in each line.
    Relative to the working directory."""
    hub: str | None = None
    """A data set on the Hugging Face hub: ``unimelb-nlp/wikiann``. Its code is never run."""
    config: str | None = None
    """``hub``: its configuration. ``{language}`` stands for each of ``languages``."""
    files: str | None = None
    """``hub``: Parquet files of the repository to read instead of a configuration, such as those of a branch that has
    none: ``revision: refs/convert/parquet`` with ``files: "{language}/{split}/*.parquet"``, the Parquet copy that the
    hub makes of data sets that exist as a script. ``{language}`` and ``{split}`` stand for each."""
    revision: str | None = None
    """``hub``: the commit, branch or tag to read. Without it the newest, and the run says which that was."""
    licence: str | None = None
    """``hub``: as the data set states it; a note, never read."""
    checked: str | None = None
    """``hub``: when and where the data set's format and licence were looked up; a note, never read."""
    split: str | None = None
    """Name of the split in a folder or on the hub; null: train, dev or test (validation on the hub)."""
    languages: tuple[str, ...] = ()
    """Only these, as the source spells them (``sw``, ``swh_Latn``); empty: all that a folder has."""
    spelled: dict[str, str] = Field({})
    """``hub``: what a configuration calls a language where it is no code: ``{arb_Arab: Arabic}``."""
    language: str | None = None
    """The language of all of it, where neither names nor a column tell."""
    language_column: str | None = None
    """The column that names each row's language."""
    columns: dict[str, str | tuple[str, ...]] = Field({})
    """Our field -> theirs: the name of a column (``sentence``, or ``answers.text`` inside a map), several columns that
    become a list (``[choice1, choice2]``), or a text with columns in braces
    (``"{premise} What was the {question}?"``). A field that is not named, or whose column is not there, is looked for
    under its own name."""
    limit: int | None = Field(None, ge=1)
    """Maximum of rows per language: the first ones, unless there is a ``shuffle_seed``."""
    shuffle_seed: int | None = Field(None, ge=0)
    """Put the rows of each language in a random order first, the same for the same seed, so that ``limit`` is a sample
    of all of them: numpy's ``default_rng(seed).permutation``, which is the order of ``train_test_split(seed=...)`` in
    ``datasets``. null: as they stand."""
    skip_bad_rows: bool = False
    """Pass over rows that cannot be read or lack a required field, instead of stopping at the first: they are counted,
    and the log says where the first is. Files that are cut short or corrupt are never passed over."""

    @property
    def named(self) -> bool:
        """Whether it says where the examples are."""
        return self.path is not None or self.hub is not None


class Data(Spec):
    """The splits. ``path``, ``languages`` and ``limit`` here hold for those that do not say otherwise."""

    path: str | None = None
    """A folder with all splits, ``<language>/<split>.jsonl.gz`` or ``<split>.jsonl``; wins over every ``hub``."""
    languages: tuple[str, ...] = ()
    """Languages of every split that names none."""
    columns: dict[str, str | tuple[str, ...]] = Field({})
    """Columns of every split; a split's own are added."""
    train: DataSpec = DataSpec()
    dev: DataSpec | None = None
    """Chooses the best checkpoint, for early stopping and sweeps too; null: a part of train, as ``dev_share`` says."""
    test: DataSpec | None = None
    """Scored once, with the best checkpoint; null: not at all."""
    dev_share: Share = 0.0
    """Without ``dev``: this part of the training examples, drawn by the seed, is kept for it; at least 100 of them or,
    where that is less, 5 %. (Of rows in the order of a ``shuffle_seed``: the first ones.)"""
    no_label: tuple[str | int, ...] | None = None
    """Labels that mean "no gold label": rows with one are left out of every split, and the log says how many. null: -1
    (of SNLI and of GLUE's test parts) where it cannot be a label; where it may be one, as beside 0 and 1, it is an
    error. ``[]``: none."""

    def split(self, role: str) -> DataSpec | None:
        """Return the spec of ``train``, ``dev`` or ``test`` with the options of all splits; None without one."""
        own: DataSpec | None = getattr(self, role)
        if own is None and (self.path is None or role == "test"):
            return None
        own = own or DataSpec()
        changes: dict[str, object] = {"columns": {**self.columns, **own.columns}}
        if self.path is not None and own.path is None:
            changes["path"] = self.path
        if not own.languages:
            changes["languages"] = self.languages
        filled = DataSpec.model_validate({**own.model_dump(), **changes})
        return filled if filled.named else None


class Sampling(Spec):
    """How often each language is drawn. The order is a function of the seed and the epoch."""

    temperature: Share = 1.0
    """Exponent over the languages: share = examples ** temperature. 1: natural; 0: all alike
    (mmBERT section 3; fine-tuning guidance: "temperature-based sampling to avoid over-fitting high-resource
    languages")."""
    final_temperature: Share | None = None
    """The temperature at the end of the run, reached linearly; null: it is constant (the guidance: "anneal the
    temperature ... when extending to more languages")."""
    stratified: bool = False
    """Every stretch of draws holds each language its exact share, instead of on average."""

    @property
    def natural(self) -> bool:
        """Whether every example is drawn once an epoch, in any order."""
        return self.temperature == 1.0 and self.final_temperature in (None, 1.0) and not self.stratified
