"""Two people talk: rooms, who is online, private messages, what is unread, and hostile text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from browser.people import PHONE, Person
from browser.serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

MakePerson = Callable[..., Person]

HOSTILE = [
    "<img src=x onerror=\"window.stolen='img'\">",
    "<script>window.stolen='script'</script>",
    "javascript:window.stolen=1",
    '"><svg onload="window.stolen=1">',
    "https://example.org/\"onmouseover=\"window.stolen='attribute'",
    "{{constructor.constructor('window.stolen=1')()}}",
]


def test_two_browsers_talk_and_one_closes(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    online = ann.page.locator("#online")
    expect(online).to_contain_text(bob.name)
    ann.say("hello")
    expect(bob.message("hello")).to_have_count(1)
    bob.say("two\nlines")
    expect(ann.page.locator("#log .text").last).to_have_text("two\nlines")
    expect(ann.page.locator("#log .state")).to_have_count(0)
    assert ann.messages()[-2:] == bob.messages()[-2:]
    bob.page.close()
    expect(online).not_to_contain_text(bob.name)
    expect(ann.page.locator("#log .event").last).to_have_text(f"{bob.name} left")


def test_a_second_tab_neither_joins_nor_leaves(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    expect(ann.page.locator("#log .event").last).to_have_text(f"{bob.name} joined")
    events = ann.page.locator("#log .event").count()
    second = bob.tab()
    second.goto(shared_server.url)
    bob.wait_connected(second)
    bob.say("from the first")
    expect(second.get_by_text("from the first", exact=True)).to_be_visible()
    bob.say("from the second", second)
    expect(bob.message("from the second")).to_have_count(1)
    second.close()
    ann.say("still there?")
    expect(bob.message("still there?")).to_be_visible()
    expect(ann.page.locator("#online")).to_contain_text(bob.name)
    assert ann.page.locator("#log .event").count() == events


def test_rooms_are_made_found_and_left(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    room = f"Probe 17 {ann.name}"
    ann.go(room)
    expect(ann.page.locator("#empty")).to_contain_text(f"Nothing said in {room} yet")
    ann.say("only here")
    bob.page.get_by_role("button", name="Find or create a room").click()
    bob.page.get_by_label("Rooms on this server").get_by_role("button", name=room).click()
    expect(bob.message("only here")).to_be_visible()
    expect(bob.page.locator("#online")).to_contain_text(ann.name)
    bob.page.get_by_role("button", name=f"Leave the room {room}").click()
    expect(bob.page.locator("#thread-title")).to_have_text("lobby")
    expect(bob.entry(room)).to_have_count(0)
    expect(ann.page.locator("#online")).not_to_contain_text(bob.name)


def test_a_bad_room_name_is_refused_beside_the_field(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    ann.page.get_by_role("button", name="Find or create a room").click()
    ann.page.get_by_label("Name of the room").fill("no/slash")
    ann.page.keyboard.press("Enter")
    expect(ann.page.locator("#room-error")).to_contain_text("letters, digits")
    expect(ann.page.get_by_label("Name of the room")).to_be_focused()


def test_what_is_unread_is_counted_and_survives_a_reload(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    room = f"quiet-{ann.name}"
    for person in (ann, bob):
        person.go(room)
    bob.entry("lobby").click()
    for number in range(3):
        ann.say(f"unread {number}")
    expect(bob.entry(room).locator(".badge")).to_have_text("3")
    expect(bob.page).to_have_title(re.compile(r"^\(3\) lobby"))
    bob.page.reload()
    bob.wait_connected()
    expect(bob.entry(room).locator(".badge")).to_have_text("3")
    bob.entry(room).click()
    expect(bob.page.locator("#log .fresh")).to_have_count(1)
    expect(bob.message("unread 0").locator(".fresh")).to_be_visible()
    expect(bob.page).to_have_title(re.compile(r"^quiet"))
    bob.page.reload()
    bob.wait_connected()
    expect(bob.message("unread 2")).to_be_visible()
    expect(bob.entry(room).locator(".badge")).to_have_count(0)


def test_private_messages(people: MakePerson, shared_server: Server) -> None:
    ann, bob, eve = (people(shared_server).sign_up() for _ in range(3))
    ann.say(f"/pm {bob.name} for your eyes")
    expect(ann.page.locator("#thread-title")).to_have_text(bob.name)
    expect(ann.message("for your eyes")).to_be_visible()
    expect(bob.entry(ann.name).locator(".badge")).to_have_text("1")
    bob.page.locator("#online").get_by_role("link", name=ann.name).click()
    expect(bob.message("for your eyes")).to_be_visible()
    bob.say("and yours")
    expect(ann.message("and yours")).to_be_visible()
    ann.page.reload()
    ann.wait_connected()
    expect(ann.message("and yours")).to_be_visible()
    assert ann.messages() == ["for your eyes", "and yours"]
    assert eve.page.get_by_text("for your eyes").count() == 0


def test_two_tabs_know_the_same(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    other = ann.tab()
    other.goto(shared_server.url)
    ann.wait_connected(other)
    ann.say(f"/pm {bob.name} from the first tab")
    expect(ann.message("from the first tab")).to_be_visible()
    other.locator("#conversations").get_by_role("link", name=bob.name).click()
    expect(other.get_by_text("from the first tab", exact=True)).to_be_visible()
    bob.say(f"/pm {ann.name} to both")
    for page in (ann.page, other):
        expect(page.locator("#log").get_by_text("to both", exact=True)).to_have_count(1)
    room = f"both-{ann.name}"
    ann.go(room)
    other.locator("#rooms").get_by_role("link", name=room).click()
    expect(other.locator("#online")).to_contain_text(ann.name)


def test_a_private_message_to_nobody_stays_with_its_reason(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    ann.say("/pm nobody-at-all are you there?")
    expect(ann.message("are you there?")).to_contain_text("nobody-at-all is not online")
    ann.page.get_by_role("button", name="Discard").click()
    expect(ann.message("are you there?")).to_have_count(0)


def test_a_malformed_command_says_how_it_is_written(people: MakePerson, shared_server: Server) -> None:
    ann = people(shared_server).sign_up()
    ann.say("/pm")
    expect(ann.page.locator("#composer-problem")).to_have_text("Invalid /pm command format. Use '/pm username message'")
    expect(ann.page.locator("#writing")).to_have_value("/pm")


def test_hostile_text_is_only_text(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server, viewport=PHONE).sign_up()
    for text in HOSTILE:
        ann.say(text)
        expect(bob.page.locator("#log .text").last).to_have_text(text)
    assert bob.messages()[-len(HOSTILE) :] == HOSTILE
    for person in (ann, bob):
        assert person.page.evaluate("window.stolen") is None
        inside = person.page.locator("#log .text").locator("img, script, svg, iframe, [onmouseover]")
        expect(inside).to_have_count(0)
        for link in person.page.locator("#log .text a").all():
            assert (link.get_attribute("href") or "").startswith("https://example.org/")
            assert "noopener" in (link.get_attribute("rel") or "")


def test_scrolled_up_the_page_stays_where_it_is(people: MakePerson, shared_server: Server) -> None:
    ann, bob = people(shared_server).sign_up(), people(shared_server).sign_up()
    room = f"long-{ann.name}"
    for person in (ann, bob):
        person.go(room)
    for number in range(60):
        ann.say(f"line {number}")
    expect(bob.message("line 59")).to_be_visible()
    bob.page.locator("#scroller").hover()
    bob.page.mouse.wheel(0, -900)
    newer = bob.page.locator("#newer")
    expect(newer).to_be_visible()
    before = bob.page.locator("#scroller").evaluate("(node) => node.scrollTop")
    ann.say("something new")
    expect(newer).to_have_text("1 new message")
    assert bob.page.locator("#scroller").evaluate("(node) => node.scrollTop") == before
    newer.click()
    expect(bob.message("something new")).to_be_in_viewport()
    expect(newer).to_be_hidden()
