"""The options of a recipe about text: where it comes from, which of it is kept, and the tokenizer trained on it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe_file import Spec, Tokens

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Source(Spec):
    """Where raw text of one kind comes from."""

    kind: Literal["jsonl", "text", "parquet", "mds", "hub", "catalogs"]
    """``jsonl``: one object a line, or a list of them; ``text``: a document between blank lines; both also compressed
    (gzip, zstd, xz, bzip2, told by the content); ``parquet``: rows; ``mds``: MosaicML's shards, of text or of token
    ids; ``hub``: a dataset of the Hugging Face hub, in any of these forms, streamed; ``catalogs``: translations inside
    installed packages."""
    path: str | None = None
    """A file, a folder (searched through) or a glob; for ``hub`` the dataset's name; unused for ``catalogs``."""
    heldout: str | None = None
    """Text of the same form, kept apart for evaluation. Without it ``cleaning.holdout`` takes a part of ``path``."""
    language: str | None = None
    """The language of all of it (``mul``: a mixture that stays one). Without it: ``language_field``, else the file's
    name (``fao_Latn.jsonl.gz``) or folder, for ``hub`` the name of the configuration."""
    language_field: str | None = None
    """The field that names each document's language."""
    text_field: str = "text"
    """The field that holds the text."""
    id_field: str | None = "id"
    """The field that names the document; without it documents are numbered by file and line."""
    ids_field: str = "input_ids"
    """MDS only: the field that holds token ids, read where there is no ``text_field``."""
    skip_bad_rows: bool = False
    """Pass over rows that cannot be read (no JSON, no text in the field, not UTF-8) instead of stopping at the first:
    they are counted, and the log says where the first is. Files that are cut short or corrupt are never passed over."""
    configs: tuple[str, ...] = ()
    """``hub`` only: the configurations to read, usually one a language; empty: all of them."""
    revision: str | None = None
    """``hub`` only: the commit to read."""
    packages: tuple[str, ...] = ("django", "babel", "pycountry")
    """``catalogs`` only: the packages whose translations are read."""

    @model_validator(mode="after")
    def _needs_path(self) -> Self:
        if self.kind != "catalogs" and self.path is None:
            raise ValueError(f"a source of kind {self.kind} needs a path")
        return self


class LanguageId(Spec):
    """A model that tells languages apart, to drop documents that are not in the language they claim."""

    model: str
    """A file in fastText's form, or one on the hub: ``cis-lmu/glotlid`` (``model.bin``), ``owner/name/file.bin``."""
    min_score: Share = 0.5
    """What the model says with a lower probability is not counted against a document."""


class NearDuplicates(Spec):
    """MinHash (Broder 1997) with banding, by datatrove: of documents alike, one is kept. ``mmbert data scale`` only."""

    ngram: int = Field(5, ge=1)
    """Words in a shingle; in scripts written without spaces, characters."""
    buckets: int = Field(14, ge=1)
    """Bands. Two documents of similarity s meet with probability 1 - (1 - s ** hashes) ** buckets."""
    hashes: int = Field(8, ge=1)
    """Hashes in a band: 14 bands of 8 find 92 % of the pairs with s = 0.8 and 5 % of those with 0.5."""


class Cleaning(Spec):
    """Which documents are kept, and which of them are never trained on."""

    min_characters: int = Field(16, ge=1)
    """Shorter documents are dropped."""
    max_repetition: Share = 0.5
    """Dropped if a larger part of its lines (or, for one line, of its words) are copies of others in it."""
    max_symbols: Share = 0.5
    """Dropped if a larger part of its visible characters are neither letters, marks nor digits."""
    deduplicate: bool = True
    """Drop exact copies (of the text with white space folded), across all languages of a source."""
    language_id: LanguageId | None = None
    """Drop documents that a model takes for another language; null: the claimed language is believed."""
    near_duplicates: NearDuplicates | None = None
    """Drop documents nearly equal to another of their source; null: only exact copies."""
    holdout: Share = 0.02
    """Share of documents held out, chosen by a hash of their id, in sources that bring no ``heldout`` text."""
    holdout_characters: int = Field(100_000, ge=0)
    """At most this many held-out characters a language; further chosen documents are neither trained on nor kept."""


class TokenizerTraining(Spec):
    """Train a byte-fallback BPE on a sample of the prepared text."""

    vocab_size: int = Field(8192, ge=512, le=262_144)
    """Tokens in all, specials and bytes included."""
    temperature: Share = 0.3
    """Languages enter the sample in proportion to characters ** temperature."""
    sample_characters: Tokens = 20_000_000
    """Size of the sample."""
    max_token_length: int = Field(24, ge=1)
    """Longest token in characters."""
    prefix_space: bool = False
    """True: a space is put before every text, as the released tokenizer does; False: text as it is (Gemma 2)."""
