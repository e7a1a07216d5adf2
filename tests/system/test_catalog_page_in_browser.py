"""The page of rules in a real browser: Chromium without a window, on a screen, a phone and paper.

It needs Chromium and the extra `dev` (Playwright, which drives it); without them it is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from cds import Rulesets, load_rulesets
from cds.catalog_page import catalog_page

pytestmark = pytest.mark.slow

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (extra 'dev')"
)
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python is not installed (extra 'dev')",
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A desk, a phone, and a sheet of A4 between its margins.
DESK, PHONE, PAPER = (1280, "screen"), (400, "screen"), (688, "print")
MEDIA = pytest.mark.parametrize("view", [DESK, PHONE, PAPER], ids=["desk", "phone", "paper"])
SCREENS = pytest.mark.parametrize("view", [DESK, PHONE], ids=["desk", "phone"])


@dataclass
class Opened:
    """A tab with the page, and everything it complained about or asked the network for."""

    tab: Any
    address: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show(self, view: tuple[int, str]) -> None:
        """Show the whole page anew at this width, for a screen or for paper."""
        self.tab.emulate_media(media=view[1])
        self.tab.set_viewport_size({"width": view[0], "height": 1000})
        self.tab.goto(self.address)


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def address(rulesets: Rulesets, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with every part that the page can have."""
    case = {"name": "A case", "expectation": "fires", "path": "cases.yaml", "line": 1}
    measured = {"criteria": 2, "covered": 1, "open": ["potassium < 2.5: never seen unknown"]}
    path: Path = tmp_path_factory.mktemp("page") / "rules.html"
    text = catalog_page(
        rulesets,
        cases={"hypokalemia-severe": [case]},
        coverage={"hypokalemia-severe": measured, "hypokalemia-mild": None},
    )
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        # With a new, empty profile.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Iterator[Opened]:
    found = Opened(browser.new_page(), address)
    found.tab.on("console", lambda message: found.complaints.append(message.text))
    found.tab.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.tab.on("request", lambda request: found.requests.append(request.url))
    yield found
    found.tab.close()


@MEDIA
def test_it_loads_from_a_file_without_an_error_and_asks_the_network_for_nothing(
    opened: Opened, view: tuple[int, str]
) -> None:
    opened.requests.clear()
    opened.show(view)
    opened.tab.wait_for_load_state("networkidle")
    assert opened.tab.title().startswith("Rules")
    assert (opened.complaints, opened.requests) == ([], [opened.address])


@MEDIA
def test_nothing_is_wider_than_the_page(opened: Opened, view: tuple[int, str]) -> None:
    opened.show(view)
    width, room = opened.tab.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= room
    beyond = opened.tab.evaluate(
        """room => [...document.querySelectorAll("body *")]
            .filter(e => !e.closest(".skip") && e.getBoundingClientRect().right > room + 1)
            .map(e => e.outerHTML.slice(0, 120))""",
        room,
    )
    assert beyond == []


@SCREENS
def test_every_rule_is_to_be_seen_at_its_anchor_and_every_link_leads_somewhere(
    opened: Opened, rulesets: Rulesets, view: tuple[int, str]
) -> None:
    opened.show(view)
    heights = opened.tab.evaluate(
        "ids => ids.map(id => document.getElementById(id)?.getBoundingClientRect().height ?? 0)",
        ids := [rule.id for file in rulesets.files for rule in file.rules],
    )
    assert [id_ for id_, height in zip(ids, heights, strict=True) if height < 40] == []
    nowhere = opened.tab.evaluate(
        """[...document.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href").slice(1))
            .filter(id => !document.getElementById(id))"""
    )
    assert nowhere == []


def test_a_link_of_the_contents_brings_its_rule_into_view(opened: Opened) -> None:
    opened.show(DESK)
    opened.tab.click("nav a[href='#hypernatremia-extreme']")
    assert opened.tab.locator("[id='hypernatremia-extreme'] h4").is_visible()
    top = opened.tab.evaluate(
        "document.getElementById('hypernatremia-extreme').getBoundingClientRect().top"
    )
    assert 0 <= top < 100


