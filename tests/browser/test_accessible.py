"""Keyboard, screen reader, phone: what can be checked by a program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from browser.looks import SMALL, check
from browser.people import PHONE, Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_references_and_contrast(people: MakePerson, shared_server: Server, scheme: str) -> None:
    ann = people(shared_server, color_scheme=scheme)
    ann.page.goto(shared_server.url)
    check(ann.page)
    ann.page.get_by_role("button", name="Sign in", exact=True).click()
    check(ann.page)
    ann.sign_up_on_the_page()
    bob = people(shared_server).sign_up()
    bob.say("see https://example.org/")
    ann.say("/pm nobody-there hello")
    expect(ann.message("hello")).to_contain_text("not online")
    check(ann.page)
    ann.entry("lobby").click()
    expect(ann.message("see https://example.org/").last).to_be_visible()
    check(ann.page)
    ann.page.get_by_role("button", name="Find or create a room").click()
    expect(ann.page.get_by_label("Rooms on this server").get_by_role("button").first).to_be_visible()
    check(ann.page)


def test_landmarks_and_headings(people: MakePerson, shared_server: Server) -> None:
    page = people(shared_server).sign_up().page
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("navigation", name="Rooms and conversations")).to_be_visible()
    expect(page.get_by_role("complementary", name="Online")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


def test_new_messages_and_the_connection_are_announced(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    expect(ann.page.locator("#status[aria-live=polite]")).to_have_text("Connected")
    bob.say("spoken aloud")
    expect(ann.page.locator("#said[aria-live=polite]")).to_contain_text(f"{bob.name}: spoken aloud")


def test_everything_by_keyboard(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    page = ann.page
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#writing")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator("#log .text").last).to_have_text("one\ntwo")
    page.get_by_role("button", name="Find or create a room").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name of the room")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Find or create a room")).to_be_focused()
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"writing", "browse", "compose", "sign-out", "people-open", "scroller"} <= seen


def test_drawers_on_a_phone_take_and_give_back_the_focus(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server, viewport=PHONE, has_touch=True, is_mobile=True).sign_up()
    page = ann.page
    expect(page.get_by_role("navigation", name="Rooms and conversations")).to_be_hidden()
    page.locator("#sidebar-open").click()
    expect(page.locator("#sidebar")).to_be_visible()
    assert page.evaluate("document.getElementById('sidebar').contains(document.activeElement)")
    assert page.locator("#thread").evaluate("(node) => node.inert")
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#sidebar-open")).to_be_focused()
    page.locator("#people-open").click()
    expect(page.get_by_role("complementary", name="Online")).to_contain_text(ann.name)


@pytest.mark.parametrize("width", [360, 430])
def test_a_phone_has_targets_for_fingers_and_nothing_beside_the_screen(
    people: MakePerson, shared_server: Server, width: int
) -> None:
    ann = people(shared_server, viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    ann.page.goto(shared_server.url)
    assert [found for found in ann.page.evaluate(SMALL) if "link" not in found] == []
    ann.sign_up()
    ann.say("https://example.org/" + "a" * 200)
    expect(ann.page.locator("#log .state")).to_have_count(0)
    assert ann.page.evaluate(SMALL) == []
    assert ann.page.evaluate("document.documentElement.scrollWidth") == width
    ann.page.locator("#sidebar-open").click()
    expect(ann.page.locator("#sidebar")).to_be_visible()
    assert ann.page.evaluate(SMALL) == []


def test_the_theme_is_remembered(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server, color_scheme="light")
    ann.page.goto(shared_server.url)
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    light = ann.page.evaluate(ground)
    ann.page.get_by_role("button", name="Switch to the dark theme").click()
    dark = ann.page.evaluate(ground)
    assert dark != light
    ann.page.reload()
    assert ann.page.evaluate(ground) == dark
    expect(ann.page.get_by_role("button", name="Switch to the light theme")).to_be_visible()
