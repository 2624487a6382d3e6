"""The admin page in Chromium: what it shows, what can be done with it, how it looks and reads."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect
from pydantic import BaseModel
from tests.server.live_server import wait_for

from browser.looks import check
from browser.people import DESK, PHONE, Person
from browser.serving import Server
from contract.serving import free_port
from helpers.node_packages import node_modules
from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]
AXE = Path(__file__).parent / "axe"
VIEWS = ("nodes", "channels", "channels/playground%3Aroom-1", "connections", "refusals", "runs", "act")


#: Opens connections to the playground, which answer pings; the first one is refused something.
CLIENTS = """(count) => Promise.all([...Array(count).keys()].map((number) => new Promise((resolve) => {
  const socket = new WebSocket(`ws://${location.host}/connection/websocket`);
  socket.onopen = () => {
    socket.send(JSON.stringify({ id: 1, connect: { data: { tidewire: "playground", name: `u${number}` } } }));
    socket.send(JSON.stringify({ id: 2, subscribe: { channel: `playground:room-${number % 3}` } }));
    if (!number) socket.send(JSON.stringify({ id: 3, publish: { channel: "nobody's", data: 1 } }));
  };
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\\n")) if (line === "{}") socket.send("{}");
    if (data.includes('"id":2')) resolve();
  };
})))"""


@pytest.fixture(scope="module")
def clients(chromium: Browser, shared_server: Server) -> Iterator[int]:
    page = chromium.new_page()
    page.goto(f"{shared_server.url}/healthz")
    page.evaluate(CLIENTS, 60)
    yield 60
    page.close()


def open_view(person: Person, server: Server, view: str) -> Page:
    page = person.page
    page.goto(f"{server.url}/admin#/{view}")
    return page


def axe(page: Page) -> list[str]:
    """Return what axe-core finds wrong; it is run beside the page's own policy, which forbids foreign scripts."""
    source = (node_modules(AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page.evaluate(f"() => {{ {source} }}")
    found = page.evaluate(
        "async () => (await axe.run()).violations.map((one) => [one.id, one.nodes.map((n) => n.html)])"
    )
    return [f"{name}: {nodes}" for name, nodes in found]


def test_the_channels_of_two_nodes_are_a_range(people: MakePerson, shared_server: Server) -> None:
    with urllib.request.urlopen(f"{shared_server.url}/admin/live", timeout=20) as lines:
        node = json.loads(lines.readline())
    told = "\n".join(json.dumps({**node, "node": name, "channels": count}) for name, count in (("a", 2), ("b", 3)))
    ann = people(shared_server)
    ann.page.route("**/admin/live", lambda route: route.fulfill(content_type="application/x-ndjson", body=told))
    page = open_view(ann, shared_server, "nodes")
    expect(page.locator("#figures div", has_text="Channels").locator("dd")).to_have_text("3–5")


def test_it_shows_all_that_there_is(people: MakePerson, shared_server: Server, clients: int) -> None:
    ann = people(shared_server)
    page = open_view(ann, shared_server, "nodes")
    expect(page.locator("#figures div", has_text="Subscriptions").locator("dd")).to_have_text("60")
    expect(page.locator("#charts b").first).not_to_have_text("")
    page.get_by_role("link", name="Connections").click()
    expect(page.locator("#connections-table tbody tr")).to_have_count(50)
    expect(page.locator("#connections .pager")).to_contain_text("1 to 50 of 60")
    page.get_by_role("button", name="Later").click()
    expect(page.locator("#connections-table tbody tr")).to_have_count(10)
    page.locator(".chapters").get_by_role("link", name="Channels").click()
    page.get_by_label("Search channels").fill("room-1")
    expect(page.locator("#channels-table tbody tr")).to_have_count(1)
    expect(page.locator("#channels-table tbody tr")).to_contain_text("playground:room-1")
    page.get_by_role("link", name="Refusals").click()
    expect(page.locator("#refusals-table")).to_contain_text("permission_denied")
    assert all(address.startswith(shared_server.url) for address in ann.addresses)


def test_what_can_be_done(people: MakePerson, shared_server: Server, clients: int) -> None:
    page = open_view(people(shared_server), shared_server, "act")
    page.locator("#publish-channel").fill("playground:room-1")
    page.get_by_label("JSON").fill('{"text": "from the admin page"}')
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#publish-answer")).to_contain_text("Kept at offset")
    page.locator("#why-user").fill("ann")
    page.locator("#why-channel").fill("playground:room-1")
    page.get_by_role("button", name="Ask the rules").click()
    expect(page.locator("#why-answer")).to_contain_text("rule playground:*")
    open_view(people(shared_server), shared_server, "nodes")
    page.goto(f"{shared_server.url}/admin#/channels")
    page.get_by_role("link", name="playground:room-1", exact=True).press("Enter")
    expect(page.locator("#channel-history")).to_contain_text("from the admin page")
    expect(page.locator("#channel-title")).to_be_in_viewport()
    expect(page.locator("#channel-title")).to_be_focused()
    page.get_by_role("button", name="Remove the history").click()
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#channel-history")).to_have_text("Nothing is kept.")
    page.get_by_role("link", name="Connections").click()
    page.get_by_label("Search by user").fill("room-2")
    expect(page.locator("#connections-table tbody tr")).to_have_count(20)
    page.get_by_role("button", name="Disconnect").first.click()
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#connections-table tbody tr")).to_have_count(19)
    page.get_by_role("button", name="Unsubscribe").first.click()
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#connections-table tbody tr")).to_have_count(18)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1_280, "light")])
def test_axe_finds_nothing_and_nothing_is_beside_the_screen(
    people: MakePerson, shared_server: Server, clients: int, scheme: str, width: int
) -> None:
    options = PHONE if width == 390 else {"width": width, "height": 900}
    page = people(shared_server, color_scheme=scheme, viewport={**options, "width": width}).page
    many = {"commands": [{"publish": {"channel": "playground:room-1", "data": "x" * 300}}] * 40}
    assert page.request.post(f"{shared_server.url}/admin/api/batch", data=many).ok
    for view in VIEWS:
        page.goto(f"{shared_server.url}/admin#/{view}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
        check(page)
        assert axe(page) == [], view
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(
            "[...document.querySelectorAll('.chapters a')].every((a) => a.getBoundingClientRect().right <= innerWidth)"
        )


def test_a_phone_shows_each_row_whole(people: MakePerson, shared_server: Server, clients: int) -> None:
    page = open_view(people(shared_server, viewport=PHONE), shared_server, "connections")
    expect(page.locator("#connections-table tbody tr")).to_have_count(50)
    row = page.locator("#connections-table tbody tr").filter(has_text="playground:").first  # others may be there, too
    for name in ("Disconnect", "Unsubscribe"):
        expect(row.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    assert row.evaluate("(row) => row.querySelector('[data-title=Channels]').textContent").startswith("playground:")
    assert page.locator("#connections .wide-table").evaluate("(node) => node.scrollWidth <= node.clientWidth")


def test_long_names_of_clients_leave_every_column_in_sight(people: MakePerson, shared_server: Server) -> None:
    long = "x" * 200
    error = {"user": long, "channel": long, "why": f"{long} {long}", "rule": long, "address": "2001:db8::1"}
    channel = {
        "channel": long,
        "pattern": long,
        "subscribers": 1,
        "offset": 1,
        "history_size": 10,
        "slow": "disconnect",
    }
    connection = {
        **error,
        "client": "1",
        "channels": [long, long],
        "subscriptions": 3,
        "error": long,
        "age": 5,
        "unsent": 0,
    }
    run = {"id": "1", "pipeline": long, "sample": long, "status": "failed", "step": long, "progress": 50, "user": long}
    connection |= {"protocol": "centrifuge_json", "kind": "websocket", "state": "open"}
    answers = {
        "api/refusals": {"refusals": [{**error, "time": 0, "kind": "permission_denied"}]},
        "api/channel_list": {"total": 1, "channels": [{**channel, "history_seconds": 60}]},
        "api/connection_list": {"total": 1, "connections": [connection]},
        "runs?*": {"total": 1, "runs": [{**run, "error": long, "started": 1, "ended": 2, "may_cancel": True}]},
    }
    ann = people(shared_server)
    for path, answer in answers.items():
        body = answer if path == "runs?*" else {"result": answer}
        ann.page.route(f"**/admin/{path}", lambda route, *, body=body: route.fulfill(json=body))
    for view in ("refusals", "channels", "connections", "runs"):
        page = open_view(ann, shared_server, view)
        expect(page.locator(f"#{view}-table tbody")).to_contain_text(long[:50])
        table = page.locator(f"#{view} .wide-table")
        assert table.evaluate("(node) => node.scrollWidth <= node.clientWidth"), view


def test_it_works_by_keyboard(people: MakePerson, shared_server: Server, clients: int) -> None:
    page = open_view(people(shared_server), shared_server, "nodes")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_role("link", name="Nodes").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Channels")
    page.get_by_role("link", name="Connections").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Disconnect").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    expect(page.locator("#connections .pager")).to_be_visible()


def test_a_server_for_others_asks_for_its_key(
    people: MakePerson, own_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEWIRE_HTTP_API__KEY", "a key of the test")
    server = own_server("--host", "0.0.0.0")
    page = open_view(people(server), server, "nodes")
    expect(page.get_by_label("Key of the HTTP API")).to_be_visible()
    expect(page.locator("#nodes-table tr")).to_have_count(0)
    page.get_by_label("Key of the HTTP API").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("missing or wrong")
    page.get_by_label("Key of the HTTP API").fill("a key of the test")
    page.keyboard.press("Enter")
    expect(page.locator("#nodes-table tbody tr")).to_have_count(1)


@pytest.fixture(scope="module")
def typed() -> Iterator[str]:
    """Serve an application whose channels have types."""
    port, hub = free_port(), Hub()

    class Said(BaseModel):
        text: str
        stars: int = 3
        mood: Literal["calm", "loud"] = "calm"

    @hub.channel("room:{room}", publishes=Said)
    async def room(room: int) -> bool:
        return True

    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.admin_router())
    config = uvicorn.Config(app, port=port, ws=WebSocketProtocol, log_level="critical", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    wait_for(lambda: server.started, what="the application")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_the_publish_form_is_made_from_the_channels_type(
    chromium: Browser, typed: str, viewport: dict[str, int]
) -> None:
    page = Person(chromium, typed, "root", viewport=viewport).page
    page.goto(f"{typed}/admin#/act")
    page.locator("#publish-channel").fill("room:1")
    page.locator("#publish-channel").press("Tab")
    page.get_by_label("Text").fill("from the form")
    page.get_by_label("Stars").fill("5")
    page.get_by_label("Mood").select_option("loud")
    expect(page.locator("#publish-data")).to_have_value(re.compile('"stars": 5'))
    check(page)
    assert axe(page) == []
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#publish-answer")).to_contain_text("Kept at offset")
    page.goto(f"{typed}/admin#/channels/room%3A1")
    expect(page.locator("#channel-history")).to_contain_text('{"text":"from the form","stars":5,"mood":"loud"}')
    page.goto(f"{typed}/admin#/act")
    page.locator("#publish-channel").fill("other")
    page.locator("#publish-channel").press("Tab")
    expect(page.get_by_label("Stars")).to_have_count(0)
