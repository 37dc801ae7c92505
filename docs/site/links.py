"""Links of the repository's pages, as they must be on the site.

The pages are written for GitHub: README.md links to ``docs/guides/embed.md``, guides link to files of the source. On
the site README.md is the home page, the README.md of a folder its ``index.md``, and what is no page is linked where
the repository is published, or is plain text where pyproject.toml names no such place.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from urllib.parse import unquote

ASSETS = (".svg", ".png")
"""Files beside pages that go on the site with them."""

_FENCED = re.compile(r"^([ ]*)(```+|~~~+).*?^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"`[^`]*`|(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\[\]])*)\]\((?P<target>[^()\s]+)\)")


class BrokenLink(Exception):
    """A link of a page leads to a file that is not there."""


def page_of(source: Path, root: Path) -> str | None:
    """Return the page's or asset's place on the site, or None for what is not on the site.

    source  a file or folder of the repository
    """
    inside = source.relative_to(root)
    if inside == Path("README.md"):
        return "index.md"
    if not inside.parts or inside.parts[0] != "docs" or inside.parts[:2] == ("docs", "site"):
        return None
    place = inside.relative_to("docs")
    if source.is_dir():
        has_index = (source / "README.md").is_file() or place == Path("decisions")  # build_site.py writes that one's
        return (place / "index.md").as_posix() if has_index else None
    if place.name == "README.md":
        return place.with_name("index.md").as_posix()
    return place.as_posix() if place.suffix in (".md", *ASSETS) else None


_COMMENT = re.compile(r"^[ ]*<!--.*?-->[ ]*$", re.MULTILINE)
"""Notes for the tests of the guides. They would also hide a table that follows them."""


def rewrite(text: str, source: Path, root: Path, repository: str | None) -> str:
    """Return a page's Markdown with links that work on the site, without comments. Code is left as it is.

    source      the page's file in the repository
    repository  URL of the published repository; None: links to what is not on the site become plain text
    Raises BrokenLink.
    """
    here = page_of(source, root) or ""

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or re.match(r"[a-z]+:|#", target):  # code, another host, this page
            return found[0]
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(source.parent / unquote(path)))
        if not file.exists() or not file.is_relative_to(root):
            raise BrokenLink(f"{source.relative_to(root)}: the link to {target} leads to no file of the repository")
        place = page_of(file, root)
        if place is None:
            if repository is None:
                return found["text"]
            kind = "tree" if file.is_dir() else "blob"
            url = f"{repository.rstrip('/')}/{kind}/main/{file.relative_to(root).as_posix()}"
        else:
            url = os.path.relpath(place, os.path.dirname(here) or ".")
        return f"{found['image']}[{found['text']}]({url}{'#' + anchor if anchor else ''})"

    def prose(text: str) -> str:
        return _LINK.sub(link, _COMMENT.sub("", text))

    parts: list[str] = []
    end = 0
    for fenced in _FENCED.finditer(text):
        parts += [prose(text[end : fenced.start()]), fenced[0]]
        end = fenced.end()
    return "".join([*parts, prose(text[end:])])
