"""The chat dialect (contract section B): what is decoded, what is encoded, and round trips."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import BadRequest, CommandError, UnknownType
from tidewire.messages import Dropped, Format, Position, Publication, Subscribed
from tidewire.protocols.chat import (
    CHAT,
    Auth,
    Chat,
    ChatMessage,
    Error,
    Join,
    Leave,
    Online,
    Ping,
    PrivateChat,
    PrivateChatMessage,
    Rooms,
    System,
)
from tidewire.protocols.close_codes import NORMAL

texts = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.none() | texts | st.integers(-(2**53), 2**53)


def decode(message: str | bytes) -> Any:
    (command,) = CHAT.decode(message)
    return command


def shown(message: Any, format_: Format = Format.JSON) -> Any:
    channel = f"room:{message.room}" if isinstance(message, ChatMessage) else "events:lobby"
    publication = Publication(channel, 7, 6, "e", 1_700_000_000.25, CHAT.encode(message).data, format_)
    return json.loads(CHAT.encode_publication(publication).data)


@given(texts, ids, texts.filter(bool))
def test_a_chat_message_survives_the_way_in_and_out(text: str, id_: Any, room: str) -> None:
    command = decode(json.dumps({"type": "chat", "message": text, "id": id_, "room": room}))
    assert command == Chat(text, id_, room)
    out = shown(ChatMessage("ann", command.message, command.id, command.room))
    assert (out["sender"], out["content"], out.get("id")) == ("ann", text, id_)
    assert (out["offset"], out["timestamp"], out["type"]) == (7, "2023-11-14T22:13:20.250+00:00", "chat_message")


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ('{"type":"ping"}', Ping()),
        (b'{"type":"ping"}', Ping()),
        ('  {"type": "auth", "token": "t"}\n', Auth("t")),
        ('{"type":"online"}', Online()),
        ('{"type":"rooms"}', Rooms()),
        ('{"type":"join","room":"r","since":3,"epoch":"e"}', Join("r", 3, "e")),
        ('{"type":"leave","room":"r"}', Leave("r")),
        ('{"type":"private_chat","target_user":"bob","message":"hi","id":1}', PrivateChat("bob", "hi", 1)),
        ("hello", Chat("hello")),
        ("[brackets] are text", Chat("[brackets] are text")),
        ("", Chat("")),
        ("/pm bob hi  there", PrivateChat("bob", "hi  there")),
        ("/pm\tbob\thi", PrivateChat("bob", "hi")),
        ("/pm\nbob hi\nyou", PrivateChat("bob", "hi\nyou")),
        ("/pm\u00a0bob hi", PrivateChat("bob", "hi")),
        ("/pmx", Chat("/pmx")),
    ],
)
def test_decoding(message: str | bytes, command: Any) -> None:
    assert decode(message) == command


@pytest.mark.parametrize("message", ["/pm", "/pm bob", " /pm bob ", "/pm  ", "/pm\tbob"])
def test_a_malformed_private_message(message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(message)
    assert str(caught.value) == "Invalid /pm command format. Use '/pm username message'"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ('{"type":"dance"}', UnknownType),
        ('{"type":3}', BadRequest),
        ("{}", BadRequest),
        ("{", BadRequest),
        ("[1]", BadRequest),
        ('{"type":"chat"}', BadRequest),
        ('{"type":"chat","message":3}', BadRequest),
        (b"\xff", BadRequest),
        (b"hello", BadRequest),
        ("\ud800", BadRequest),
        ('{"type":"chat","message":"\ud800"}', BadRequest),
        ('{"a":' * 100 + "1" + "}" * 100, BadRequest),
    ],
)
def test_what_is_refused_says_why(message: str | bytes, error: type[CommandError]) -> None:
    with pytest.raises(error) as caught:
        decode(message)
    assert str(caught.value)


@given(st.text() | st.binary() | texts.map(lambda text: "{" + text) | texts.map(lambda text: "[" + text))
def test_anything_is_decoded_or_refused(message: str | bytes) -> None:
    try:
        commands = CHAT.decode(message)
    except CommandError as error:
        json.loads(CHAT.encode_error(error).data)
    else:
        assert len(commands) == 1


def test_system_messages_get_their_time_and_private_ones_their_offset() -> None:
    assert shown(System("hello")) == {
        "type": "system",
        "content": "hello",
        "timestamp": "2023-11-14T22:13:20.250+00:00",
    }
    assert shown(PrivateChatMessage("ann", "bob", "hi"))["offset"] == 7
    assert shown(Error("x", "y")) == {"type": "error", "code": "x", "content": "y"}


def test_the_lobby_goes_without_a_name() -> None:
    assert "room" not in shown(
        ChatMessage("ann", "hi", None, decode('{"type":"chat","message":"hi","room":"lobby"}').room)
    )
    assert shown(ChatMessage("ann", "hi", None, "tea"))["room"] == "tea"


@pytest.mark.parametrize("recovered", [None, True, False])
def test_history_is_one_message(recovered: bool | None) -> None:
    stored = tuple(
        Publication("room:tea", n, n - 1, "e", 0.0, CHAT.encode(ChatMessage("ann", str(n), None, "tea")).data)
        for n in (1, 2)
    )
    (message,) = CHAT.encode_subscribed(Subscribed("room:tea", Position(2, "e"), stored, recovered))
    out = json.loads(message.data)
    assert [entry["offset"] for entry in out["messages"]] == [1, 2]
    assert (out["type"], out["epoch"], out["room"], out.get("recovered")) == ("history", "e", "tea", recovered)


def test_notices() -> None:
    assert json.loads(CHAT.encode_error(UnknownType("no")).data)["code"] == "unknown_type"
    dropped = json.loads(CHAT.encode_dropped(Dropped("room:tea", 4)).data)
    assert (dropped["code"], dropped["room"]) == ("dropped", "tea")
    pong = CHAT.encode_pong()
    assert pong is not None
    assert json.loads(pong.data) == {"type": "pong"}
    assert CHAT.close_code(NORMAL) == (1000, "")


@pytest.mark.parametrize(
    ("data", "format_", "seen"),
    [
        (b'{"x":1}', Format.JSON, {"x": 1}),
        (b"hello", Format.TEXT, "hello"),
        (b"\xff\x00", Format.BINARY, "\ufffd\x00"),
        (b'{"type":"chat_message"}', Format.JSON, {"type": "chat_message"}),
        (
            b'{"type":"chat_message","sender":5,"content":[]}',
            Format.JSON,
            {"type": "chat_message", "sender": 5, "content": []},
        ),
        (b'{"type":"history","messages":[]}', Format.JSON, {"type": "history", "messages": []}),
        (
            b'{"type":"chat_message","sender":"a","content":"b","room":"other"}',
            Format.JSON,
            {"type": "chat_message", "sender": "a", "content": "b", "room": "other"},
        ),
    ],
)
def test_what_is_no_message_of_the_room_is_shown_as_what_it_is(data: bytes, format_: Format, seen: Any) -> None:
    publication = Publication("room:lobby", 7, 6, "e", 1_700_000_000.25, data, format_)
    expected = {"type": "publication", "data": seen, "timestamp": "2023-11-14T22:13:20.250+00:00", "offset": 7}
    assert json.loads(CHAT.encode_publication(publication).data) == expected
    (history,) = CHAT.encode_subscribed(Subscribed("room:lobby", Position(7, "e"), (publication,)))
    assert json.loads(history.data)["messages"] == [expected]
