"""The playground in Chromium: what is missed comes back, whatever is broken, and how the page looks and reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browser.looks import SMALL, check
from browser.people import PHONE, Person
from browser.serving import Server
from browser.test_admin import axe

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]


@pytest.fixture(scope="module")
def playground(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("playground"), "--playground", "--workers", "2")
    server.start()
    yield server
    server.stop()


def open_page(person: Person, server: Server, channel: str) -> Page:
    page = person.page
    page.goto(f"{server.url}/playground")
    page.get_by_label("Any that your rules allow").fill(channel)
    page.get_by_role("button", name="Connect them").click()
    for index in (0, 1):
        expect(client(page, index).locator(".pill")).to_have_text("connected")
        expect(client(page, index).locator(".where")).to_contain_text("worker")
    expect(page.locator("#log")).not_to_contain_text("refused")
    return page


def client(page: Page, index: int) -> Locator:
    return page.locator(f"[data-client='{index}']")


def counts(page: Page, index: int) -> str:
    return " ".join(client(page, index).locator("dd").all_inner_texts())


def last(seconds: float, page: Page) -> None:
    page.get_by_label("Each fault lasts").fill(str(seconds))


def test_a_cable_is_cut_and_what_was_missed_comes_back(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:cut")
    last(1.5, page)
    page.get_by_role("button", name="Cut ann’s cable, publish 14").click()
    expect(client(page, 0).locator(".pill")).to_contain_text("cable cut")
    expect(client(page, 0).locator(".strip .missed")).to_have_count(14)
    expect(client(page, 0)).to_contain_text("Neither side has noticed")
    expect(page.locator("#log")).to_contain_text("ann: missed 14, recovered 14, doubled 0.")
    assert (counts(page, 0), counts(page, 1)) == ("14 14 0", "0 0 0")
    expect(client(page, 0).locator(".outcome")).to_have_text("All came back, in order, once each.")
    expect(client(page, 0).locator(".strip .recovered")).to_have_count(14)
    expect(page.locator("#log")).to_contain_text("no close frame")


@pytest.mark.slow
def test_a_gap_that_history_does_not_fill_is_told(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:gap")
    last(2, page)
    client(page, 1).get_by_role("button", name="Cut the cable").click()
    expect(page.locator("#log")).to_contain_text("cable is cut")
    page.get_by_label("Messages", exact=True).fill("130")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(client(page, 1).locator(".outcome")).to_contain_text("Told of a gap: 130 did not come back")
    assert counts(page, 1) == "130 0 0"
    expect(page.locator("#log")).to_contain_text("told of a gap of 130")


@pytest.mark.slow
def test_a_frozen_client_fills_its_outbox_and_goes_on(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:frozen")
    last(3, page)
    client(page, 0).get_by_role("button", name="Freeze").click()
    expect(page.locator("#log")).to_contain_text("Its outbox fills")
    page.get_by_label("Make each 40 KiB").check()
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(client(page, 0).locator(".where")).to_contain_text("slow · ")
    expect(client(page, 0).locator(".where")).to_contain_text("KiB unsent")
    expect(page.locator("#log")).to_contain_text("ann: missed 14, recovered 14, doubled 0.")
    expect(page.locator("#log")).not_to_contain_text("lost its connection")


@pytest.mark.slow
def test_a_store_hangs_and_nothing_is_kept_twice(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:hang")
    last(3, page)
    page.get_by_role("button", name="Make the store hang").click()
    expect(page.locator("#log")).to_contain_text("does not answer")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#log")).to_contain_text("unconfirmed, and repeated with their keys")
    for index in (0, 1):
        expect(client(page, index).locator(".strip li")).to_have_count(14)
        expect(client(page, index).locator(".strip .doubled")).to_have_count(0)


@pytest.mark.slow
def test_a_worker_is_killed(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:kill")
    before = client(page, 0).locator(".where").inner_text()
    client(page, 0).get_by_role("button", name="Kill its worker").click()
    expect(page.locator("#log")).to_contain_text("is killed")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#log")).to_contain_text("14 published")
    expect(client(page, 0).locator(".pill")).to_have_text("connected")
    expect(client(page, 0).locator(".strip li")).to_have_count(14)
    expect(client(page, 0).locator(".strip .missed, .strip .due, .strip .doubled")).to_have_count(0)
    expect(client(page, 0).locator(".where")).to_have_text(re.compile(r"worker \d+"))
    expect(client(page, 0).locator(".where")).not_to_have_text(before)


@pytest.mark.slow
def test_one_worker_is_not_killed_and_the_page_says_why(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server("--playground")
    page = open_page(people(server), server, "playground:one")
    client(page, 0).get_by_role("button", name="Kill its worker").click()
    expect(page.locator("#notice")).to_contain_text("--workers 2")
    expect(client(page, 0).locator(".pill")).to_have_text("connected")


def test_a_rule_that_refuses_is_shown(people: MakePerson, playground: Server) -> None:
    page = open_page(people(playground), playground, "playground:open")
    page.get_by_label("Any that your rules allow").fill("nobody:1")
    page.get_by_role("button", name="Connect them").click()
    expect(client(page, 0).locator(".pill")).to_have_text("refused")
    expect(client(page, 0).locator(".outcome")).to_contain_text("(102)")


#: The words that stand on two lines.
BROKEN = """(node) => [...node.childNodes].flatMap((part) =>
  [...part.textContent.matchAll(/[\\w":]+/g)].filter((word) => {
    const range = document.createRange();
    range.setStart(part, word.index);
    range.setEnd(part, word.index + word[0].length);
    return range.getClientRects().length > 1;
  })).map(([word]) => word)"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1_280, "light")])
def test_axe_finds_nothing_and_nothing_is_beside_the_screen(
    people: MakePerson, playground: Server, scheme: str, width: int
) -> None:
    options = PHONE if width == 390 else {"width": width, "height": 900}
    person = people(playground, color_scheme=scheme, viewport={**options, "width": width}, has_touch=width == 390)
    page = open_page(person, playground, "playground:looks")
    last(20, page)
    client(page, 0).get_by_role("button", name="Cut the cable").click()
    expect(page.locator("#log")).to_contain_text("cable is cut")  # now it is; the click has only asked for it
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(client(page, 0).locator(".strip .missed")).to_have_count(14)
    check(page)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if width == 390:
        assert page.evaluate(SMALL) == []
    for whole in ("#message", "#calls"):
        assert page.locator(whole).evaluate("(node) => node.scrollWidth <= node.clientWidth"), f"{whole} is cut"
    assert page.locator("#calls").evaluate(BROKEN) == []
    host = playground.url.removeprefix("http://")
    assert {address.split("/")[2] for address in person.addresses} == {host}


def test_all_pages_lead_to_it_and_it_leads_to_all(people: MakePerson, playground: Server) -> None:
    page = people(playground).page
    page.goto(f"{playground.url}/playground")
    names = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    assert {"Chat", "Tutorial", "Playground", "Admin"} <= set(names)
    for path in ("/tutorial", "/pipelines", "/admin", "/docs", "/asyncapi"):
        page.goto(playground.url + path)
        links = page.get_by_role("navigation", name="Pages").get_by_role("link")
        expect(links).to_have_text(names)
        expect(links.and_(page.locator("[aria-current=page]"))).to_have_attribute("href", path)
