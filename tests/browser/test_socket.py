"""A socket that misbehaves on purpose, between the page and the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.between import Between
from browser.people import Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]


def test_a_lost_acknowledgement_repeats_nothing(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server), people(shared_server).sign_up()
    between = Between(ann)
    ann.sign_up()
    between.lost = "chat_message"
    ann.say("once and only once")
    expect(bob.message("once and only once")).to_have_count(1)
    expect(ann.message("once and only once")).to_contain_text("Sending")
    between.lost = ""
    between.close(4010, "insufficient state")
    expect(ann.page.locator("#log .state")).to_have_count(0)
    assert len(between.of("chat")) == 1
    assert bob.messages().count("once and only once") == 1


def test_a_refusal_that_passes_is_repeated_with_the_same_id(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    between = Between(ann)
    ann.sign_up()
    refusals = iter(["unavailable", "rate_limited"])

    def refuse(message: dict[str, Any]) -> dict[str, Any] | None:
        code = next(refusals, None) if message["type"] == "chat" else None
        return (
            None
            if code is None
            else {"type": "error", "code": code, "content": f"refused: {code}", "id": message["id"]}
        )

    between.instead = refuse
    ann.say("patience")
    expect(ann.message("patience")).to_contain_text("refused: unavailable")
    expect(ann.page.locator("#log .state")).to_have_count(0, timeout=15_000)
    ids = [message["id"] for message in between.of("chat")]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ann.messages().count("patience") == 1


def test_a_final_refusal_is_the_persons_to_solve(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    between = Between(ann)
    ann.sign_up()
    between.instead = lambda message: (
        {"type": "error", "code": "bad_request", "content": "not like this", "id": message["id"]}
        if message.get("message") == "wrong"
        else None
    )
    ann.say("wrong")
    expect(ann.message("wrong")).to_contain_text("Not sent. not like this")
    ann.say("right")
    expect(ann.message("right")).to_be_visible()
    ann.message("wrong").get_by_role("button", name="Edit").click()
    expect(ann.page.locator("#writing")).to_have_value("wrong")
    expect(ann.message("wrong")).to_have_count(0)


def test_gaps_are_asked_for_by_position(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server), people(shared_server).sign_up()
    between = Between(ann)
    ann.sign_up()
    bob.say("before")
    expect(ann.message("before")).to_be_visible()
    between.deaf = True
    for number in range(5):
        bob.say(f"missed {number}")
    expect(bob.message("missed 4")).to_be_visible()
    between.deaf = False
    between.close(1012, "service restart")
    expect(ann.message("missed 4")).to_be_visible()
    expect(ann.page.locator("#pill")).to_contain_text("Caught up · 5")
    assert ann.messages()[-6:] == ["before", *(f"missed {number}" for number in range(5))]
    assert "since=" in ann.addresses[-1] or any("since=" in address for address in ann.addresses)


def test_the_server_ends_it_for_good(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    between = Between(ann)
    ann.sign_up()
    opened = len(ann.addresses)
    between.close(4503, "disconnected by the application")
    expect(ann.page.locator("#bar")).to_contain_text("The server says: disconnected by the application.")
    expect(ann.page.locator("#pill")).to_have_text("Ended")
    assert [address for address in ann.addresses[opened:] if address.startswith("ws")] == []
    ann.page.get_by_role("button", name="Reconnect").click()
    ann.wait_connected()


def test_a_session_that_ended_leads_to_the_sign_in_page(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    ann.page.evaluate(
        """() => {
          const session = JSON.parse(localStorage.getItem("tidewire:session"));
          localStorage.setItem("tidewire:session", JSON.stringify({ ...session, token: "no.good.token" }));
        }"""
    )
    ann.page.reload()
    expect(ann.page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(ann.page.locator("#entry-notice")).to_contain_text("Your session has ended")


def test_a_room_that_cannot_be_joined_now_is_tried_again(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    between = Between(ann)
    ann.sign_up()
    refusals = iter(["unavailable"])

    def refuse(message: dict[str, Any]) -> dict[str, Any] | None:
        code = next(refusals, None) if message["type"] == "join" else None
        if code is None:
            return None
        return {"type": "error", "code": code, "content": "the store is away", "room": message["room"]}

    between.instead = refuse
    ann.page.goto(f"{shared_server.url}/#/room/stubborn")
    expect(ann.page.locator("#thread-problem")).to_have_text("the store is away")
    ann.say("patience")
    expect(ann.page.locator("#thread-problem")).to_be_hidden(timeout=10_000)
    expect(ann.page.locator("#log .state")).to_have_count(0)
    assert ann.messages() == ["patience"]


def test_a_silent_server_is_noticed(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    ann.page.clock.install()
    between = Between(ann)
    ann.sign_up()
    between.deaf = True
    ann.page.clock.fast_forward(26_000)
    assert len(between.of("ping")) == 1
    expect(ann.page.locator("#pill")).to_have_attribute("data-state", "connected")
    ann.page.clock.fast_forward(10_500)
    expect(ann.page.locator("#pill")).not_to_have_attribute("data-state", "connected")
    between.deaf = False
    ann.page.clock.resume()
    ann.wait_connected()
