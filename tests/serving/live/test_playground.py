"""The page in headless Chromium, against a real server: what a person would do, by mouse and by keyboard alone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = sync_api.expect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

DESK, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium has no sandbox for root, whom tests in containers often are; the page is ours
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, served: str) -> Iterator[Any]:
    """The page, open at the desk; anything on its console, a refused asset above all, fails the test."""
    context = chromium.new_context(viewport=DESK)
    found = context.new_page()
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.expected = complaints
    found.goto(served)
    found.wait_for_selector("[role=tab][aria-selected=true]")
    yield found
    context.close()
    assert not complaints


def finished(page: Any, tab: str) -> Any:
    """What a tab shows when it is not busy any more."""
    expect(page.locator("form[aria-busy=true]")).to_have_count(0, timeout=15_000)
    return page.locator(f"#{tab} [data-out]")


def test_search(page: Any) -> None:
    page.fill("#texts", "A cat sits here.\nAll human beings are born free.\n\nWatu wote wamezaliwa huru.\n")
    assert page.inner_text("#search .count") == "3 texts"
    page.fill("#query", "All human beings are born free.")
    page.click("#search button.primary")
    found = finished(page, "search")
    hits = found.locator("li")
    assert hits.count() == 3
    assert hits.first.locator(".text").inner_text() == "All human beings are born free."
    assert hits.first.locator(".score").inner_text() == "1.00"
    assert found.locator(".said").inner_text().startswith("The best of 3 texts")
    scores = [float(text.replace("−", "-")) for text in hits.locator(".score").all_inner_texts()]
    parts = hits.locator(".meter").evaluate_all(
        "all => all.map(bar => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    assert parts == pytest.approx([max(0, score) for score in scores], abs=0.01), "a bar is as long as its number"
    answers, texts = hits.last.bounding_box(), page.locator("#texts").bounding_box()
    assert answers["y"] + answers["height"] <= texts["y"], "nothing long between question and answers"
    assert "curl " in page.text_content("#request code")


def test_an_index_is_searched(page: Any) -> None:
    assert page.locator("#place-field").is_hidden(), "the first model has no index"
    page.select_option("#model", "tuned")
    assert page.locator("#place option").all_inner_texts() == ["lines, 4 texts", "empty, 0 texts", "texts of your own"]
    assert page.locator("#texts").is_hidden()
    page.fill("#query", "Born free")
    page.click("#search button.primary")
    found = finished(page, "search")
    assert found.locator(".said").inner_text().startswith("The best of 4 texts in lines, ")
    assert sorted(found.locator(".text").all_inner_texts()) == [
        "Born free", "Tous naissent libres", "Watu wote ni huru", "يولد جميع الناس أحرارا",
    ]  # fmt: skip
    scores = [float(text.replace("−", "-")) for text in found.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    arabic, english, other, plain = (
        found.locator("li", has_text=text) for text in ("يولد", "Born free", "Watu", "Tous")
    )
    assert arabic.locator(".facts > *").all_inner_texts() == ["Arabic", "english All are born free"]
    assert arabic.locator(".text").evaluate("node => [getComputedStyle(node).direction, node.lang]") == [
        "rtl", "ar-Arab",
    ]  # fmt: skip
    assert english.first.locator(".facts > *").all_inner_texts() == ["English", "year 1948"]
    assert other.locator(".facts").inner_text().split("\n") == ["language not a code", "<b> <i>bold</i>"]
    assert other.locator(".text").get_attribute("lang") is None
    assert plain.locator(".facts").count() == 0
    assert "/search" in page.text_content("#request code")


def test_an_empty_index_and_texts_of_your_own(page: Any) -> None:
    page.select_option("#model", "tuned")
    page.fill("#query", "free")
    page.select_option("#place", "empty")
    page.click("#search button.primary")
    found = finished(page, "search")
    assert found.inner_text().startswith("No texts in empty")
    page.select_option("#place", "")
    assert found.inner_text() == "", "hits of another place are gone"
    page.fill("#texts", "one\ntwo")
    page.click("#search button.primary")
    assert finished(page, "search").locator("li").count() == 2
    page.select_option("#model", "pretrained")
    assert page.locator("#place-field").is_hidden()
    assert page.locator("#texts").is_visible()


def test_a_click_on_an_example_searches(page: Any) -> None:
    page.click("#search [data-fill]")
    page.click("#search .chips button:nth-child(2)")
    assert finished(page, "search").locator("li").count() == 21


def test_a_file_is_read(page: Any) -> None:
    content = {"name": "lines.txt", "mimeType": "text/plain", "buffer": "eins\nзимa\nثلاثة\n".encode()}
    page.set_input_files("#search [type=file]", content)
    expect(page.locator("#search .count")).to_have_text("3 texts")


def test_compare(page: Any) -> None:
    page.click("#tab-compare")
    page.fill("#sentences", "one day\none day\nWatu wote ni huru")
    page.click("#compare button.primary")
    found = finished(page, "compare")
    cells = found.locator("tbody tr:first-child td").all_inner_texts()
    assert cells[:2] == ["·", "1.00"]
    assert found.locator("tbody th").count() == 3
    shades = found.locator("tbody tr:first-child td").evaluate_all(
        "tds => tds.map(td => getComputedStyle(td).backgroundColor)"
    )
    assert len(set(shades)) == 3  # the same, the closest, the farthest


def test_fill(page: Any) -> None:
    page.click("#tab-fill")
    page.fill("#masked", "All human beings are  free.")
    page.evaluate("document.querySelector('#masked').setSelectionRange(21, 21)")
    page.click("#fill [data-mask]")
    assert page.input_value("#masked") == "All human beings are <mask> free."
    page.click("#fill button.primary")
    found = finished(page, "fill")
    assert found.locator("li").count() == 6
    assert found.locator(".whole").first.inner_text().startswith("All human beings are")
    page.fill("#masked", "<mask> human <mask>")
    page.click("#fill button.primary")
    assert finished(page, "fill").locator("h2").all_inner_texts() == ["Mask 1", "Mask 2"]


def test_tokens_and_their_bytes(page: Any) -> None:
    page.click("#tab-tokens")
    page.fill("#spelled", "All human beings\nيولد جميع الناس")
    page.click("#tokens button.primary")
    found = finished(page, "tokens")
    assert found.locator(".cut").count() == 2
    assert found.locator(".cut").nth(0).get_attribute("dir") == "ltr"
    assert found.locator(".cut").nth(1).get_attribute("dir") == "rtl"
    assert "bytes a token" in found.inner_text()
    assert "28 bytes · 15 characters" in found.locator(".token-rows").nth(1).inner_text()
    tokens = found.locator(".cut").nth(0).locator(".chip:not(.special) bdi").all_inner_texts()
    assert "".join(tokens).replace("·", " ").strip() == "All human beings"


def test_classes_and_entities(page: Any) -> None:
    page.click("#tab-classify")
    page.fill("#judged", "one\ntwo")
    page.click("#classify button.primary")
    found = finished(page, "classify")
    assert found.locator("li .best").count() == 2
    begins = found.locator(".labels .meter").evaluate_all("all => all.map(bar => bar.getBoundingClientRect().left)")
    assert len(begins) == 6
    assert len(set(begins)) == 1, "bars of all texts begin at one place, whichever label is first"
    page.click("#tab-entities")
    text = "🙂 Kofi Annan left Accra."
    page.fill("#tagged", text)
    page.click("#entities button.primary")
    found = finished(page, "entities")
    told = found.locator(".story").evaluate(
        "node => { node.querySelectorAll('small').forEach(s => s.remove()); return node.textContent }"
    )
    assert told == text  # a letter outside the first plane moves no entity


@pytest.mark.parametrize(
    ("text", "side"), [("يولد جميع الناس أحرارا", "rtl"), ("כל בני האדם", "rtl"), ("Born free", "ltr")]
)
def test_text_runs_its_own_way(page: Any, text: str, side: str) -> None:
    page.fill("#texts", text)
    page.fill("#query", text)
    page.click("#search button.primary")
    hit = finished(page, "search").locator(".text")
    assert hit.evaluate("node => getComputedStyle(node).direction") == side
    assert page.locator("#query").evaluate("node => getComputedStyle(node).direction") == side


def test_by_keyboard_alone(page: Any) -> None:
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the playground"
    for _ in range(9):
        press("Tab")
        if page.evaluate("document.activeElement.role") == "tab":
            break
    press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # one sees where one is
    press("ArrowLeft")
    press("ArrowLeft")  # round to the last
    assert page.evaluate("document.activeElement.id") == "tab-tokens"
    press("Home")
    press("Tab")
    while page.evaluate("document.activeElement.id") != "query":
        press("Tab")
    page.keyboard.type("free")
    press("Enter")
    assert finished(page, "search").locator("li").count() == 21
    page.focus("#texts")
    press("Control+a")
    page.keyboard.type("only one")
    press("Control+Enter")
    expect(page.locator("#search .hits li")).to_have_count(1)


def test_a_heat_map_that_is_cut_says_so(chromium: Any, served: str) -> None:
    for viewport, cut in ((PHONE, True), (DESK, False)):
        context = chromium.new_context(viewport=viewport)
        page = context.new_page()
        page.goto(served)
        page.click("#tab-compare")
        page.click("#compare button.primary")
        found = finished(page, "compare")
        said = found.get_by_text("Scroll sideways")
        expect(said).to_be_visible() if cut else expect(said).to_be_hidden()
        table = found.locator(".scroll")
        masked = table.evaluate("node => getComputedStyle(node).maskImage !== 'none'")
        assert masked == cut, "the side that is cut fades"
        table.evaluate("node => { node.scrollLeft = node.scrollWidth }")
        expect(table).not_to_have_class(re.compile("after"))
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways(chromium: Any, served: str, scheme: str) -> None:
    context = chromium.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(served)
    page.wait_for_selector("[role=tab]")
    papers = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, papers[4:-1].split(","))) < 200) == (scheme == "dark")
    for tab in [tab.get_attribute("id")[4:] for tab in page.locator("[role=tab]").all()]:
        page.click(f"#tab-{tab}")
        if tab == "search":
            page.fill("#query", "a-very-long-word-" * 12)
        page.click(f"#{tab} button.primary")
        assert finished(page, tab).locator(".error").count() == 0, tab
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], tab
        low = page.locator(f"#{tab} button:visible").evaluate_all(
            "all => Math.min(...all.map(b => b.getBoundingClientRect().height))"
        )
        assert low >= 32, f"{tab}: a finger needs room"
    context.close()


def test_names_for_those_who_do_not_see(page: Any) -> None:
    for tab in page.locator("[role=tab]").all():
        panel = page.locator(f"#{tab.get_attribute('aria-controls')}")
        assert panel.get_attribute("role") == "tabpanel"
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")
    fields = page.locator("input, textarea, select")
    assert fields.evaluate_all("all => all.filter(f => !f.labels.length && !f.ariaLabel).map(f => f.id)") == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (429, '{"error": "16,384 tokens wait", "error_type": "Overloaded"}', "The server is busy."),
        (413, '{"error": "at most 64 tokens", "error_type": "Validation"}', "at most 64 tokens"),
        (500, "boom", "The server failed (500)."),
    ],
)
def test_refusals_are_told(page: Any, status: int, body: str, said: str) -> None:
    page.route("**/embed", lambda route: route.fulfill(status=status, body=body, headers={"retry-after": "0.01"}))
    page.fill("#query", "x")
    page.click("#search button.primary")
    assert said in finished(page, "search").locator("[role=alert]").inner_text()
    page.unroute("**/embed")
    page.click("#search button.primary")
    assert finished(page, "search").locator("li").count() == 21
    page.expected.clear()  # the browser notes every failed request


def test_a_server_that_is_gone_and_comes_back(page: Any) -> None:
    page.route("**/embed", lambda route: route.abort())
    page.fill("#query", "x")
    page.click("#search button.primary")
    assert "does not answer" in finished(page, "search").locator("[role=alert]").inner_text()
    assert page.inner_text("#state") == "no answer"
    page.unroute("**/embed")
    expect(page.locator("#state")).to_have_text("ready", timeout=10_000)
    page.expected.clear()


def test_a_key_is_asked_for_and_used(page: Any) -> None:
    seen: list[str | None] = []

    def guard(route: Any) -> None:
        seen.append(route.request.headers.get("authorization"))
        if seen[-1] == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, body='{"error": "no key", "error_type": "Unauthorized"}')

    page.route("**/embed", guard)
    page.fill("#query", "x")
    page.click("#search button.primary")
    finished(page, "search")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    assert finished(page, "search").locator("li").count() == 21
    assert seen[0] is None
    assert set(seen[1:]) == {"Bearer secret"}
    assert page.locator("#key-form").is_hidden()
    page.expected.clear()


def test_markup_in_texts_stays_text(page: Any) -> None:
    page.fill("#texts", "<img src=x onerror=alert(1)>\n<b>bold</b>")
    page.fill("#query", "<script>alert(1)</script>")
    page.click("#search button.primary")
    found = finished(page, "search")
    assert found.locator("img, b, script").count() == 0
    assert "<b>bold</b>" in found.inner_text()
