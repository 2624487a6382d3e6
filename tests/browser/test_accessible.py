"""Keyboard, screen reader, phone: what can be checked by a program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.people import PHONE, Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]

#: Every control that can be seen, without a name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, textarea, dialog, nav, aside, [role]")]
  .filter((node) => node.checkVisibility() && !node.closest("[inert]"))
  .filter((node) => {
    const labels = [...(node.labels ?? [])].map((label) => label.textContent).join("");
    const ids = (node.getAttribute("aria-labelledby") ?? "").split(" ");
    const by = ids.map((id) => document.getElementById(id)?.textContent);
    const own = node.matches("input, textarea") ? "" : node.textContent;
    return !(node.getAttribute("aria-label") ?? by.join("") ?? "").trim() && !(labels + own + by.join("")).trim();
  })
  .map((node) => node.outerHTML.slice(0, 120))"""

#: Ids that stand twice, and references to ids that stand nowhere.
REFERENCES = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const wanted = ["aria-labelledby", "aria-describedby", "aria-controls", "for"].flatMap((name) =>
    [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(" ")));
  return [...ids.filter((id, place) => ids.indexOf(id) !== place), ...wanted.filter((id) => !ids.includes(id))];
}"""

#: Controls that are smaller than a finger.
SMALL = """() => [...document.querySelectorAll("button, .entry-link, .person, input:not([type=checkbox]), .check")]
  .filter((node) => node.checkVisibility() && !node.closest("[inert]"))
  .map((node) => [node.id || node.className, node.getBoundingClientRect()])
  .filter(([, box]) => box.height > 0 && (box.height < 44 || box.width < 44))
  .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""

#: Texts whose contrast with what is behind them is under 4.5 (WCAG AA).
FAINT = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    paper.clearRect(0, 0, 1, 1);
    paper.fillStyle = color;
    paper.fillRect(0, 0, 1, 1);
    return [...paper.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest(".sr, [inert], noscript")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.add(`${contrast.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return [...found];
}"""


def check(page: Page) -> None:
    """Names, references and contrast of the page as it is now."""
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(REFERENCES) == []
    assert page.evaluate(FAINT) == []


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
