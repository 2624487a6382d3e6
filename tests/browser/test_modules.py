"""The page's modules without a DOM, each against a model or a table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page(chromium: Browser, shared_server: Server) -> Iterator[Page]:
    page = chromium.new_page()
    page.goto(f"{shared_server.url}/tutorial")
    yield page
    page.close()


def module(page: Page, name: str, body: str, *arguments: Any) -> Any:
    """Run `body` with the exports of a module as `m` and the arguments as `a`."""
    return page.evaluate(f"async (a) => {{ const m = await import('/ui/js/{name}.js'); {body} }}", list(arguments))


def test_back_off_is_full_jitter_under_a_cap(page: Page) -> None:
    body = "return a[0].map((random) => Array.from({ length: 40 }, (_, n) => m.delay(n, () => random)));"
    delays = module(page, "backoff", body, [0, 1])
    assert set(delays[0]) == {150}
    assert delays[1][:5] == [1_000, 2_000, 4_000, 8_000, 15_000]
    assert max(delays[1]) == 15_000
    restarts = module(page, "backoff", "return [0, 0.999].map((r) => m.restartDelay(() => r));")
    assert all(300 <= wait <= 1_500 for wait in restarts)


@pytest.mark.parametrize(
    ("code", "final"),
    [
        *[(code, False) for code in (1000, 1006, 1011, 1012, 1013, 4000, 4499)],
        *[(code, True) for code in (1008, 4500, 4999)],
    ],
)
def test_codes_that_end_it(page: Page, code: int, final: bool) -> None:
    assert module(page, "backoff", "return m.isFinal(a[0]);", code) is final


def test_nodes_are_not_gone_because_the_way_to_the_page_is_slow(page: Page) -> None:
    """All of them disappeared from the admin page when the network held its stream up for a second."""
    body = """
        const shown = [], fetch = window.fetch;
        let stream;
        window.fetch = async () => new Response(new ReadableStream({ start: (controller) => (stream = controller) }));
        const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
        const say = (...nodes) => {
          const lines = nodes.map((node) => JSON.stringify({ node, pause: 0.1 }) + "\\n");
          stream.enqueue(new TextEncoder().encode(lines.join("")));
        };
        const live = new m.Live((nodes) => shown.push(nodes.map((one) => one.node).join("")), () => {});
        live.open();
        window.fetch = fetch;
        await wait(10);
        say("a", "b");
        await wait(400);
        const slow = shown.at(-1);
        for (let times = 0; times < 8; times += 1) {
          say("a");
          await wait(50);
        }
        const gone = shown.at(-1);
        live.close();
        return [slow, gone];"""
    assert module(page, "admin/live", body) == ["ab", "a"]


def test_a_timeline_has_each_once_in_order(page: Page) -> None:
    dice = random.Random(17)
    for _ in range(20):
        offsets = [dice.randrange(40) for _ in range(80)]
        shown = module(
            page,
            "timeline",
            """const line = new m.Timeline();
            const added = a[0].map((offset, seq) => line.add({ key: offset, era: offset % 2, offset, seq }));
            return [line.items.map((item) => item.offset), added.filter(Boolean).length];""",
            offsets,
        )
        assert shown == [sorted(set(offsets), key=lambda offset: (offset % 2, offset)), len(set(offsets))]


def test_a_long_timeline_forgets_its_oldest(page: Page) -> None:
    body = """const line = new m.Timeline();
        for (let n = 1; n <= 3600; n += 1) line.add({ key: n, era: 0, offset: n, seq: n });
        return [line.items.length, line.items[0].offset, line.items.at(-1).offset, line.has(1)];"""
    assert module(page, "timeline", body) == [2_600, 1_001, 3_600, False]


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://a.example/b.", ["https://a.example/b"]),
        ("(http://a.example/?q=1&r=2)", ["http://a.example/?q=1&r=2"]),
        ("javascript:alert(1) data:text/html,x ftp://a.example", []),
        ("https://", []),
        ("two https://a.example https://b.example", ["https://a.example", "https://b.example"]),
    ],
)
def test_links_are_http_only_and_lose_nothing(page: Page, text: str, links: list[str]) -> None:
    body = """const nodes = m.linked(a[0]);
        const links = nodes.filter((node) => node.href).map((node) => node.getAttribute("href"));
        return [nodes.map((node) => node.textContent ?? node).join(""), links];"""
    assert module(page, "text", body, text) == [text, links]


def test_days_and_initials(page: Page) -> None:
    body = """const now = new Date(2026, 10, 20, 12).getTime();
        const day = 86_400_000;
        return [m.dayName(now, now), m.dayName(now - day, now), m.dayName(now - 2 * day, now).includes("18"),
          m.dayName(now - 400 * day, now).includes("2025"), m.initials("ada-lovelace"), m.initials("bo"),
          m.initials("x"), m.hueOf("ann") === m.hueOf("ann")];"""
    assert module(page, "text", body) == ["Today", "Yesterday", True, True, "AL", "BO", "X", True]
