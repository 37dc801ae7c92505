"""The files of the page, without a browser: nothing from elsewhere, nothing inline, words that can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mmbert.serving.routes.site import WEB

READABLE = 4.5
"""Contrast of text, by the Web Content Accessibility Guidelines (1.4.3, level AA)."""


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def tags() -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed((WEB / "index.html").read_text(encoding="utf-8"))
    return parser.found


def test_nothing_comes_from_elsewhere() -> None:
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//\w+\.\w", text), path.name
        assert "innerHTML" not in text, f"{path.name}: texts are set as text"


def test_a_strict_policy_holds(tags: list[tuple[str, dict[str, str | None]]]) -> None:
    for tag, attributes in tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)


def test_what_is_loaded_is_there(tags: list[tuple[str, dict[str, str | None]]]) -> None:
    wanted = [a["href"] for tag, a in tags if tag == "link"] + [a["src"] for tag, a in tags if tag == "script"]
    assert len(wanted) == 3
    for name in wanted:
        assert name is not None
        assert (WEB.parent / name).is_file(), name
    for script in WEB.glob("*.js"):
        for module in re.findall(r'from "\./(\S+)"', script.read_text(encoding="utf-8")):
            assert (WEB / module).is_file()


def test_examples_are_in_a_dozen_scripts_and_say_their_language(
    tags: list[tuple[str, dict[str, str | None]]],
) -> None:
    languages = [attributes.get("lang") for tag, attributes in tags if tag == "li"]
    assert all(languages)
    assert len(set(languages)) >= 18


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_words_can_be_read(mode: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (WEB / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[mode]))
    for name in ("ink", "soft", "faint", "blue", "green", "amber", "rose", "violet", "red"):
        for paper in ("paper", "sheet"):
            assert contrast(colours[name], colours[paper]) >= READABLE, f"{name} on {paper}"
    assert contrast(colours["on-blue"], colours["blue"]) >= READABLE


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
