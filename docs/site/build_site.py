"""Build the documentation site into build/docs/site; needs the extra ``docs``.

    python docs/site/build_site.py

The pages are those of docs/, README.md as the home page, an index of the decisions, and the reference (``reference``).
A broken link or anchor, a public name that is on no page of the reference, and any warning of zensical fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from links import ASSETS, BrokenLink, page_of, rewrite
from reference import undocumented, write_reference

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "docs"


def sources(root: Path = ROOT) -> list[Path]:
    """Return the pages of the repository that go on the site."""
    found = [path for path in (root / "docs").rglob("*.md") if page_of(path, root)]
    return [root / "README.md", *sorted(found)]


def title(page: Path) -> str:
    """Return the heading of a page."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def write_pages(pages: Path, root: Path = ROOT) -> None:
    """Write the Markdown of the site, except the reference, into a folder. Raises BrokenLink."""
    with (root / "pyproject.toml").open("rb") as file:
        repository = tomllib.load(file)["project"].get("urls", {}).get("Repository")
    for source in sources(root):
        target = pages / str(page_of(source, root))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rewrite(source.read_text(encoding="utf-8"), source, root, repository), encoding="utf-8")
    for asset in (root / "docs").rglob("*"):
        if asset.suffix in ASSETS:
            target = pages / asset.relative_to(root / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(asset, target)
    listed = "\n".join(f"- [{title(page)}]({page.name})" for page in decisions(root))
    (pages / "decisions" / "index.md").write_text(
        f"# Decisions\n\nWhat was chosen, what else was tried, and what was measured.\n\n{listed}\n", encoding="utf-8"
    )


def decisions(root: Path = ROOT) -> list[Path]:
    """Return the pages of decisions, by number."""
    return sorted((root / "docs" / "decisions").glob("[0-9]*.md"))


def config(root: Path = ROOT) -> str:
    """Return zensical's configuration with all decisions in the navigation."""
    entry = '{ "Decisions" = ["decisions/index.md"] }'
    text = (root / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8")
    places = ["decisions/index.md", *(f"decisions/{page.name}" for page in decisions(root))]
    return text.replace(entry, f'{{ "Decisions" = {json.dumps(places)} }}')


def main() -> None:
    """Write all pages, then build the site strictly."""
    if missing := undocumented():
        sys.exit(f"docs/site/reference.py has no page for {', '.join(sorted(missing))} of mmbert.__all__")
    shutil.rmtree(OUT, ignore_errors=True)
    try:
        write_pages(OUT / "pages")
    except BrokenLink as error:
        sys.exit(str(error))
    write_reference(OUT / "pages" / "reference")
    (OUT / "zensical.toml").write_text(config(), encoding="utf-8")
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=OUT, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    print(f"{os.path.relpath(OUT / 'site')}/index.html")


if __name__ == "__main__":
    main()
