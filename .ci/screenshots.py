"""Takes the pictures of all pages and examples, with Debian's chromium: `make screenshots` writes docs/pictures."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser.conftest import ARGUMENTS, CHROMIUM  # noqa: E402
from browser.people import Person  # noqa: E402
from browser.serving import Server  # noqa: E402
from examples.serving import Example  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
DESK, PHONE = {"width": 1100, "height": 680}, {"width": 390, "height": 680}
TALK = (
    ("bob", "Is anybody at the harbour yet?"),
    ("ann", "I am. The ferry is twenty minutes late."),
    ("bob", "Good, I lost the signal in the tunnel and missed nothing."),
    ("ann", "Same here, and the server was restarted in between."),
)


def main() -> None:
    """Take them all."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        with tempfile.TemporaryDirectory() as folder:
            server = Server(Path(folder), "--playground")
            server.start()
            try:
                _server(browser, server)
            finally:
                server.stop()
        for name, show in EXAMPLES.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                example = Example(name, Path(folder)).start()
                try:
                    show(browser, example)
                finally:
                    example.end()
        browser.close()


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(600)
    page.screenshot(path=PICTURES / f"{name}.png")
    print(f"docs/pictures/{name}.png")


def _server(browser: Browser, server: Server) -> None:
    people = {
        "ann": Person(browser, server.url, "ann", viewport=DESK, color_scheme="light").sign_up(),
        "bob": Person(browser, server.url, "bob", viewport=PHONE, color_scheme="dark").sign_up(),
    }
    for name, text in TALK:
        people[name].say(text)
        people[name].page.get_by_text(text).last.wait_for()
    _save(people["ann"].page, "chat")
    _save(people["bob"].page, "chat-phone")
    ann = people["ann"].page
    for name, address in (
        ("tutorial", "/tutorial/chat"),
        ("channels", "/tutorial/channels"),
        ("pipelines", "/pipelines"),
    ):
        ann.goto(server.url + address)
        _save(ann, name)
    ann.goto(f"{server.url}/playground")
    ann.get_by_role("button", name="Publish", exact=True).click()
    ann.get_by_text("14 published").wait_for()
    ann.get_by_role("button", name="publish 14").click()
    ann.get_by_text("missed 14, recovered 14, doubled 0").wait_for()
    _save(ann, "playground")


def _page(browser: Browser, address: str, *, dark: bool = False) -> Page:
    scheme = "dark" if dark else "light"
    page = browser.new_context(viewport=DESK, color_scheme=scheme).new_page()
    page.goto(address)
    return page


def _chat(browser: Browser, example: Example) -> None:
    pages = {}
    for name in ("ann", "bob"):
        pages[name] = _page(browser, example.url)
        pages[name].get_by_label("Name").fill(name)
        pages[name].get_by_role("button", name="Log in").click()
        pages[name].get_by_text("connected", exact=True).wait_for()
    for name, text in TALK:
        pages[name].get_by_label("Message").fill(text)
        pages[name].get_by_label("Message").press("Enter")
        pages[name].get_by_text(text).wait_for()
    pages["bob"].get_by_label("Message").press_sequentially("hm")
    _save(pages["ann"], "example-chat")


def _collab(browser: Browser, example: Example) -> None:
    ann, bob = (_page(browser, f"{example.url}/?name={name}") for name in ("ann", "bob"))
    for page, shape in (
        (ann, [(300, 260), (560, 180), (760, 390), (480, 480)]),
        (bob, [(360, 560), (660, 620), (860, 480)]),
    ):
        page.mouse.move(*shape[0])
        page.mouse.down()
        for x, y in shape[1:]:
            page.mouse.move(x, y, steps=12)
        page.mouse.up()
    _save(ann, "example-collab")


def _dashboard(browser: Browser, example: Example) -> None:
    page = _page(browser, example.url, dark=True)
    page.wait_for_timeout(25_000)
    _save(page, "example-dashboard")


def _notifications(browser: Browser, example: Example) -> None:
    page = _page(browser, f"{example.url}/?name=ann")
    for title in ("The ferry is late", "bob wrote to you", "Backup finished"):
        page.request.post(f"{example.url}/notify/ann", data=json.dumps({"title": title}), headers=JSON)
    page.get_by_role("button", name="Order tea").click()
    _save(page, "example-notifications")


def _game(browser: Browser, example: Example) -> None:
    pages = [_page(browser, f"{example.url}/?name={name}") for name in ("ann", "bob", "carl")]
    for page, key in zip(pages, ("ArrowRight", "ArrowDown", "ArrowLeft"), strict=True):
        page.keyboard.down(key)
    pages[0].wait_for_timeout(4_000)
    _save(pages[0], "example-game")


def _logs(browser: Browser, example: Example) -> None:
    page = _page(browser, example.url, dark=True)
    lines = ("INFO: pump 3 started", "DEBUG: 17 readings", "WARNING: pressure 4.1 bar", "ERROR: valve 2 is stuck")
    with (example.folder / "app.log").open("a") as log:
        log.writelines(f"{line} ({number})\n" for number in range(5) for line in lines)
    _save(page, "example-logs")


def _ask(browser: Browser, example: Example) -> None:
    page = _page(browser, example.url, dark=True)
    page.get_by_role("textbox").first.fill("When does the tide turn?")
    page.get_by_role("textbox").first.press("Enter")
    page.wait_for_timeout(2_500)
    _save(page, "example-ask")


def _jobs(browser: Browser, example: Example) -> None:
    page = _page(browser, f"{example.url}/jobs#/new")
    text = example.folder / "moby.txt"
    text.write_text("call me ishmael some years ago never mind how long precisely\n" * 400)
    page.locator("#file-text").set_input_files(text)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_timeout(3_000)
    _save(page, "example-jobs")


JSON = {"Content-Type": "application/json"}
EXAMPLES: dict[str, Callable[[Browser, Example], None]] = {
    "chat": _chat,
    "collab": _collab,
    "dashboard": _dashboard,
    "notifications": _notifications,
    "game": _game,
    "logs": _logs,
    "ask": _ask,
    "jobs": _jobs,
}

if __name__ == "__main__":
    main()
