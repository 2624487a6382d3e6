"""The tutorial's pages against the tutorial's endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import WebSocketRoute, expect
from tests.server.live_server import wait_for

from browser.people import Person
from browser.serving import Server
from browser.test_admin import axe

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]


def test_echo_of_text_and_bytes(people: MakePerson, shared_server: Server) -> None:
    page = people(shared_server).page
    page.goto(f"{shared_server.url}/tutorial/echo")
    expect(page.locator("#state")).to_have_text("Connected")
    page.get_by_role("textbox", name="Message").fill("hé")
    page.get_by_role("button", name="Send as text").click()
    expect(page.locator("#frames")).to_contain_text("Message text was: hé")
    page.get_by_role("button", name="Send as bytes").click()
    expect(page.locator("#frames .received.binary .data")).to_have_text("68 c3 a9")


def test_items_and_their_refusals(people: MakePerson, shared_server: Server) -> None:
    page = people(shared_server).page
    page.goto(f"{shared_server.url}/tutorial/items")
    page.get_by_label("Token").fill("")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("there is no token")
    page.get_by_label("Token").fill("abc")
    page.get_by_label("q (an integer, or nothing)").fill("x")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("q is “x”, which is no integer")
    page.get_by_label("q (an integer, or nothing)").fill("7")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#state")).to_have_text("Connected to item foo")
    page.get_by_role("textbox", name="Message").press("Enter")
    frames = page.locator("#frames")
    for text in (
        "Session cookie or query token value is: abc",
        "Query parameter q is: 7",
        "Message text was: Hello, for item ID: foo",
    ):
        expect(frames).to_contain_text(text)


def test_plain_chat_in_two_tabs(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    other = ann.tab()
    for page in (ann.page, other):
        page.goto(f"{shared_server.url}/tutorial/chat")
        expect(page.locator("#state")).to_contain_text("Connected as client #")
    number = ann.page.get_by_label("Your number").input_value()
    assert number != other.get_by_label("Your number").input_value()
    ann.page.get_by_role("textbox", name="Message").fill("<b>hi</b>")
    ann.page.get_by_role("textbox", name="Message").press("Enter")
    expect(ann.page.locator("#frames")).to_contain_text("You wrote: <b>hi</b>")
    expect(other.locator("#frames")).to_contain_text(f"Client #{number} says: <b>hi</b>")
    ann.page.close()
    expect(other.locator("#frames")).to_contain_text(f"Client #{number} left the chat")


def test_the_overview_leads_everywhere(people: MakePerson, shared_server: Server) -> None:
    page = people(shared_server).page
    page.goto(f"{shared_server.url}/tutorial")
    for link in page.locator("main a").all():
        assert page.request.get(f"{shared_server.url}{link.get_attribute('href')}").ok


def test_a_cut_while_the_history_is_read_loses_none_of_it(people: MakePerson, shared_server: Server) -> None:
    page, other = people(shared_server).page, people(shared_server).page
    address = f"{shared_server.url}/tutorial/channels#cut-read"
    held: list[str] = []

    def hold_the_first_history(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def passed_on(message: str | bytes) -> None:
            if not held and '"history"' in str(message):
                held.append(str(message))
            else:
                route.send(message)

        server.on_message(passed_on)

    other.goto(address)
    for text in ("one", "two"):
        other.get_by_role("textbox", name="Message").fill(text)
        other.get_by_role("textbox", name="Message").press("Enter")
        expect(other.locator("#frames")).to_contain_text(text)
    page.route_web_socket("**/connection/websocket", hold_the_first_history)
    page.goto(address)
    expect(page.locator("#state")).to_have_text("Connected")
    wait_for(lambda: page.wait_for_timeout(20) or held, what="the history is read")
    page.get_by_role("button", name="Cut the connection").click()
    other.get_by_role("textbox", name="Message").fill("three")
    other.get_by_role("textbox", name="Message").press("Enter")
    expect(other.locator("#frames")).to_contain_text("three")
    page.get_by_role("button", name="Let it through again").click()
    expect(page.locator("#frames .history")).to_have_count(2)
    expect(page.locator("#frames li .data")).to_have_text(
        [re.compile(f": {text}$") for text in ("three", "two", "one")]
    )
    expect(page.locator("#frames .missed")).to_have_count(1)
    expect(page.locator("#problem")).to_have_text("")


@pytest.mark.parametrize("part", ["", "/echo", "/items", "/chat", "/channels"])
def test_axe_finds_nothing(people: MakePerson, shared_server: Server, part: str) -> None:
    page = people(shared_server).page
    page.goto(f"{shared_server.url}/tutorial{part}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert axe(page) == []
