"""Clients that live whatever a server sends, and whenever a token comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from clients.serving import Service, connection_token, serving, subscription_token
from clients.test_module import script
from tidewire.client import Client
from tidewire.client.chat_messages import ChatMessage, HistoryReply, decode_each, decode_message
from tidewire.client.client_frames import frame_name, read_json
from tidewire.errors import CommandError, PermissionDenied

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


def answer(number: int, result: str) -> str:
    return f'{{"id":{number},{result}}}'


@asynccontextmanager
async def telling(*frames: bytes, history: str = "[]") -> AsyncIterator[str]:
    """Serve clients that subscribe to a channel; they are pushed these frames. Yields the address."""

    async def handle(socket: ServerConnection) -> None:
        async for frame in socket:
            for line in str(frame).split("\n"):
                command = json.loads(line)
                if "connect" in command:
                    await socket.send(answer(command["id"], '"connect":{"client":"c","version":""}'))
                elif "subscribe" in command:
                    told = f'"recoverable":true,"epoch":"e","publications":{history}'
                    await socket.send(answer(command["id"], f'"subscribe":{{{told}}}'))
                    for pushes in frames:
                        await socket.send(pushes, text=True)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def pushed(data: bytes, offset: int) -> bytes:
    return b'{"push":{"channel":"a","pub":{"data":%b,"offset":%d}}}' % (data, offset)


POISON = [
    ('"\u2028\u2029\x85"'.encode(), "\u2028\u2029\x85"),
    (b'"half \\ud83d"', "half \ufffd"),
    (b"1" * 5_000, float("inf")),
    (b"9" * 100, int("9" * 100)),
    (b"1e999", float("inf")),
]


@pytest.mark.parametrize(("data", "value"), POISON, ids=["line ends", "surrogate", "number", "hundred", "float"])
def test_one_odd_publication_does_not_end_a_python_client(data: bytes, value: Any) -> None:
    """U+2028 in a text, a number of 5,000 digits or half a surrogate pair ended the program, and again each time."""

    async def scenario() -> None:
        server = telling(
            pushed(data, 2) + b"\n" + pushed(b'"last"', 3), history=f'[{{"data":{data.decode()},"offset":1}}]'
        )
        async with asyncio.timeout(20), server as url, Client(url) as client:
            room = client.subscribe("a")
            assert [(await anext(room)).data for _ in range(3)] == [value, value, "last"]
            assert room.position is not None
            assert room.position.offset == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"NaN", b'{"a":', b"[" * 100_000 + b"]" * 100_000])
def test_what_is_no_json_is_named_and_skipped(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A frame that is no JSON at all ended the client."""

    async def scenario() -> None:
        server = telling(pushed(data, 2), b"\x00", pushed(b'"last"', 3))
        async with asyncio.timeout(20), server as url, Client(url) as client:
            assert (await anext(client.subscribe("a"))).data == "last"

    asyncio.run(scenario())
    assert "publication 2 of 'a' cannot be read" in caplog.text


def test_an_answer_that_cannot_be_read_is_an_error_of_its_command() -> None:
    """A history with a broken publication ended the whole client."""

    async def scenario() -> None:
        async with asyncio.timeout(20), telling(history="[{]") as url, Client(url) as client:
            with pytest.raises(CommandError, match="cannot be read"):
                await anext(client.subscribe("a"))

    asyncio.run(scenario())


def test_the_chat_client_reads_half_a_character(caplog: pytest.LogCaptureFixture) -> None:
    """A message with half an emoji was left out without a word."""
    text = '{"type":"chat_message","sender":"ann","content":"half \\ud83d","timestamp":"","offset":1}'
    message = decode_message(text)
    assert isinstance(message, ChatMessage)
    assert message.content == "half \ufffd"
    history = decode_message(f'{{"type":"history","epoch":"e","messages":[{text}]}}')
    assert isinstance(history, HistoryReply)
    assert [found.content for found in decode_each(history.messages, ChatMessage)] == ["half \ufffd"]
    assert decode_message("{") is None
    assert "cannot be read" in caplog.text


def test_the_name_of_an_unreadable_publication() -> None:
    """An error says which publication it was, as far as it can be seen."""
    assert frame_name(pushed(b"NaN", 7)) == "publication 7 of 'a'"
    assert frame_name(b"\xff{").startswith("the message ")
    assert read_json(b"1" * 5_000) == float("inf")


@pytest.mark.parametrize("wrong", ["", {"token": "…"}])
def test_an_empty_token_ends_one_subscription_only(service: Service, wrong: Any) -> None:
    """An empty token, or the answer around one, ended the whole connection (centrifugal/centrifuge-dart#122)."""

    async def scenario() -> None:
        tokens = [subscription_token("ann", "private", seconds=2), wrong]

        async def get_token(channel: str) -> str:
            return tokens.pop(0)

        async with asyncio.timeout(25), Client(service.websocket, token=connection_token("ann")) as client:
            private = client.subscribe("private", get_token=get_token)
            room = client.subscribe("news:empty")
            await private.wait_subscribed()
            await room.wait_subscribed()
            with pytest.raises(PermissionDenied, match="no token"):
                await anext(private)
            await asyncio.to_thread(service.publish, "news:empty", 1)
            assert (await anext(room)).data == {"n": 1}

    asyncio.run(scenario())


