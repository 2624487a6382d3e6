"""The module and the browser's own EventSource, in a real Chromium and against a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.looks import SMALL, check
from clients.serving import Service, serving

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("module")) as service:
        yield service


@pytest.fixture
def page(chromium: Browser, service: Service) -> Iterator[Page]:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{service.base}/tutorial")
    yield page
    context.close()


def run(page: Page, body: str, *arguments: Any) -> Any:
    """Run `body` with the module as `m`; what it leaves in `window.t` stays for the next one."""
    return page.evaluate(
        f"async (a) => {{ const m = await import('/connection/tidewire.js'); const t = (window.t ??= {{}}); {body} }}",
        list(arguments),
    )


def wait(page: Page, condition: str) -> None:
    """Wait until a condition holds in the page, whose policy lets nobody evaluate it there again and again."""
    end = time.monotonic() + 25
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not in time: {condition}"
        page.wait_for_timeout(20)


def test_a_page_follows_a_channel_and_comes_back(page: Page, service: Service) -> None:
    body = """
        t.seen = [];
        t.client = m.connect("/connection/websocket");
        t.room = t.client.subscribe("news:page", ({ data }) => t.seen.push(data.n));
        await new Promise((resolve) => t.room.on("subscribed", resolve));
        t.states = [];
        for (const state of ["connecting", "connected"]) t.client.on(state, () => t.states.push(state));
        await t.client.publish("news:page", { n: 1 });
        return t.client.state;
    """
    assert run(page, body) == "connected"
    service.publish("news:page", 2)
    wait(page, "t.seen.length === 2")
    service.server.kill()
    wait(page, "t.states.length >= 1")
    service.server.start()
    service.publish("news:page", 3)
    page.evaluate("dispatchEvent(new Event('online'))")  # a wait ends when the network is back
    wait(page, "t.seen.length === 3")
    assert run(page, "return [t.seen, t.states.at(-1)]") == [[1, 2, 3], "connected"]
    assert run(page, "t.client.disconnect(); return t.client.state") == "disconnected"


def test_a_socket_that_died_in_silence_is_noticed_when_the_page_is_looked_at(page: Page, service: Service) -> None:
    body = """
        const Real = WebSocket;
        class Deaf extends Real {
          send(data) { if (!t.isDeaf) super.send(data); }
        }
        t.states = [];
        t.client = new m.Client("/connection/websocket", { WebSocket: Deaf, timeout: 500 });
        t.client.on("connecting", ({ reason }) => t.states.push(reason));
        t.client.on("connected", () => t.states.push("connected"));
        t.client.connect();
        await t.client.ready();
        dispatchEvent(new Event("online"));
        await new Promise((resolve) => setTimeout(resolve, 1_000));
        const before = t.states.length;
        t.isDeaf = true;
        document.dispatchEvent(new Event("visibilitychange"));
        return before;
    """
    assert run(page, body) == 2  # it answered, and stayed
    wait(page, "t.states.length === 3")
    assert run(page, "t.isDeaf = false; return t.states.at(-1)") == "the server does not answer"
    wait(page, "t.states.at(-1) === 'connected'")


def test_a_page_that_was_left_lets_go_and_comes_back(page: Page, service: Service) -> None:
    body = """
        t.seen = [];
        t.states = [];
        t.client = m.connect("/connection/websocket");
        t.client.on("connecting", ({ reason }) => t.states.push(reason));
        t.client.subscribe("news:left", ({ data }) => t.seen.push(data.n));
        await t.client.publish("news:left", { n: 1 });
        dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
        await new Promise((resolve) => setTimeout(resolve, 1_500));
        return [t.states.at(-1), t.client.state];
    """
    assert run(page, body) == ["the page was left", "connecting"]  # and nothing tries to come back
    service.publish("news:left", 2)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    wait(page, "t.seen.length === 2")
    assert run(page, "t.client.disconnect(); return t.seen") == [1, 2]


def test_who_is_logged_in_by_a_cookie_is_known(page: Page, service: Service) -> None:
    name, token = service.server.sign_up()
    page.context.add_cookies([{"name": "token", "value": token, "url": service.base}])
    body = """
        t.client = m.connect("/connection/websocket");
        const room = t.client.subscribe("news:cookie");
        await new Promise((resolve) => room.on("subscribed", resolve));
        return (await room.presence()).map(({ user }) => user);
    """
    assert run(page, body) == [name]


def test_an_event_source_goes_on_where_it_was(page: Page, service: Service) -> None:
    body = """
        const request = { subs: { "news:events": {} } };
        t.seen = [];
        t.connects = [];
        t.source = new EventSource(`/connection/uni_sse?cf_connect=${encodeURIComponent(JSON.stringify(request))}`);
        t.source.onmessage = ({ data }) => {
          const push = JSON.parse(data);
          if (push.connect) {
            const sub = push.connect.subs["news:events"];
            t.connects.push(sub.recovered ?? null);
            for (const pub of sub.publications ?? []) t.seen.push(pub.data.n);
          }
          if (push.pub) t.seen.push(push.pub.data.n);
        };
    """
    run(page, body)
    wait(page, "t.connects.length === 1")
    service.publish("news:events", 1, 2)
    wait(page, "t.seen.length === 2")
    service.server.kill()
    service.server.start()
    service.publish("news:events", 3, 4)
    wait(page, "t.seen.length === 4")
    service.publish("news:events", 5)
    wait(page, "t.seen.length === 5")
    assert run(page, "t.source.close(); return [t.seen, t.connects]") == [[1, 2, 3, 4, 5], [None, True]]


def test_the_page_of_channels_is_what_it_prints(page: Page, service: Service) -> None:
    """Two tabs: history, presence, publications, and what was missed while the connection was cut."""
    service.api("publish", channel="playground:tabs", data={"name": "Eve", "text": "before"})
    other = page.context.new_page()
    for number, tab in enumerate((page, other)):
        tab.goto(f"{service.base}/tutorial/channels#tabs")
        expect(tab.locator("#state")).to_have_text("Connected")
        expect(tab.locator("#frames li.history")).to_contain_text("Eve: before")
        tab.get_by_label("Your name").fill(f"Tab <b>{number}</b>")
        tab.get_by_role("button", name="Enter").click()
    for tab in (page, other):
        expect(tab.locator("#members li")).to_have_count(2)
    expect(page.locator("#members")).to_contain_text("Tab <b>0</b> (this tab)")
    page.get_by_role("button", name="Publish").click()
    expect(other.locator("#frames li.live")).to_contain_text("Tab <b>0</b>: Hello")
    page.get_by_role("button", name="Cut the connection").click()
    expect(page.locator("#state")).to_contain_text("Not connected")
    expect(other.locator("#members li")).to_have_count(1)
    for text in ("one", "two"):
        other.get_by_role("textbox", name="Message").fill(text)
        other.get_by_role("textbox", name="Message").press("Enter")
        expect(other.locator("#frames")).to_contain_text(f"Tab <b>1</b>: {text}")
    page.get_by_role("button", name="Let it through again").click()
    expect(page.locator("#state")).to_have_text("Connected again, recovered: 2 messages missed")
    shown = page.locator("#frames .data").all_inner_texts()
    assert [text.partition(": ")[2] for text in shown[:3]] == ["two", "one", "Hello"]
    assert page.locator("#frames .missed").count() == 2
    check(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    source = page.request.get(f"{service.base}/ui/tutorial/room.js").text()
    assert page.locator("#code").inner_text().strip() == source.strip()
