"""The page of the AsyncAPI document, in a real Chromium: of an application, and of the ready server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect

from asyncapi.example import app
from browser.looks import SMALL, check
from browser.people import DESK, PHONE, Person
from browser.serving import Server
from contract.serving import free_port
from tidewire.links.uvicorn import WebSocketProtocol

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

#: Clicks buttons by their names, all at once.
CLICK = """(part, names) => {
  const buttons = [...part.querySelectorAll("button")];
  for (const name of names) buttons.find((one) => one.textContent === name).click();
}"""
WIDER = "() => document.documentElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    config = uvicorn.Config(app, port=port, ws=WebSocketProtocol, log_level="critical", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
def test_a_channel_and_a_call_are_tried(chromium: Browser, url: str, scheme: str, viewport: dict[str, int]) -> None:
    person = Person(chromium, url, "reader", color_scheme=scheme, viewport=viewport)
    page = person.page
    page.goto(f"{url}/asyncapi")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Example 1.2.3")
    room = page.locator("#room")
    room.locator("summary").first.click()
    room.get_by_role("button", name="Publish").click()
    expect(room.get_by_role("log")).to_contain_text("needs a room")
    room.get_by_label("room", exact=True).fill("1")
    room.get_by_role("button", name="Subscribe").click()
    expect(room.get_by_role("log")).to_contain_text("subscribedroom:1")
    expect(page.locator("#pill")).to_have_text("Connected")
    room.get_by_role("button", name="Publish").click()
    expect(room.get_by_role("log")).to_contain_text('"text":"hello!"')
    room.get_by_label("Message").fill('{"text": ""}')
    room.get_by_role("button", name="Publish").click()
    expect(room.locator(".refused").last).to_contain_text("at least 1 character")
    room.get_by_label("Message").fill("{")
    room.get_by_role("button", name="Publish").click()
    expect(room.locator(".refused").last).to_contain_text("this is no JSON")
    room.get_by_role("button", name="History").click()
    expect(room.get_by_role("log")).to_contain_text("the last ones:")
    call = page.locator("#rpc_twice")
    call.locator("summary").first.click()
    call.get_by_role("button", name="Call").click()
    expect(call.get_by_role("log")).to_contain_text("hellohello")
    check(page)
    assert viewport is DESK or page.evaluate(SMALL) == []
    assert not page.evaluate(WIDER)
    assert not person.errors
    assert all(url.split("//")[1] in address for address in person.addresses), person.addresses
    person.context.close()


def test_by_keyboard_and_by_address(chromium: Browser, url: str) -> None:
    person = Person(chromium, url, "typist")
    page = person.page
    page.goto(f"{url}/asyncapi#moves")
    expect(page.locator("#moves")).to_have_attribute("open", "")
    expect(page.locator("#moves > summary")).to_be_focused()
    page.get_by_role("navigation", name="Contents").get_by_role("link", name="numbers").press("Enter")
    expect(page.locator("#numbers > summary")).to_be_focused()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Subscribe":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#numbers").get_by_role("log")).to_contain_text("subscribednumbers")
    assert not person.errors
    person.context.close()


def test_the_ready_server_leads_to_all_pages_and_lets_strangers_try(
    people: Callable[..., Person], shared_server: Server
) -> None:
    page = people(shared_server).page
    page.goto(f"{shared_server.url}/asyncapi")
    links = page.get_by_role("navigation", name="Pages").get_by_role("link")
    expect(links).to_have_text(["Chat", "Pipelines", "Tutorial", "Channels", "Admin", "API", "Docs"])
    expect(page.get_by_role("link", name="Channels")).to_have_attribute("aria-current", "page")
    playground = page.locator("#playground_name")
    playground.locator("summary").first.click()
    playground.get_by_label("name", exact=True).fill("tried")
    # subscribers alone may publish: a click that comes at once waits for the subscription
    playground.evaluate(CLICK, ["Subscribe", "Publish"])
    expect(playground.get_by_role("log")).to_contain_text('offset 1{"text":"Hello"}')
    playground.evaluate(CLICK, ["Unsubscribe", "Unsubscribe", "Unsubscribe"])
    expect(playground.get_by_role("log").get_by_text("left")).to_have_count(2)
    expect(playground.get_by_role("button", name="Subscribe", exact=True)).to_be_visible()
    page.goto(f"{shared_server.url}/asyncapi#name")
    closed = page.locator("#name")
    closed.get_by_label("name", exact=True).fill("news")
    closed.get_by_role("button", name="Subscribe").click()
    expect(closed.locator(".refused").first).to_be_visible()
    check(page)
