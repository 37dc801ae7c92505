"""``shards/manifest.json``: the contents of the shards in a folder, and the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.data.shard import Shard
from mmbert.errors import BadShard, DataError, TokenizerError
from mmbert.files import read_checked_json, write_checked_json
from mmbert.log import progress

FILE = "manifest.json"
VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One shard."""

    file: str
    """The ``.tokens`` file, relative to the manifest's folder."""
    tokens: int
    documents: int
    sha256: str


def check_identity(expected: ShardInfo, found: Mapping[str, Any], path: Path, manifest: Path) -> None:
    """Raises BadShard unless ``found``, from the index of the shard ``path``, is what the manifest says."""
    for key in ("tokens", "documents", "sha256"):
        if found[key] != getattr(expected, key):
            raise BadShard(
                path,
                f"{path} is not the shard of {manifest} ({key} differs)",
                "delete the manifest and run `mmbert data prepare` again",
            )


class StreamInfo(_Record):
    """One language of one source. ``characters`` and ``bytes`` (UTF-8) are those of the text."""

    source: str
    language: str
    tokens: int
    documents: int
    characters: int
    bytes: int
    shards: tuple[ShardInfo, ...]


class Manifest(_Record):
    """All streams of a folder, sorted by source (in the recipe's order) and language."""

    version: Literal[1] = 1
    tokenizer: str
    """Fingerprint of the tokenizer."""
    streams: tuple[StreamInfo, ...]

    @property
    def tokens(self) -> int:
        """Return the number of all tokens."""
        return sum(stream.tokens for stream in self.streams)

    def sizes(self) -> dict[tuple[str, str], int]:
        """Return (source, language) -> tokens."""
        return {(stream.source, stream.language): stream.tokens for stream in self.streams}

    def save(self, folder: Path) -> None:
        """Write ``folder/manifest.json``, atomically."""
        write_checked_json(folder / FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path, verify: bool = False) -> Self:
        """Read ``folder/manifest.json``; every shard's length is compared, with ``verify`` its contents too.

        Raises DataError naming the file that is missing, cut short, damaged or of another version, and a fix.
        """
        manifest = cls.read(folder)
        manifest.check_shards(folder, verify=verify)
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``folder/manifest.json`` without a look at the shards."""
        path = folder / FILE
        if not path.is_file():
            raise DataError(f"no such file: {path}: run `mmbert data prepare RECIPE --out {folder.parent}` first")
        values = read_checked_json(path)
        version = values.get("version") if isinstance(values, dict) else None
        if version != VERSION:
            raise DataError(f"{path} has version {version}, only {VERSION} can be read: update mmbert or prepare again")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise DataError(f"{path} is damaged at {place}: delete it and run `mmbert data prepare` again") from error

    def check_shards(self, folder: Path, *, verify: bool) -> None:
        """Raises the first BadShard that ``find_bad`` finds."""
        for _, error in self.find_bad(folder, verify=verify):
            raise error

    def find_bad(
        self, folder: Path, *, verify: bool, without: Container[str] = ()
    ) -> Iterator[tuple[ShardInfo, BadShard]]:
        """Compare every shard with the manifest: its counts and length, with ``verify`` its contents.

        without  files that are passed over
        """
        shards = [shard for stream in self.streams for shard in stream.shards if shard.file not in without]
        for expected in progress(shards, desc="checking shards", unit="shard") if verify else shards:
            try:
                shard = Shard.open(folder / expected.file)
                check_identity(expected, shard.info, shard.path, folder / FILE)
                if verify:
                    shard.verify()
            except BadShard as error:
                yield expected, error

    def check_tokenizer(self, fingerprint: str, where: str = "these shards") -> None:
        """Raises TokenizerError naming both tokenizers if the shards were made by another one."""
        if fingerprint != self.tokenizer:
            raise TokenizerError(
                f"{where} were made with tokenizer {self.tokenizer}, this run's is {fingerprint}: "
                "use that tokenizer, or prepare into another folder"
            )
