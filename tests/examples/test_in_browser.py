"""Every example in two real browsers, one a desk's and one a phone's, whose server is killed in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from browser.conftest import ARGUMENTS, CHROMIUM
from browser.people import DESK, PHONE
from examples.serving import Example
from requirements import require

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.slow]

Open = Callable[..., Page]
#: A number of four or more.
SEVERAL = re.compile(r"^([4-9]|\d\d+)$")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    require(CHROMIUM.exists(), "chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Callable[[str], Example]]:
    made: list[Example] = []

    def start(name: str) -> Example:
        made.append(Example(name, tmp_path).start())
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def both(chromium: Browser) -> Iterator[Callable[[str, str], tuple[Page, Page]]]:
    """Open two addresses, on a desk and on a phone; no page may complain, and none is wider than its screen."""
    contexts: list[Any] = []
    errors: list[str] = []

    def open_both(first: str, second: str) -> tuple[Page, Page]:
        pages = []
        for address, size in ((first, DESK), (second, PHONE)):
            context = chromium.new_context(viewport=size)
            context.set_default_timeout(15_000)
            contexts.append(context)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            pages.append(page)
        return pages[0], pages[1]

    yield open_both
    for context in contexts:
        for page in context.pages:
            width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert width[0] <= width[1], f"{page.url} is wider than its screen"
        context.close()
    assert not errors


def again(example: Example, *pages: Page) -> None:
    """Kill the server, start it again, and wait until the pages are connected."""
    example.end()
    for page in pages:
        expect(page.locator("#state")).to_have_text("connecting")
    example.start()
    for page in pages:
        expect(page.locator("#state")).to_have_text("connected", timeout=20_000)


def test_chat(example: Callable[[str], Example], both: Open) -> None:
    server = example("chat")
    ann, bob = both(server.url, server.url)
    for page, name in ((ann, "ann"), (bob, "bob")):
        page.get_by_label("Name").fill(name)
        button = page.get_by_role("button", name="Log in")
        shape = button.bounding_box()
        assert shape
        assert shape["height"] < 60, "the form is not stretched over the page"
        button.click()
        expect(page.locator("#state")).to_have_text("connected")
    expect(ann.locator("#people li")).to_have_text(["ann", "bob"])
    bob.get_by_label("Message").press_sequentially("hello")
    expect(ann.locator("#typing")).to_have_text("bob is typing…")
    bob.get_by_label("Message").press("Enter")
    expect(ann.locator("#messages")).to_contain_text("hello")
    again(server, ann, bob)
    ann.get_by_label("Message").fill("after the restart")
    ann.get_by_label("Message").press("Enter")
    expect(bob.locator("#messages li")).to_have_count(2)
    expect(bob.locator("#messages")).to_contain_text("after the restart")


def test_collab(example: Callable[[str], Example], both: Open) -> None:
    server = example("collab")
    ann, bob = both(f"{server.url}/?name=ann", f"{server.url}/?name=bob")
    box = ann.locator("#canvas").bounding_box()
    assert box
    ann.mouse.move(box["x"] + 50, box["y"] + 50)
    ann.mouse.down()
    ann.mouse.move(box["x"] + 200, box["y"] + 150, steps=8)
    ann.mouse.up()
    expect(bob.locator("#canvas")).to_have_attribute("data-strokes", "1")
    expect(bob.locator(".cursor")).to_have_text("ann")
    for page in (ann, bob):
        shape = page.locator("#canvas").bounding_box()
        assert shape
        assert abs(shape["width"] / shape["height"] - 4 / 3) < 0.02, "a circle is a circle on both"
    expect(bob.get_by_role("button", name="Undo")).to_be_disabled()
    ann.get_by_role("button", name="Undo").click()
    expect(bob.locator("#canvas")).to_have_attribute("data-strokes", "0")
    ann.get_by_role("radio", name="violet").check()
    ann.mouse.move(box["x"] + 50, box["y"] + 50)
    ann.mouse.down()
    ann.mouse.move(box["x"] + 90, box["y"] + 90, steps=4)
    ann.mouse.up()
    expect(bob.locator("#canvas")).to_have_attribute("data-strokes", "1")
    again(server, ann, bob)
    bob.reload()
    expect(bob.locator("#canvas")).to_have_attribute("data-strokes", "1")
    bob.get_by_role("button", name="Clear").click()
    expect(ann.locator("#canvas")).to_have_attribute("data-strokes", "0")


def test_dashboard(example: Callable[[str], Example], both: Open) -> None:
    server = example("dashboard")
    desk, phone = both(server.url, server.url)
    for title in ("Processor", "Memory", "Gold", "Cellar"):
        chart = desk.locator("article", has=desk.get_by_role("heading", name=title))
        expect(chart).to_have_attribute("data-points", SEVERAL, timeout=20_000)
    expect(phone.locator("article").first).to_have_attribute("data-points", SEVERAL, timeout=20_000)
    again(server, desk, phone)
    points = int(desk.locator("article").first.get_attribute("data-points") or 0)
    assert points >= 4, "what was there before the restart is there again"
    expect(desk.locator("article").first).not_to_have_attribute("data-points", str(points))


def test_notifications(example: Callable[[str], Example], both: Open) -> None:
    server = example("notifications")
    desk, phone = both(f"{server.url}/?name=ann", f"{server.url}/?name=ann")
    desk.get_by_label("Message").fill("water the plants")
    desk.get_by_role("button", name="Send").click()
    desk.get_by_role("button", name="Order tea").click()
    expect(phone.locator("#count")).to_have_text("2")
    server.end()
    expect(desk.locator("#state")).to_have_text("connecting")
    desk.get_by_label("Message").fill("while it was down")
    desk.get_by_role("button", name="Send").click()
    expect(desk.get_by_role("alert")).to_contain_text("nothing was sent")
    expect(desk.get_by_label("Message")).to_have_value("while it was down")
    again(server, desk, phone)
    desk.get_by_role("button", name="Export").click()
    for page in (desk, phone):
        expect(page.locator("#list li")).to_have_count(3)
    phone.get_by_role("button", name="Mark all as read").click()
    expect(desk.locator("#count")).to_be_hidden()


def test_game(example: Callable[[str], Example], both: Open) -> None:
    server = example("game")
    ann, bob = both(f"{server.url}/?name=ann", f"{server.url}/?name=bob")
    for page in (ann, bob):
        expect(page.locator("#arena")).to_have_attribute("data-players", "ann,bob", timeout=20_000)
    where = int(ann.locator("#arena").get_attribute("data-x") or 0)
    key = "ArrowRight" if where < 500 else "ArrowLeft"
    ann.keyboard.down(key)
    ann.wait_for_function(f"Math.abs(document.querySelector('#arena').dataset.x - {where}) > 50")
    ann.keyboard.up(key)
    expect(ann.locator("#latency")).to_contain_text("ms")
    box = ann.locator("#arena").bounding_box()
    assert box is not None
    aim = 0.2 if int(ann.locator("#arena").get_attribute("data-x") or 0) > 500 else 0.8
    ann.mouse.move(box["x"] + aim * box["width"], box["y"] + 0.5 * box["height"])
    ann.mouse.down()  # she runs to the finger, and stops there
    ann.wait_for_function(f"Math.abs(document.querySelector('#arena').dataset.x - {aim * 1000}) < 20")
    ann.mouse.up()
    expect(bob.locator("#scores li.me")).to_contain_text("bob")
    tick = int(bob.locator("#arena").get_attribute("data-tick") or 0)
    again(server, ann, bob)
    bob.wait_for_function(f"Number(document.querySelector('#arena').dataset.tick) > {tick} + 5")
    expect(bob.locator("#scores li")).to_have_count(2)


def test_logs(example: Callable[[str], Example], both: Open) -> None:
    server = example("logs")
    file = server.folder / "app.log"
    file.write_text("INFO: begun\n")
    desk, phone = both(server.url, server.url)
    expect(desk.locator("#log")).to_contain_text("begun")
    server.end()
    with file.open("a") as log:
        log.write("ERROR: while it was down\n")
    server.start()
    for page in (desk, phone):
        expect(page.locator("#log")).to_contain_text("while it was down", timeout=20_000)
        expect(page.locator("#log li")).to_have_count(2)
    phone.get_by_label("Level").select_option("error")
    expect(phone.locator("#log li")).to_have_count(1)
    desk.get_by_role("button", name="Pause").click()
    with file.open("a") as log:
        log.write("INFO: more\n")
    expect(desk.get_by_role("button", name="Go on (1 new)")).to_be_visible()
    expect(desk.locator("#log li")).to_have_count(2)


def test_jobs(example: Callable[[str], Example], both: Open, tmp_path: Path) -> None:
    server = example("jobs")
    desk, phone = both(f"{server.url}/jobs", f"{server.url}/jobs#/new")
    text = tmp_path / "rose.txt"
    text.write_text("a rose is a rose is a rose\n" * 50)
    phone.locator("#file-text").set_input_files(text)
    phone.get_by_role("button", name="Start", exact=True).click()
    expect(phone.locator("#steps")).to_contain_text("words")
    expect(phone.locator("#run-state")).to_have_text("Running")
    server.end()
    server.start()
    phone.get_by_role("button", name="Resume").click(timeout=30_000)
    expect(phone.locator("#run-state")).to_have_text("Finished", timeout=40_000)
    expect(desk.locator("#runs")).to_contain_text("rose", timeout=20_000)
    with phone.context.expect_page() as shown:
        phone.get_by_role("link", name="Open report.html").click()
    expect(shown.value.get_by_role("heading")).to_have_text("rose")
    shown.value.close()