def test_a_token_that_comes_before_the_connect_reply_subscribes(service: Service) -> None:
    """Such a subscription stayed "subscribing" for good (centrifugal/centrifuge-js#265)."""
    body = """
        const { token, private: hidden } = await told();
        const client = m.connect(url, { token });
        const first = client.subscribe("private", null, { getToken: () => hidden });
        let late = null;
        const socket = setInterval(() => {
          late ??= client.subscribe("news:late");
        }, 0);
        await until(() => first.state === "subscribed" && late?.state === "subscribed");
        clearInterval(socket);
        say([first.state, late.state]);
    """
    with script(service.websocket, body) as running:
        running.tell({"token": connection_token("ann"), "private": subscription_token("ann", "private")})
        assert running.said() == ["subscribed", "subscribed"]


@pytest.mark.parametrize("options", ["{}", "{ WebSocket: class { constructor() { throw new Error('no'); } } }"])
def test_a_program_without_a_server_lives(options: str) -> None:
    """In Node an error that nobody took ended the program when no server was there."""
    body = f"""
        const errors = [];
        const client = new m.Client(url, {options});
        client.on("error", (error) => errors.push(error.message));
        let times = 0;
        client.on("connecting", () => (times += 1));
        client.on("disconnected", () => (times += 9));
        client.connect();
        await until(() => times > 2);
        client.disconnect();
        await new Promise((resolve) => setTimeout(resolve, 200));
        say("alive");
    """
    with script("ws://127.0.0.1:1/connection/websocket", body) as running:
        assert running.said() == "alive"


def test_a_frame_that_cannot_be_read_does_not_end_the_others_in_a_page() -> None:
    """One broken line of a frame lost all that followed it."""
    body = """
        const errors = [];
        class Fake {
          readyState = 1;
          constructor() { setTimeout(() => this.onopen()); }
          close() {}
          send(frame) {
            for (const { id, connect, subscribe } of frame.split("\\n").map((line) => JSON.parse(line))) {
              if (connect) this.onmessage({ data: `{"id":${id},"connect":{"client":"c"}}` });
              if (subscribe) this.onmessage({ data: [
                `{"id":${id},"subscribe":{}}`,
                '{"push":{"channel":"a","pub":{"data":NaN,"offset":2}}}',
                '{"push":{"channel":"a","pub":null}}', 'null',
                '{"push":{"channel":"a","pub":{"data":"\\u2028last","offset":3}}}',
              ].join("\\n") });
            }
          }
        }
        const client = m.connect(url, { WebSocket: Fake });
        client.on("error", (error) => errors.push(error.message));
        const told_ = [];
        client.subscribe("a", ({ data }) => told_.push(data));
        await until(() => told_.length === 1);
        say([told_, errors]);
    """
    with script("ws://127.0.0.1:1/connection/websocket", body) as running:
        shown, errors = running.said()
    assert shown == ["\u2028last"]
    assert "publication 2 of a" in errors[0]


def test_a_listener_that_disconnects_at_an_error_has_the_last_word() -> None:
    """It came back by itself after a logout at a failed token (centrifugal/centrifuge-js#414)."""
    body = """
        const client = new m.Client(url, { getToken: () => { throw new Error("logged out"); } });
        client.on("error", () => client.disconnect());
        const ended = new Promise((resolve) => client.on("disconnected", resolve));
        client.connect();
        await ended;
        await Promise.resolve();
        say(client.state);
    """
    with script("ws://127.0.0.1:1/connection/websocket", body) as running:
        assert running.said() == "disconnected"


def test_a_client_with_an_expired_token_does_not_become_a_stranger() -> None:
    """A second `connect` came without the token (centrifugal/centrifuge-dart#129)."""
    body = """
        const tokens = [];
        class Expired {
          readyState = 1;
          constructor() { setTimeout(() => this.onopen()); }
          close() {}
          send(frame) {
            const { id, connect } = JSON.parse(frame);
            tokens.push(connect.token ?? "none");
            this.onmessage({ data: `{"id":${id},"error":{"code":109,"message":"token expired"}}` });
          }
        }
        const client = new m.Client(url, { WebSocket: Expired, token: "mine" });
        for (let times = 0; times < 2; times += 1) {
          const ended = new Promise((resolve) => client.on("disconnected", resolve));
          client.connect();
          await ended;
        }
        say(tokens);
    """
    with script("ws://127.0.0.1:1/connection/websocket", body) as running:
        assert running.said() == ["mine", "mine"]


@pytest.mark.parametrize("of", ["connection", "subscription"])
def test_a_token_that_is_no_text_is_told_where_it_is_made(service: Service, of: str) -> None:
    """`getToken: () => response.json()` was 3501 "bad request", for the whole connection."""
    body = f"""
        const {{ token }} = await told();
        const wrong = {{ getToken: async () => ({{ token }}) }};
        const client = m.connect(url, "{of}" === "connection" ? wrong : {{ token }});
        const errors = [];
        client.on("error", (error) => errors.push(error.message));
        const hidden = client.subscribe("private", null, wrong);
        hidden.on("error", (error) => errors.push(error.message));
        await until(() => errors.length > 0);
        const room = client.subscribe("news:empty");
        await until(() => client.state === "disconnected" || room.state === "subscribed");
        say([client.state, hidden.state, errors[0]]);
    """
    with script(service.websocket, body) as running:
        running.tell({"token": connection_token("ann")})
        client, hidden, error = running.said()
    assert client == ("disconnected" if of == "connection" else "connected")
    assert hidden != "subscribed"
    assert error == "getToken gave a value of type object, not text"
