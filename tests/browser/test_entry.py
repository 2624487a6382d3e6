"""Signing up, in and out: errors beside their field, and a token that is in no address."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from browser.people import PASSWORD, Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]

STORED = """() => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])"""


def test_errors_stand_by_their_field(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    page = ann.page
    page.goto(shared_server.url)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator("#username-error")).to_have_text("Enter your name.")
    ann.fill_in(ann.name, "not the password")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator("#password-error")).to_have_text("The name or the password is wrong.")
    expect(page.locator("#password")).to_be_focused()
    page.get_by_role("button", name="Create an account").click()
    ann.fill_in("white space", PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.locator("#username")).to_have_attribute("aria-invalid", "true")
    ann.fill_in(ann.name, "short")
    page.get_by_role("button", name="Create account").click()
    expect(page.locator("#password-error")).to_contain_text("at least 8")


def test_a_taken_name_is_said_by_the_name(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    again = people(shared_server, ann.name)
    again.page.goto(shared_server.url)
    again.page.get_by_role("button", name="Create an account").click()
    again.fill_in(ann.name, PASSWORD)
    again.page.get_by_role("button", name="Create account").click()
    expect(again.page.locator("#username-error")).to_contain_text("taken")
    expect(again.page.locator("#username")).to_be_focused()


def test_too_many_attempts_are_counted_down(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    ann.page.goto(shared_server.url)
    ann.page.route(
        "**/login", lambda route: route.fulfill(status=429, headers={"Retry-After": "3"}, json={"detail": "too many"})
    )
    ann.fill_in(ann.name, PASSWORD)
    ann.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(ann.page.locator("#form-error")).to_contain_text("Too many attempts")
    expect(ann.page.locator("#entry-submit")).to_be_disabled()
    expect(ann.page.locator("#entry-submit")).to_have_text("Sign in", timeout=6_000)
    expect(ann.page.locator("#entry-submit")).to_be_enabled()


def test_a_server_that_is_away_is_said(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    ann.page.goto(shared_server.url)
    ann.page.route("**/login", lambda route: route.abort())
    ann.fill_in(ann.name, PASSWORD)
    ann.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(ann.page.locator("#form-error")).to_contain_text("cannot be reached")


def test_the_token_is_in_no_address_and_gone_after_signing_out(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up_on_the_page()
    token = json.loads(ann.page.evaluate("localStorage.getItem('tidewire:session')"))["token"]
    ann.say(f"/pm {ann.name}-ghost hello")
    ann.page.reload()
    ann.wait_connected()
    assert [address for address in ann.addresses if token in address or token.split(".")[-1] in address] == []
    assert token not in ann.page.url
    ann.page.get_by_role("button", name="Sign out").click()
    ann.page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    expect(ann.page.get_by_role("heading", name="Sign in")).to_be_visible()
    stored = ann.page.evaluate(STORED)
    assert token not in stored
    assert ann.name not in stored


def test_without_stay_signed_in_nothing_is_left_on_the_device(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server)
    ann.page.goto(shared_server.url)
    ann.page.get_by_role("button", name="Create an account").click()
    ann.fill_in(ann.name, PASSWORD)
    ann.page.get_by_label("Stay signed in on this device").uncheck()
    ann.page.get_by_role("button", name="Create account").click()
    ann.wait_connected()
    ann.page.reload()
    ann.wait_connected()
    assert ann.name not in ann.page.evaluate("() => JSON.stringify(Object.entries(localStorage))")
    other = ann.tab()
    other.goto(shared_server.url)
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()


def test_signing_out_in_one_tab_ends_the_others(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    other = ann.tab()
    other.goto(shared_server.url)
    ann.wait_connected(other)
    ann.page.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(other.locator("#entry-notice")).to_contain_text("another tab")


def test_a_password_is_changed_and_the_other_sessions_end(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    elsewhere = people(shared_server, ann.name)
    elsewhere.page.goto(shared_server.url)
    elsewhere.fill_in(ann.name, PASSWORD)
    elsewhere.page.get_by_role("button", name="Sign in", exact=True).click()
    elsewhere.wait_connected()
    ann.page.get_by_role("button", name="Your account").click()
    now, new = ann.page.get_by_label("Password now"), ann.page.get_by_label("New password")
    for old, other, problem in (
        ("", "x", "#old-password-error"),
        (PASSWORD, "short", "#new-password-error"),
        ("not the password", "a new password", "#old-password-error"),
    ):
        now.fill(old)
        new.fill(other)
        new.press("Enter")
        expect(ann.page.locator(problem)).not_to_be_empty()
    now.fill(PASSWORD)
    new.fill("a new password")
    new.press("Enter")
    expect(ann.page.locator("#account-said")).to_have_text("Your password is changed. 1 other session has ended.")
    expect(elsewhere.page.locator("#entry-notice")).to_contain_text("session has ended")
    ann.page.get_by_role("button", name="Close", exact=True).click()
    ann.say("still here")
    expect(ann.message("still here")).to_have_count(1)


@pytest.mark.parametrize("everywhere", [False, True])
def test_signing_out_ends_the_session_on_the_server(
    people: MakePerson, shared_server: Server, everywhere: bool
) -> None:
    ann = people(shared_server).sign_up()
    token = json.loads(ann.page.evaluate("() => localStorage.getItem('tidewire:session')"))["token"]
    headers = {"Authorization": f"Bearer {token}"}
    other = ann.context.request.post(f"{shared_server.url}/login", data={"username": ann.name, "password": PASSWORD})
    also = {"Authorization": f"Bearer {other.json()['token']}"}
    if everywhere:
        ann.page.get_by_role("button", name="Your account").click()
        ann.page.get_by_role("button", name="Sign out everywhere").click()
    else:
        ann.page.get_by_role("button", name="Sign out", exact=True).click()
    expect(ann.page.locator("#entry-title")).to_be_visible()
    assert ann.context.request.get(f"{shared_server.url}/me", headers=headers).status == 401
    assert ann.context.request.get(f"{shared_server.url}/me", headers=also).status == (401 if everywhere else 200)
