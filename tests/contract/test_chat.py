"""Section B: the chat dialect, on each store and over two workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from .chatting import Chat, Message, said
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-chat")


# What is said.


def test_a_message_reaches_all_with_its_sender_time_and_offset(every_server: Server, room: str) -> None:
    ann, ann_token = every_server.sign_up()
    _, ben_token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, ann_token, room=room) as one, Chat(every_server, ben_token, room=room) as two:
            await one.joined()
            await two.joined()
            await one.say("hello <b>ü</b> 🌊", id="m-1")
            mine = await one.expect("chat_message")
            assert await two.expect("chat_message") == mine
            time, offset = mine.pop("timestamp"), mine.pop("offset")
            assert abs(datetime.now(UTC) - datetime.fromisoformat(time)) < timedelta(minutes=1)
            assert isinstance(offset, int)
            expected = {
                "type": "chat_message",
                "sender": ann,
                "content": "hello <b>ü</b> 🌊",
                "id": "m-1",
                "room": room,
            }
            assert mine == expected

    asyncio.run(scenario())


def test_the_lobby_goes_without_a_name(every_server: Server) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token) as chat:
            history = await chat.joined()
            assert "room" not in history
            await chat.say("in the lobby")
            message = await chat.expect("chat_message", content="in the lobby")
            assert message.keys() == {"type", "sender", "content", "timestamp", "offset"}
            await chat.send("chat", message="named", room="lobby")
            assert "room" not in await chat.expect("chat_message", content="named")
            assert all("room" not in message for message in chat.seen)

    asyncio.run(scenario())


def test_plain_text_is_a_message_and_blank_ones_are_ignored(every_server: Server) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token) as chat:
            await chat.joined()
            for blank in ("", "  \n\t ", '{"type": "chat", "message": " \\n "}', b"\x20"):
                await chat.socket.send(blank)
            await chat.socket.send("typed as it is")
            await chat.expect("chat_message", content="typed as it is")
            await chat.socket.send("[sic] no JSON")
            await chat.expect("chat_message", content="[sic] no JSON")
            await chat.socket.send(b'{"type": "chat", "message": "JSON in a binary frame"}')
            await chat.expect("chat_message", content="JSON in a binary frame")
            mine = chat.all("chat_message")
            assert said(mine)[-3:] == ["typed as it is", "[sic] no JSON", "JSON in a binary frame"]
            assert not [content for content in said(mine) if not content.strip()]

    asyncio.run(scenario())


@pytest.mark.parametrize("id_", ["an-id", 42, "", "ü 🌊", "x" * 200])
def test_the_same_id_is_published_once(every_server: Server, room: str, id_: str | int) -> None:
    _, token = every_server.sign_up()
    _, other_token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as one, Chat(every_server, token, room=room) as tab:
            await one.joined()
            await tab.joined()
            await one.say("once", id=id_)
            assert (await one.expect("chat_message"))["id"] == id_
            await tab.expect("chat_message")
            for repeating in (one, tab):
                await repeating.say("once", id=id_)
                assert said(await repeating.settle()) == []
            await one.say("a marker")
            for chat in (one, tab):
                await chat.expect("chat_message", content="a marker")
                assert said(chat.all("chat_message")) == ["once", "a marker"]
        async with Chat(every_server, other_token, room=room) as other:
            history = await other.joined()
            assert said(history["messages"]) == ["once", "a marker"]
            assert history["messages"][0]["id"] == id_
            await other.say("the same id of another user", id=id_)
            await other.expect("chat_message", content="the same id of another user")

    asyncio.run(scenario())


def test_the_same_id_in_another_room_is_another_message(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            await chat.send("join", room=f"{room}-b")
            await chat.expect("online", room=f"{room}-b")
            await chat.say("first", id=1)
            await chat.expect("chat_message", content="first", room=room)
            await chat.say("second", id=1, room=f"{room}-b")
            await chat.expect("chat_message", content="second", room=f"{room}-b")

    asyncio.run(scenario())


# What is said to one.


def test_a_private_message_reaches_every_device_of_its_target(every_server: Server, room: str) -> None:
    ann, ann_token = every_server.sign_up()
    ben, ben_token = every_server.sign_up()
    _, eve_token = every_server.sign_up()

    async def scenario() -> None:
        async with (
            Chat(every_server, ann_token, room=room) as sender,
            Chat(every_server, ben_token, room=room) as phone,
            Chat(every_server, ben_token, room=f"{room}-elsewhere") as laptop,
            Chat(every_server, eve_token, room=room) as eve,
        ):
            for chat in (sender, phone, laptop, eve):
                await chat.joined()
            await sender.send("private_chat", target_user=ben, message="for you", id="p1")
            for device in (phone, laptop):
                message = await device.expect("private_chat_message")
                assert isinstance(message.pop("offset"), int)
                assert datetime.fromisoformat(message.pop("timestamp"))
                expected = {"type": "private_chat_message", "sender": ann, "target": ben, "content": "for you"}
                assert message == {**expected, "id": "p1"}
            told = await sender.expect("system", id="p1")
            assert told["content"] == f"Private message sent to {ben}."
            await sender.socket.send(f"/pm {ben}  two words ")
            for device in (phone, laptop):
                assert (await device.expect("private_chat_message"))["content"] == "two words"
            await sender.expect("system", content=f"Private message sent to {ben}.")
            await sender.say("a marker")
            await eve.expect("chat_message", content="a marker")
            assert eve.all("private_chat_message") == sender.all("private_chat_message") == []

    asyncio.run(scenario())


def test_who_is_not_online_gets_no_private_message(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()
    away, _ = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for target in (away, "nobody", "", "a\nb", "x" * 5_000, "../$user"):
                await chat.send("private_chat", target_user=target, message="hello", id="p")
                told = await chat.expect("system", id="p")
                assert told["content"] == f"User '{target}' not found among active connections."
            await chat.socket.send("/pm nobody hello")
            await chat.expect("system", content="User 'nobody' not found among active connections.")

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["/pm", "/pm ", "/pm someone", "  /pm someone  "])
def test_a_malformed_pm_is_told_its_form(every_server: Server, room: str, text: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            await chat.socket.send(text)
            error = await chat.expect("error")
            assert error["code"] == "bad_request"
            assert error["content"] == "Invalid /pm command format. Use '/pm username message'"
            assert said(await chat.settle()) == []

    asyncio.run(scenario())


def test_private_messages_that_were_missed_are_in_the_inbox(every_server: Server, room: str) -> None:
    _, ann_token = every_server.sign_up()
    ben, ben_token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, ann_token, room=room) as ann:
            await ann.joined()
            async with Chat(every_server, ben_token, room=room, inbox="") as first:
                inbox = await first.expect("inbox")
                assert (inbox["messages"], "recovered" in inbox) == ([], False)
                await first.expect("online")
                await ann.send("private_chat", target_user=ben, message="one")
                seen = await first.expect("private_chat_message")
                async with Chat(every_server, ben_token, room=room) as second:
                    await second.joined()
                    await first.socket.close()
                    await ann.send("private_chat", target_user=ben, message="two")
                    await second.expect("private_chat_message", content="two")
            position = {"inbox": seen["offset"], "inbox_epoch": inbox["epoch"]}
            async with Chat(every_server, ben_token, room=room, **position) as back:
                missed = await back.expect("inbox")
                assert (said(missed["messages"]), missed["recovered"]) == (["two"], True)
                assert missed["messages"][0]["sender"]
            unknown = [("5", "no-such"), (2**63, inbox["epoch"]), ("9" * 5_000, inbox["epoch"])]
            for offset, epoch in unknown:
                async with Chat(every_server, ben_token, room=room, inbox=offset, inbox_epoch=epoch) as lost:
                    assert (await lost.expect("inbox"))["recovered"] is False

    asyncio.run(scenario())


# What was said before.


def test_history_is_the_last_100_oldest_first(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for number in range(130):
                await chat.say(str(number), id=number)
            live = [await chat.expect("chat_message") for _ in range(130)]
            assert said(live) == [str(number) for number in range(130)]
            offsets = [message["offset"] for message in live]
            assert offsets == sorted(set(offsets))
            async with Chat(every_server, token, room=room) as newcomer:
                history = await newcomer.receive()
                assert history["type"] == "history"
                assert history.keys() == {"type", "messages", "epoch", "room"}
                assert history["messages"] == live[30:]
            everything = await returning(every_server, token, room, live[0], history["epoch"])
            assert everything["messages"] == live[1:]
            assert everything["recovered"] is True

    asyncio.run(scenario())


async def returning(server: Server, token: str, room: str, last: Message, epoch: str) -> Message:
    """Come back to a room after a message, and return what was missed."""
    async with Chat(server, token, room=room, since=last["offset"], epoch=epoch) as chat:
        return await chat.joined()


def test_who_returns_gets_what_was_missed_or_is_told_that_it_cannot_be(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            epoch = (await chat.joined())["epoch"]
            for number in range(5):
                await chat.say(str(number))
            live = [await chat.expect("chat_message") for _ in range(5)]
        missed = await returning(every_server, token, room, live[2], epoch)
        assert (missed["messages"], missed["recovered"], missed["epoch"]) == (live[3:], True, epoch)
        nothing = await returning(every_server, token, room, live[4], epoch)
        assert (nothing["messages"], nothing["recovered"]) == ([], True)
        of_another_epoch = await returning(every_server, token, room, live[2], "another")
        assert (of_another_epoch["messages"], of_another_epoch["recovered"]) == (live, False)
        for beyond in (live[4]["offset"] + 1_000, 2**63 - 1, 2**63, 10**30):
            ahead = await returning(every_server, token, room, {"offset": beyond}, epoch)
            assert (ahead["messages"], ahead["recovered"]) == (live, False)
            async with Chat(every_server, token) as other:
                await other.joined()
                await other.send("join", room=room, since=beyond, epoch=epoch)
                ahead = await other.expect("history", room=room)
                assert (ahead["messages"], ahead["recovered"]) == (live, False)

    asyncio.run(scenario())


# Who is there.


def test_joins_and_leaves_are_told_once_per_user_not_per_device(every_server: Server, room: str) -> None:
    ann, ann_token = every_server.sign_up()
    ben, ben_token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, ann_token, room=room) as watcher:
            await watcher.joined()
            devices = [Chat(every_server, ben_token, room=room) for _ in range(3)]
            for device in devices:
                await device.open()
                history = await device.receive()
                assert history["type"] == "history"
                assert (await device.expect("online"))["users"] == [ann, ben]
            for device in devices[:2]:
                await device.socket.close()
            assert await watcher.who() == [ann, ben]
            await devices[2].say("a marker")
            await watcher.expect("chat_message", content="a marker")
            devices[2].socket.transport.abort()
            left = await watcher.expect("system", content=f"User '{ben}' has left the chat.")
            assert datetime.fromisoformat(left["timestamp"])
            assert left["room"] == room
            assert await watcher.who() == [ann]
            told = [message["content"] for message in watcher.all("system") if ben in message["content"]]
            assert told == [f"User '{ben}' has joined the chat.", f"User '{ben}' has left the chat."]
            await devices[2].socket.wait_closed()

    asyncio.run(scenario())


def test_a_user_who_comes_back_joins_again(every_server: Server, room: str) -> None:
    _, ann_token = every_server.sign_up()
    ben, ben_token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, ann_token, room=room) as watcher:
            await watcher.joined()
            for _ in range(3):
                async with Chat(every_server, ben_token, room=room) as chat:
                    await watcher.expect("system", content=f"User '{ben}' has joined the chat.")
                    await chat.joined()
                await watcher.expect("system", content=f"User '{ben}' has left the chat.")
            assert len([message for message in watcher.all("system") if ben in message["content"]]) == 6

    asyncio.run(scenario())


# Rooms.


def test_rooms_are_apart(every_server: Server, room: str) -> None:
    ann, ann_token = every_server.sign_up()
    ben, ben_token = every_server.sign_up()
    other = f"{room} & more".replace("&", "and")

    async def scenario() -> None:
        async with Chat(every_server, ann_token, room=room) as one, Chat(every_server, ben_token, room=other) as two:
            await one.joined()
            await two.joined()
            await one.say("only here")
            await one.expect("chat_message", content="only here")
            await two.say("a marker")
            await two.expect("chat_message", content="a marker")
            assert said(two.seen) == ["a marker"]
            await two.send("join", room=room)
            history = await two.expect("history", room=room)
            assert said(history["messages"]) == ["only here"]
            assert (await two.expect("online", room=room))["users"] == [ann, ben]
            await one.expect("system", content=f"User '{ben}' has joined the chat.", room=room)
            await one.say("now you hear me")
            await two.expect("chat_message", content="now you hear me", room=room)
            await two.send("rooms")
            rooms = {entry["name"]: entry["online"] for entry in (await two.expect("rooms"))["rooms"]}
            assert (rooms[room], rooms[other]) == (2, 1)
            await two.send("leave", room=room)
            assert await two.expect("left") == {"type": "left", "room": room}
            await one.expect("system", content=f"User '{ben}' has left the chat.", room=room)
            await two.send("chat", message="from outside", room=room, id="x")
            error = await two.expect("error")
            assert (error["code"], error["id"], error["room"]) == ("permission_denied", "x", room)
            await one.say("unheard")
            await one.expect("chat_message", content="unheard")
            assert said(await two.settle()) == []
            await two.send("join", room=room, since=history["messages"][0]["offset"], epoch=history["epoch"])
            again = await two.expect("history", room=room)
            assert (said(again["messages"]), again["recovered"]) == (["now you hear me", "unheard"], True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "x" * 65, "a\nb", "a\x00b", " a", "a ", "*", "room:x", "$control", "../../etc"]
)
def test_a_bad_room_name_is_an_error(every_server: Server, room: str, name: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for type_ in ("join", "leave", "online"):
                await chat.send(type_, room=name)
                error = await chat.expect("error")
                assert error["code"] in ("bad_request", "permission_denied")
                assert error["room"] == name
            await chat.send("rooms")
            assert name not in [entry["name"] for entry in (await chat.expect("rooms"))["rooms"]]
        async with Chat(every_server, token, room=name) as chat:
            error = await chat.expect("error")
            assert error["code"] == "bad_request"
            assert "room name" in error["content"]

    asyncio.run(scenario())


def test_only_who_is_in_a_room_is_told_who_is_there(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()

    async def scenario() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            await chat.send("online", room="lobby")
            assert (await chat.expect("error"))["code"] == "permission_denied"
            await chat.send("join", room=room)
            assert (await chat.expect("error"))["code"] == "bad_request"

    asyncio.run(scenario())
