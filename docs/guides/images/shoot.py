"""Pictures of the page for the guides, of a server that runs: search, comparison, tokens, and a phone.

    python docs/guides/images/shoot.py http://127.0.0.1:8000 [--model NAME] [--index] [--out docs/guides/images]

Needs playwright and a Chromium. ``--model`` is chosen where the server has several. ``--index``: instead of the others,
a picture of the server's index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

DESK, PHONE = {"width": 1120, "height": 1240}, {"width": 390, "height": 844}


def search(page: Page) -> None:
    page.fill("#query", "Where can I see a doctor?")
    page.press("#query", "Enter")


def index(page: Page) -> None:
    page.fill("#query", "I am reading an interesting book.")
    page.press("#query", "Enter")


def compare(page: Page) -> None:
    page.click("#compare button.primary")


def fill(page: Page) -> None:
    page.click("#fill .chips button >> nth=1")


def tokens(page: Page) -> None:
    page.click("#tokens button.primary")


def shoot(browser: Browser, options: argparse.Namespace, name: str, *, dark: bool = False, phone: bool = False) -> None:
    """One picture: what the tab of this name shows when it has done its work."""
    acts = {"search": search, "index": index, "compare": compare, "fill": fill, "tokens": tokens}
    act: Callable[[Page], None] = acts[name]
    context = browser.new_context(
        viewport=PHONE if phone else DESK, color_scheme="dark" if dark else "light", device_scale_factor=1.25
    )
    page = context.new_page()
    page.goto(options.url)
    page.click(f"#tab-{'search' if name == 'index' else name}")
    if options.model:
        page.select_option("#model", options.model)
    act(page)
    expect(page.locator("form[aria-busy=true]")).to_have_count(0, timeout=60_000)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    file = options.out / f"{name}{'-phone' if phone else ''}.png"
    page.screenshot(path=file)
    print(f"{file}  {file.stat().st_size / 1024:.0f} KiB")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server")
    parser.add_argument("--model", help="a served name")
    parser.add_argument("--index", action="store_true", help="a picture of the server's index")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        if options.index:
            shoot(browser, options, "index")
        else:
            shoot(browser, options, "search")
            shoot(browser, options, "compare", dark=True)
            shoot(browser, options, "tokens")
            shoot(browser, options, "search", phone=True)
        browser.close()


if __name__ == "__main__":
    main()
