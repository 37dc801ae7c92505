"""Addresses of tables: a URL that names the store, the place and, as its last part, the table.

    postgresql://USER@HOST/DATABASE/TABLE           pgvector; options behind ``?`` as in libpq
    qdrant+http://HOST:6333/COLLECTION              qdrant+https; qdrant:FOLDER/COLLECTION is the client's local mode
    elasticsearch+https://HOST:9200/INDEX           and opensearch+https
    FOLDER/TABLE.lance, s3://BUCKET/TABLE.lance     LanceDB; gs:// and az:// too

A password may stand in the URL, or in the variable of the environment that its store names. Messages show neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mmbert.errors import ConfigError, MMBertError, first_line

FORMS = (
    "postgresql://USER@HOST/DATABASE/TABLE, qdrant+http://HOST:6333/COLLECTION, elasticsearch+https://HOST:9200/INDEX, "
    "opensearch+https://HOST:9200/INDEX, FOLDER/TABLE.lance or s3://BUCKET/TABLE.lance"
)

REMOTE = ("s3", "gs", "az")
"""Object stores of LanceDB."""

_SERVERS = {
    "postgresql": "postgresql", "postgres": "postgresql",
    **{f"{name}+{way}": name for name in ("qdrant", "elasticsearch", "opensearch") for way in ("http", "https")},
}  # fmt: skip

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Target:
    """A table of a store.

    store  postgresql, qdrant, elasticsearch, opensearch or lance
    place  its server's URL without user and table, or a folder or URL of LanceDB or of Qdrant's local mode
    """

    store: str
    place: str
    table: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Return whether the place is a folder of this machine."""
        return "://" not in self.place

    def __str__(self) -> str:
        """Return the table and its place, without user and password."""
        place = self.place.partition("?")[0]
        return f"{self.table} in {'this folder' if place == '.' else place}"

    def failed(self, error: BaseException, what: str = "cannot write to") -> MMBertError:
        """Return the error of a client in one line, without the password."""
        said = first_line(error)
        for secret in filter(None, (self.password,)):
            said = said.replace(secret, "***")
        return MMBertError(f"{what} {self}: {said}")


def read_target(url: str) -> Target:
    """Return the table that a URL names. Raises ConfigError for one that names none."""
    if url.startswith("qdrant:") and not url.startswith("qdrant://"):
        folder, _, table = url.removeprefix("qdrant:").rpartition("/")
        return Target("qdrant", _filled(folder, url), _name(table, url))
    if url.rstrip("/").endswith(".lance"):
        place, _, table = url.rstrip("/").removesuffix(".lance").rpartition("/")
        scheme = place.partition("://")[0] if "://" in place else None
        if scheme in (None, *REMOTE):
            return Target("lance", place or ("/" if url.startswith("/") else "."), _name(table, url))
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise _unknown(url) from error
    store = _SERVERS.get(parts.scheme)
    if store is None:
        raise _unknown(url)
    path, _, table = parts.path.rpartition("/")
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    query = f"?{parts.query}" if parts.query else ""
    place = f"{parts.scheme.removeprefix(f'{store}+')}://{host}{port}{path}{query}"
    if store == "postgresql":
        _filled(path.strip("/"), url)
    else:
        _filled(host, url)
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Target(store, place, _name(unquote(table), url), user, password)


def _unknown(url: str) -> ConfigError:
    return ConfigError(f"{_public(url)} names no store: expected {FORMS}")


def _filled(part: str, url: str) -> str:
    if not part:
        raise _unknown(url)
    return part


def _name(table: str, url: str) -> str:
    if not _NAME.fullmatch(table):
        raise ConfigError(f"{_public(url)}: {table!r} is no name of a table: use letters, digits, _, - and .")
    return table


def _public(url: str) -> str:
    """Return a URL without what stands before its ``@``."""
    return re.sub(r"//[^/]*@", "//***@", url)
