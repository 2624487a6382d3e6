"""The server's own documentation in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from browser.looks import check
from browser.people import DESK, PHONE, Person
from browser.serving import Server
from browser.test_admin import axe

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
def test_a_page_is_searched_and_read(
    people: Callable[..., Person], shared_server: Server, scheme: str, viewport: dict[str, int]
) -> None:
    page = people(shared_server, color_scheme=scheme, viewport=viewport).page
    page.goto(f"{shared_server.url}/tutorial")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Docs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Documentation")
    page.get_by_role("searchbox").fill("redis")
    page.keyboard.press("Enter")
    page.locator(".found a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Redis")
    expect(page.get_by_role("navigation", name="Documentation").locator("[aria-current]")).to_contain_text("Redis")
    check(page)
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert page.request.get(f"{shared_server.url}/manual/nothing").status == 404


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
@pytest.mark.parametrize("path", ["/manual/reference/settings", "/manual?q=zzzz", "/docs", "/nothing"])
def test_axe_finds_nothing_and_nothing_is_beside_the_screen(
    people: Callable[..., Person], shared_server: Server, scheme: str, viewport: dict[str, int], path: str
) -> None:
    page = people(shared_server, color_scheme=scheme, viewport=viewport).page
    page.goto(shared_server.url + path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    check(page)
    assert axe(page) == []
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