PICTURES = """() => [...document.querySelectorAll("svg.strip")].map(svg => {
    const box = e => {
        const b = e.getBoundingClientRect();
        return [b.left, b.top, b.right, b.bottom];
    };
    const texts = selector => [...svg.querySelectorAll(selector)]
        .filter(e => getComputedStyle(e).display !== "none").map(e => [e.textContent, box(e)]);
    return {
        id: svg.getAttribute("aria-labelledby").split(" ")[0],
        box: box(svg),
        ticks: texts(".tick text"),
        words: texts("text.word, text.letter"),
        bars: [...svg.querySelectorAll("rect")].map(box),
    };
})"""


def inside(part: list[float], whole: list[float], slack: float = 1.0) -> bool:
    left, top, right, bottom = part
    return (
        left >= whole[0] - slack
        and top >= whole[1] - slack
        and right <= whole[2] + slack
        and bottom <= whole[3] + slack
    )


def overlap(one: list[float], other: list[float]) -> bool:
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > 0
        and min(one[3], other[3]) - max(one[1], other[1]) > 2  # lines of text may touch
    )


@MEDIA
def test_every_picture_can_be_read(opened: Opened, view: tuple[int, str]) -> None:
    opened.show(view)
    pictures = opened.tab.evaluate(PICTURES)
    assert len(pictures) > 100
    for picture in pictures:
        left, top, right, bottom = picture["box"]
        assert right - left > 200, picture["id"]
        assert bottom - top >= 50, picture["id"]
        assert picture["ticks"], picture["id"]
        assert picture["bars"], picture["id"]
        for text, box in picture["ticks"]:
            assert inside(box, picture["box"]), (picture["id"], text)
        texts = picture["ticks"] + picture["words"]
        for (text, one), (other, two) in combinations(texts, 2):
            assert not overlap(one, two), (picture["id"], text, other)
        for text, box in picture["words"]:
            assert any(inside(box, bar, 2) for bar in picture["bars"]), (picture["id"], text)


def test_every_kind_of_value_has_a_picture_in_its_part(opened: Opened) -> None:
    opened.show(DESK)
    parts = opened.tab.evaluate(
        """[...document.querySelectorAll(".scale-section")]
            .map(s => [s.id, s.querySelectorAll("svg.strip").length])"""
    )
    assert len(parts) > 15
    assert [id_ for id_, count in parts if not count] == []


def test_the_search_leaves_the_rules_that_have_all_the_words(opened: Opened) -> None:
    opened.show(DESK)
    tab = opened.tab
    everything = tab.locator("article.rule").count()
    tab.fill("nav input[type=search]", "Palpitations EMERGENCY")
    shown = tab.locator("article.rule:visible").evaluate_all("all => all.map(e => e.id)")
    assert "hypokalemia-with-danger-signs" in shown
    assert len(shown) < everything / 4
    assert tab.locator("nav [role=status]").inner_text().startswith(f"{len(shown)} of {everything}")
    links = tab.locator("nav .rules a:visible").evaluate_all("all => all.map(e => e.hash.slice(1))")
    assert links == shown
    for hidden in ("[id='electrolyte.hypernatremia']", "nav a[href$='.hypernatremia']"):
        assert tab.locator(hidden).is_hidden()

    # A link to a rule that is hidden ends the search.
    tab.evaluate("location.hash = '#hypernatremia-extreme'")
    tab.wait_for_selector("[id='hypernatremia-extreme']", state="visible")
    assert tab.locator("article.rule:visible").count() == everything

    tab.fill("nav input[type=search]", "no rule has this word")
    assert tab.locator("article.rule:visible").count() == 0
    tab.fill("nav input[type=search]", "")
    assert tab.locator("article.rule:visible").count() == everything


def test_it_is_whole_without_its_script(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(address)
    assert not tab.locator("nav input[type=search]").is_visible()
    assert tab.locator("[id='hypokalemia-severe'] h4").is_visible()
    tab.click("nav a[href='#hypokalemia-severe']")
    assert tab.url.endswith("#hypokalemia-severe")
    context.close()


def test_axe_finds_nothing_that_would_shut_somebody_out(opened: Opened) -> None:
    opened.show(DESK)
    results = axe.Axe().run(opened.tab)
    assert results.violations_count == 0, results.generate_report()
