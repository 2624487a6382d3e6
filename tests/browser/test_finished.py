"""What a chat must survive: foreign publications, unknown commands, absence, several devices, other scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browser.people import PASSWORD, Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]


def publish(server: Server, *values: object) -> None:
    """Publish in the lobby as another process does, beside the running server."""
    script = f"""
from tidewire import Publisher
with Publisher("sqlite:///tidewire.db") as publisher:
    for value in {list(values)!r}:
        publisher.publish("room:lobby", value)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=server.folder)


def test_whatever_is_published_in_a_room_the_page_goes_on(
    people: MakePerson, own_server: Callable[..., Server]
) -> None:
    server = own_server()
    ann = people(server, "ann").sign_up()
    publish(
        server, {"x": 1}, {"type": "chat_message"}, [1, 2], None, {"type": "history", "messages": 5}, "text", b"\xff"
    )
    ann.say("after all that")
    expect(ann.message("after all that")).to_be_visible()
    expect(ann.page.locator("#log")).to_contain_text('{"x":1}')
    bob = people(server, "bob").sign_up()  # whose history holds them
    expect(bob.message("after all that")).to_be_visible()
    bob.say("and on")
    expect(ann.message("and on")).to_be_visible()


def test_an_unknown_command_is_not_published(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    ann.say(f"/msg {bob.name} my secret")
    expect(ann.page.locator("#composer-problem")).to_contain_text("There is no command /msg, so nothing was sent.")
    expect(ann.page.locator("#writing")).to_have_value(f"/msg {bob.name} my secret")
    ann.page.locator("#writing").fill("")
    ann.say("//tmp is a folder")
    expect(bob.message("/tmp is a folder")).to_be_visible()
    assert not [text for text in bob.messages() if "secret" in text]


def test_earlier_messages_can_be_read(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server()
    publish(server, *({"type": "chat_message", "sender": "bob", "content": f"line {n}"} for n in range(230)))
    fresh = people(server, "carl").sign_up()
    expect(fresh.message("line 229")).to_be_visible()
    page = fresh.page
    page.locator("#scroller").hover()
    for _ in range(100):
        if page.get_by_text("line 0", exact=True).count():
            break
        page.mouse.wheel(0, -2_000)
        page.wait_for_timeout(100)
    expect(page.get_by_text("line 0", exact=True)).to_be_attached()
    expect(page.locator("#earlier")).to_be_hidden()
    texts = [text for text in fresh.messages() if text.startswith("line ")]
    assert texts == sorted(texts, key=lambda text: int(text.split()[1])), "in their order"


def test_a_private_message_waits_and_is_on_all_devices(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server()
    bob = people(server, "bob").sign_up()
    bob.page.goto(f"{server.url}/ui/mark.svg")  # bob is away
    ann = people(server, "ann").sign_up()
    other = people(server, "ann")  # ann's second device
    token = other.context.request.post(f"{server.url}/login", data={"username": "ann", "password": PASSWORD}).json()
    other.page.goto(f"{server.url}/ui/mark.svg")
    session = json.dumps({"token": token["token"], "username": "ann", "stay": True})
    other.page.evaluate("(session) => localStorage.setItem('tidewire:session', session)", session)
    other.page.goto(server.url)
    other.wait_connected()
    ann.say("/pm bob are you there?")
    expect(ann.message("are you there?")).to_be_visible()
    expect(ann.message("are you there?").locator(".state")).to_have_count(0)
    other.page.goto(f"{server.url}/#/with/bob")
    expect(other.message("are you there?")).to_be_visible()
    bob.page.goto(server.url)
    bob.wait_connected()
    expect(bob.entry("ann")).to_be_visible()
    bob.page.goto(f"{server.url}/#/with/ann")
    expect(bob.message("are you there?")).to_be_visible()


def test_text_of_every_direction_and_links_with_brackets(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    ann.say("שלום (see https://example.org/a_(b)).")
    text = ann.page.locator("#log .text").last
    expect(text).to_have_attribute("dir", "auto")
    expect(text.locator("a")).to_have_attribute("href", "https://example.org/a_(b)")
    ann.page.goto(f"{shared_server.url}/#/room/חדר")
    expect(ann.page.locator("#thread-title")).to_have_text("חדר")
    expect(ann.page.locator("#thread-title")).to_have_css("text-align", "left")  # above its detail


@pytest.mark.slow  # it waits for what must not come, or for waits to grow
def test_leaving_a_room_leaves_no_error_behind(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    for one in (ann, bob):
        one.page.goto(f"{shared_server.url}/#/room/harbour")
        expect(one.page.locator("#thread-title")).to_have_text("harbour")
    ann.say("hello harbour")
    expect(bob.message("hello harbour")).to_be_visible()
    ann.page.locator("#thread-leave").click()
    expect(ann.page.locator("#thread-title")).to_have_text("lobby")
    ann.page.wait_for_timeout(6_000)  # a count of people that was due in the room that was left
    expect(ann.page.locator("#composer-problem")).to_have_text("")
    expect(ann.page.locator("#thread-problem")).to_be_hidden()


def test_a_removed_account_is_asked_to_sign_in(
    people: MakePerson, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = own_server()
    ann = people(server, "ann").sign_up()
    command = [sys.executable, "-m", "tidewire", "user", "remove", "ann"]
    subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=server.folder, input=b"y\n")
    expect(ann.page.locator("#entry-title")).to_have_text("Sign in")
    expect(ann.page.locator("#entry-notice")).to_contain_text("Sign in again")


def test_the_first_visitor_is_offered_an_account(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server()
    page = people(server, "ann").page
    page.goto(server.url)
    expect(page.locator("#entry-notice")).to_contain_text("Nobody has an account on this server yet.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Create an account")
    buttons = page.locator("#entry").get_by_role("button").filter(has_text="account")
    expect(buttons).to_have_text(["Create account"])
    expect(page.locator("#entry-switch")).to_have_text("Sign in instead")
    expect(page.locator("#entry .primary")).to_have_count(1)
    people(server, "bob").sign_up()
    page.reload()
    expect(page.locator("#entry-title")).to_have_text("Sign in")
    expect(page.locator("#entry-notice")).to_be_hidden()


@pytest.mark.slow  # it waits for what must not come, or for waits to grow
def test_the_page_is_back_soon_after_a_restart(people: MakePerson, own_server: Callable[..., Server]) -> None:
    server = own_server()
    ann = people(server, "ann").sign_up()
    server.kill()
    expect(ann.page.locator("#pill")).not_to_have_attribute("data-state", "connected")
    ann.page.wait_for_timeout(8_000)  # long enough for the waits of a page that nobody looks at to grow
    server.start()
    began = ann.page.evaluate("performance.now()")
    ann.wait_connected()
    assert ann.page.evaluate("performance.now()") - began < 6_000


def test_one_navigation_leads_over_all_pages(people: MakePerson, shared_server: Server) -> None:
    page = people(shared_server).sign_up().page
    for name, address in (("Tutorial", "/tutorial"), ("Pipelines", "/pipelines"), ("Chat", "/")):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
        page.wait_for_url(lambda url, address=address: url.split("#")[0].endswith(address))
        current = page.get_by_role("navigation", name="Pages").locator("[aria-current=page]")
        expect(current).to_have_text(name)
    page.goto(f"{shared_server.url}/tutorial/echo")
    expect(page.locator(".source pre")).to_contain_text('@router.websocket("/ws")')
