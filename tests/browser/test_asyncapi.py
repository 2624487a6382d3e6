"""The page of the AsyncAPI document, in a real Chromium and against a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect

from asyncapi.example import app
from browser.looks import check
from browser.people import Person
from contract.serving import free_port
from tidewire.links.uvicorn import WebSocketProtocol

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


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


def test_a_channel_and_a_call_are_tried(chromium: Browser, url: str) -> None:
    person = Person(chromium, url, "reader")
    page = person.page
    page.goto(f"{url}/asyncapi")
    expect(page.get_by_role("heading", name="Example")).to_be_visible()
    room = page.locator("#room")
    room.locator("summary").first.click()
    room.get_by_label("room").fill("1")
    room.get_by_role("button", name="Subscribe").click()
    expect(room.locator(".log")).to_contain_text("subscribed to room:1")
    room.get_by_role("button", name="Publish").click()
    expect(room.locator(".log")).to_contain_text('"text":"hello!"')
    room.get_by_label("message").fill('{"text": ""}')
    room.get_by_role("button", name="Publish").click()
    expect(room.locator(".log .problem")).to_contain_text("at least 1 character")
    call = page.locator("#rpc_twice")
    call.locator("summary").first.click()
    call.get_by_role("button", name="Call").click()
    expect(call.locator(".log")).to_contain_text("hellohello")
    check(page)
    assert not person.errors
    assert all(url.split("//")[1] in address for address in person.addresses), person.addresses
    person.context.close()
