"""The documentation site: its navigation lists every page, its links lead somewhere, it builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mmbert

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
CONFIG = tomllib.loads((SITE / "zensical.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def site() -> Iterator[dict[str, ModuleType]]:
    """The modules that build the site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        import build_site
        import links
        import reference

        yield {"build": build_site, "links": links, "reference": reference}


def listed(navigation: Any) -> Iterator[str]:
    """The pages of a navigation, in order."""
    for entry in navigation:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from listed([value] if isinstance(value, str) else value)


def test_navigation_lists_every_page_once(site: dict[str, ModuleType]) -> None:
    pages = {site["links"].page_of(path, ROOT) for path in site["build"].sources()}
    assert {f"guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")} <= pages
    generated = {f"reference/{name}.md" for name in (*site["reference"].PAGES, "command-line")}
    navigation = list(listed(tomllib.loads(site["build"].config())["project"]["nav"]))
    assert sorted(navigation) == sorted(pages | generated | {"decisions/index.md"})


def test_every_public_name_has_a_page_of_the_reference(
    site: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site["reference"].undocumented() == set()
    monkeypatch.setattr(mmbert, "__all__", [*mmbert.__all__, "__getattr__"])
    assert site["reference"].undocumented() == {"__getattr__"}


def test_the_command_line_is_documented_by_itself(site: dict[str, ModuleType]) -> None:
    page = site["reference"].command_line()
    assert page.startswith("# All commands\n")
    for command in ("mmbert run", "mmbert finetune", "mmbert index build", "mmbert data prepare"):
        assert re.search(rf"^#+ `{command}`$", page, re.MULTILINE)
    assert re.search(r"^\* `[^`]*--top-k <int>`: \w", page, re.MULTILINE)


def test_every_link_of_every_page_leads_to_a_file(site: dict[str, ModuleType], tmp_path: Path) -> None:
    site["build"].write_pages(tmp_path)  # raises BrokenLink
    for page in tmp_path.rglob("*.md"):
        for target in re.findall(r"\]\(([^()\s:#]+)(?:#[^()\s]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.relative_to(tmp_path)}: {target}"
    assert "](guides/embed.md)" in (tmp_path / "index.md").read_text(encoding="utf-8")


def test_links_are_those_of_the_site(site: dict[str, ModuleType], tmp_path: Path) -> None:
    guide = tmp_path / "docs" / "guides" / "a.md"
    for place in ("docs/guides/a.md", "docs/results/README.md", "docs/decisions/1.md", "src/x.py", "README.md"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    rewrite, broken = site["links"].rewrite, site["links"].BrokenLink

    def shown(text: str, repository: str | None = None) -> str:
        return rewrite(text, guide, tmp_path, repository)

    assert shown("[r](../results/README.md#x)") == "[r](../results/index.md#x)"
    assert shown("[r](../results), [d](../decisions)") == "[r](../results/index.md), [d](../decisions/index.md)"
    assert shown("[h](../../README.md) [w](https://a.b/c) [s](#s)") == "[h](../index.md) [w](https://a.b/c) [s](#s)"
    assert shown("[`x`](../../src/x.py)") == "`x`"
    assert shown("[`x`](../../src/x.py)", "https://h/o/r") == "[`x`](https://h/o/r/blob/main/src/x.py)"
    assert shown("`[c](no.md)`\n```\n[c](no.md)\n```") == "`[c](no.md)`\n```\n[c](no.md)\n```"
    assert shown("<!-- not run -->\n| a |") == "\n| a |"
    for text in ("[c](no.md)", "![c](no.png)", "[c](../../../outside.md)"):
        with pytest.raises(broken, match=r"docs/guides/a\.md: the link to .* leads to no file"):
            shown(text)


def test_lists_are_read_alike_on_github_and_on_the_site(site: dict[str, ModuleType]) -> None:
    """Python-Markdown needs four spaces before a block within a list, and an empty line before a list or table."""
    faults = []
    for page in site["build"].sources():
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = ["", *site["links"].rewrite(text, page, ROOT, None).splitlines()]
        for before, line in pairwise(lines):
            narrow = not before.strip() and re.match(r" {1,3}\S", line)
            joined = re.match(r"([-*+]|1\.) |\|", line) and re.match(r"(?!([-*+]|\d+\.) |\|)\S", before)
            if narrow or joined:
                faults.append(f"{page.relative_to(ROOT)}: {line}")
    assert faults == []


def test_nothing_is_loaded_from_other_hosts() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url", "extra"} & set(CONFIG)


def test_docstrings_become_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("griffe", reason="the extra docs is not installed")
    monkeypatch.syspath_prepend(str(SITE))
    import docstrings

    text = "Load :meth:`~a.b`, <bos> or ``<eos>``::\n\n    <code>\n\none, two  a\n          b\n*_prompt  c\nRaises D."
    assert docstrings.markdown(text) == (
        "Load `a.b`, &lt;bos> or ``<eos>``:\n\n    <code>\n\n\n- `one, two`: a b\n- `*_prompt`: c\n\nRaises D."
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning() -> None:
    try:
        version("zensical")
    except PackageNotFoundError:
        pytest.skip("the extra docs is not installed: make docs")
    built = subprocess.run(
        [sys.executable, str(SITE / "build_site.py")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for page in (ROOT / "build" / "docs" / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]* src=[\"']?https?:", text), page
        assert not re.search(r"<link[^>]* href=[\"']?https?:", text), page
