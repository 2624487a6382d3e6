"""What happens when the connection drops: a visible state, a return by itself, no gap, nothing sent twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.between import Between
from browser.people import Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]
StartServer = Callable[..., Server]

#: Every text of the thread, not only those in the window of the page.
ALL_TEXTS = """() => [...document.querySelectorAll("#log .text")].map((node) => node.textContent)"""


def wait_texts(page: Page, wanted: Callable[[list[str]], bool], seconds: float = 30) -> list[str]:
    """Wait until the texts in view are as wanted, and return them."""
    limit = time.monotonic() + seconds
    while True:
        texts: list[str] = page.evaluate(ALL_TEXTS)
        if wanted(texts):
            return texts
        assert time.monotonic() < limit, f"{len(texts)} texts: {texts}"
        page.wait_for_timeout(50)


def test_killed_in_the_middle_of_traffic(people: MakePerson, own_server: StartServer) -> None:
    server = own_server()
    ann, bob = people(server).sign_up(), people(server).sign_up()
    for number in range(50):
        ann.say(f"ann {number}")
        bob.say(f"bob {number}")
        if number == 20:
            server.kill()
        if number == 35:
            server.start()
    for person in (ann, bob):
        person.wait_connected()
        wait_texts(person.page, lambda texts: len(texts) >= 100)
        expect(person.page.locator("#log .state")).to_have_count(0)
    seen = [person.page.evaluate(ALL_TEXTS) for person in (ann, bob)]
    assert seen[0] == seen[1]
    for name in ("ann", "bob"):
        assert [text for text in seen[0] if text.startswith(name)] == [f"{name} {number}" for number in range(50)]


def test_what_is_written_offline_survives_a_reload_and_goes_out_once(
    people: MakePerson, own_server: StartServer
) -> None:
    server = own_server()
    ann, bob = people(server).sign_up(), people(server).sign_up()
    ann.say("before")
    expect(bob.message("before")).to_be_visible()
    server.kill()
    expect(ann.page.locator("#bar")).to_contain_text("Trying again in")
    ann.say("written without a server")
    expect(ann.message("written without a server")).to_contain_text("Not sent yet")
    server.start()
    ann.page.reload()
    ann.wait_connected()
    for person in (ann, bob):
        expect(person.message("written without a server")).to_have_count(1)
        expect(person.page.locator("#log .state")).to_have_count(0)
    assert bob.messages().count("written without a server") == 1


def test_a_store_that_forgot_is_admitted(people: MakePerson, own_server: StartServer) -> None:
    server = own_server("--broker", "memory://")
    ann, bob = people(server), people(server).sign_up()
    between = Between(ann)
    ann.sign_up()
    bob.say("gone with the process")
    expect(ann.message("gone with the process")).to_be_visible()
    between.refusing = True
    server.kill()
    server.start()
    bob.wait_connected()
    bob.say("the first of a new time")
    expect(bob.page.locator("#log .state")).to_have_count(0)
    assert ann.messages() == ["gone with the process"]
    between.refusing = False
    ann.wait_connected()
    expect(ann.page.get_by_text("Some older messages may be missing here.")).to_be_visible()
    expect(ann.message("the first of a new time")).to_be_visible()
    assert ann.messages() == ["the first of a new time"]
