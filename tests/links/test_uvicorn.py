"""The WebSocket class for uvicorn, over real sockets: ASGI for endpoints, the link, the drain, the heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from tests.links import wire_app
from tests.links.wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Client,
    Server,
    connect,
    frame,
    request,
    serving,
    wait_for,
)
from websockets.asyncio.client import connect as ws_connect
from websockets.protocol import Protocol as Core

from tidewire.limits import Limits
from tidewire.links import first_request
from tidewire.links.asgi_application import AsgiApplication
from tidewire.links.first_request import FirstRequest
from tidewire.links.http import HttpProtocol
from tidewire.links.listener import listening_socket
from tidewire.links.opening_handshake import OpeningHandshake
from tidewire.links.phases import PhasedProtocol
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.links.websocket import WebSocketLink
from tidewire.support.timer_wheel import TimerWheel


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def told(server: Server, name: str) -> list[Any]:
    """Wait for what the application was told under a name."""
    return wait_for(lambda: [event for event in server.stats()["events"] if event[0] == name], why=f"events of {name}")


# ASGI, as ordinary endpoints use it.


def test_text_stays_text_and_bytes_stay_bytes(server: Server) -> None:
    with Client(server) as client:
        client.send(frame(TEXT, "héllo".encode()), frame(BINARY, b"\x00\xff"), frame(TEXT), frame(BINARY))
        assert [client.receive() for _ in range(4)] == [
            (0x81, "héllo".encode()),
            (0x82, b"\x00\xff"),
            (0x81, b""),
            (0x82, b""),
        ]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_messages_of_every_length_form(server: Server, size: int) -> None:
    with Client(server) as client:
        client.send(frame(BINARY, b"x" * size))
        assert client.receive() == (0x82, b"x" * size)


def test_the_scope_is_what_asgi_asks_for(server: Server) -> None:
    with Client(server, "/sco%70e?token=a%20b", "X-Two: one", "X-Two: two", "Cookie: a=1") as client:
        scope = json.loads(client.text())
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/scope", "/sco%70e", "token=a%20b")
    assert (scope["type"], scope["scheme"], scope["http_version"], scope["root_path"]) == ("websocket", "ws", "1.1", "")
    assert scope["server"] == ["127.0.0.1", server.port]
    assert scope["client"][0] == "127.0.0.1"
    assert [value for name, value in scope["headers"] if name == "x-two"] == ["one", "two"]
    assert ["cookie", "a=1"] in scope["headers"]
    assert scope["extensions"] == ["tidewire.link", "websocket.http.response"]


def test_the_disconnect_event_has_the_client_code_and_a_late_send_raises_oserror(server: Server) -> None:
    with Client(server, "/echo?name=goodbye&send=1") as client:
        client.send(frame(CLOSE, b"\x0f\xa1bye"))
        assert client.close_code() == 4001
    assert told(server, "goodbye") == [["goodbye", 4001, "bye"]]
    assert told(server, "send") == [["send", "ClientGone"]]


def test_a_lost_connection_is_1006_and_a_close_without_code_1005(server: Server) -> None:
    with Client(server, "/echo?name=lost"):
        pass
    assert told(server, "lost")[0][1] == 1006
    with Client(server, "/echo?name=codeless") as client:
        client.send(frame(CLOSE))
        assert client.close_code() == 1005
    assert told(server, "codeless")[0][1] == 1005


def test_the_application_closes_with_its_code(server: Server) -> None:
    with Client(server, "/close?code=4002") as client:
        assert client.text() == "before"
        assert client.receive() == (0x88, b"\x0f\xa2so")
        client.send(frame(CLOSE, b"\x0f\xa2"))
        assert client.close_code() is None
    unexpected, disconnect = told(server, "close")
    assert "after the connection was closed" in unexpected[1]
    assert disconnect == ["close", 4002]


def test_an_application_that_returns_ends_its_connection_normally(server: Server) -> None:
    with Client(server, "/return?accept=1") as client:
        assert client.close_code() == 1000


def test_a_bug_after_accept_is_1011_and_before_it_500_with_one_traceback_each(server: Server) -> None:
    before = server.log().count("a bug in the application")
    with Client(server, "/crash?accept=1") as client:
        assert client.close_code() == 1011
    with Client(server, "/crash") as client:
        assert client.status == 500
        assert "bug" not in client.answer
    wait_for(lambda: server.log().count("ValueError: a bug in the application") == before + 2)


def test_an_application_need_not_be_a_coroutine_function(caplog: pytest.LogCaptureFixture) -> None:
    async def main(answer: Any) -> list[bool]:
        call = AsgiApplication(opening, opened, 100, asyncio.get_running_loop()).start(answer, {})
        await asyncio.wait([call])
        await asyncio.sleep(0)
        return [one.kwargs["failed"] for one in opened.application_returned.call_args_list]

    caplog.set_level("ERROR", "uvicorn.error")  # a server of another test in this process may have silenced it
    opening, opened = Mock(), Mock(paused=False)

    def raises(*_: object) -> None:
        raise ZeroDivisionError

    async def accepts(scope: object, receive: object, send: Any) -> None:
        await send({"type": "websocket.accept"})

    assert asyncio.run(main(raises)) == [True]
    assert asyncio.run(main(lambda *_: None)) == [True, True]
    assert asyncio.run(main(lambda *three: accepts(*three))) == [True, True, False]
    assert asyncio.run(main(lambda *three: asyncio.ensure_future(accepts(*three)))) == [True, True, False, False]
    assert caplog.text.count("Exception in ASGI application") == 2


def test_an_application_that_waits_has_written_what_it_sent() -> None:
    async def main() -> None:
        opening, opened = Mock(), Mock(paused=False)
        application = AsgiApplication(opening, opened, 1_000, asyncio.get_running_loop())

        async def echo(scope: object, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            for _ in range(3):
                await send({**await receive(), "type": "websocket.send"})

        call = application.start(echo, {})
        await asyncio.sleep(0)
        application.put("one")
        application.put("two")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        names = [name for name, *_ in opened.mock_calls]
        assert names == ["send_message", "send_message", "flush"]
        application.put("three")
        await asyncio.wait([call])

    asyncio.run(main())


def test_refusals_before_accept(server: Server) -> None:
    with Client(server, "/reject") as client:
        assert client.status == 403
    with Client(server, "/return") as client:
        assert client.status == 500
    with Client(server, "/deny") as client:
        assert client.status == 401
        assert "x-why: no token" in client.answer.lower()
        assert client._take(6) == b"log in"
    assert told(server, "websocket.disconnect")
    with Client(server, "/early") as client:
        assert client.status == 403
    assert told(server, "early") == [["early", "websocket.disconnect"]]


def test_a_client_that_leaves_during_the_handshake_is_told_to_the_application(server: Server) -> None:
    with connect(server) as client:
        client.sendall(request("/hesitate"))
    assert told(server, "hesitate") == [["hesitate", "websocket.disconnect", 1006]]


def test_subprotocols(server: Server) -> None:
    with Client(server, "/subprotocol", "Sec-WebSocket-Protocol: notes, chat") as client:
        assert "sec-websocket-protocol: chat" in client.answer.lower()
        assert "x-own: yes" in client.answer.lower()
        assert json.loads(client.text()) == ["notes", "chat"]
    with Client(server, "/subprotocol", "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b") as client:
        assert "sec-websocket-protocol" not in client.answer.lower()
        assert json.loads(client.text()) == ["a", "b"]


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_an_empty_subprotocol_header_is_accepted_and_never_echoed(server: Server, empty: str) -> None:
    with Client(server, "/subprotocol", f"Sec-WebSocket-Protocol:{empty}") as client:
        assert client.status == 101
        assert "sec-websocket-protocol" not in client.answer.lower()
        assert json.loads(client.text()) == []


def test_frames_in_the_same_packet_as_the_handshake_are_not_lost(server: Server) -> None:
    for path in ("/echo", "/link?wait=0.2"):
        with connect(server) as raw:
            raw.sendall(request(path) + frame(TEXT, b"early") + frame(PING, b"?") + frame(TEXT, b"bird"))
            client = Client.__new__(Client)
            client.socket, client.buffer = raw, b""
            client.answer = client.read_head()
            assert client.status == 101
            assert sorted(client.receive()[1] for _ in range(3)) == [b"?", b"bird", b"early"]


def test_send_waits_while_the_client_does_not_read(server: Server) -> None:
    with Client(server, "/flood", receive_buffer=8_192) as client:
        time.sleep(1)
        before = server.rss()
        time.sleep(0.5)
        assert server.rss() - before < 2
        for _ in range(20):
            assert client.receive() == (0x82, bytes(65_536))
    assert told(server, "flood")[0][2] == "ClientGone"


def test_reading_waits_while_the_endpoint_does_not_receive(server: Server) -> None:
    before = server.rss()
    count = 12_000
    with Client(server, "/deaf?seconds=2") as client:
        client.socket.settimeout(1)
        sent = b"".join([frame(BINARY, bytes(1_000))] * count)
        with pytest.raises(TimeoutError):
            client.socket.sendall(sent)
        assert server.rss() - before < 3


def test_a_path_is_logged_without_its_query(server: Server) -> None:
    with Client(server, "/echo?token=SECRET"):
        pass
    with Client(server, "/reject?token=SECRET"):
        pass
    wait_for(lambda: '"WebSocket /reject" 403' in server.log())
    assert '"WebSocket /echo" [accepted]' in server.log()
    assert "SECRET" not in server.log()


# The link.


def test_a_link_takes_over_and_tells_its_end_once(server: Server) -> None:
    with Client(server, "/link?name=one") as client:
        client.send(frame(TEXT, b"text"), frame(BINARY, b"bytes"))
        assert client.receive() == (0x81, b"text")
        assert client.receive() == (0x82, b"bytes")
        client.send(frame(CLOSE, b"\x0f\xa0why"))
        assert client.close_code() == 4000
    assert told(server, "one") == [["one", 4000, "why", True]]


def test_messages_that_came_before_the_listener_are_told_first(server: Server) -> None:
    with Client(server, "/link?name=late&wait=0.3") as client:
        client.send(*[frame(TEXT, str(number).encode()) for number in range(50)])
        time.sleep(0.1)
        client.send(frame(TEXT, b"50"))
        assert [client.text() for _ in range(51)] == [str(number) for number in range(51)]


def test_a_client_that_left_before_the_listener_came_is_told_to_it(server: Server) -> None:
    with Client(server, "/link?name=left&wait=0.3") as client:
        client.send(frame(TEXT, b"x"), frame(CLOSE, b"\x03\xe8"))
        assert client.close_code() == 1000
    assert told(server, "left") == [["left", 1000, "", True]]


def test_an_endpoint_that_stays_is_told_only_of_the_end(server: Server) -> None:
    with Client(server, "/link?name=stays&stay=1") as client:
        client.send(frame(TEXT, b"to the listener"))
        assert client.text() == "to the listener"
    events = wait_for(lambda: [e for e in server.stats()["events"] if isinstance(e[0], dict)])
    assert events[0][0]["type"] == "websocket.disconnect"


def test_a_close_goes_behind_what_was_written_and_nothing_behind_it(server: Server) -> None:
    with Client(server, "/link?name=closes") as client:
        client.send(frame(TEXT, b"close"))
        assert client.text() == "last"
        first, data = client.receive()
        assert (first, data[:2]) == (0x88, b"\x0f\xa1")
        assert data[2:].decode().startswith("bye é")
        client.send(frame(TEXT, b"ignored"), frame(CLOSE, b"\x0f\xa1"))
        with pytest.raises(EOFError):
            client.receive()
    (event,) = told(server, "closes")
    assert (event[1], event[3]) == (4001, True)


def test_abort_ends_at_once(server: Server) -> None:
    with Client(server, "/link?name=aborts") as client:
        client.send(frame(TEXT, b"abort"))
        assert client.close_code() is None
    assert told(server, "aborts") == [["aborts", 1006, "connection lost", False]]


def test_a_bug_in_a_listener_is_1011_with_a_traceback_and_costs_nobody_else(server: Server) -> None:
    with Client(server, "/link?name=bystander") as bystander, Client(server, "/link?name=buggy") as client:
        client.send(frame(TEXT, b"raise"))
        assert client.close_code() == 1011
        bystander.send(frame(TEXT, b"still here"))
        assert bystander.text() == "still here"
    wait_for(lambda: "ValueError: a bug in the listener" in server.log())


def test_paused_reading_keeps_order_and_loses_nothing(server: Server) -> None:
    numbers = [f"{number:04}" for number in range(3_000)]
    with Client(server, "/link?name=pauses") as client:
        client.send(frame(TEXT, b"pause"), *[frame(TEXT, number.encode()) for number in numbers])
        assert client.text() == "paused"
        client.socket.settimeout(0.4)
        received = []
        with contextlib.suppress(TimeoutError):
            while len(received) < len(numbers):
                received.append(client.text())
        assert len(received) < 500, "what was parsed with the pause may still be told, and no more"
        client.socket.settimeout(15)
        assert received + [client.text() for _ in numbers[len(received) :]] == numbers


def test_batches_and_replies_keep_their_order(server: Server) -> None:
    paths = ("/link?name=first", "/link?name=second", "/all")
    with Client(server, paths[0]) as first, Client(server, paths[1]) as second, Client(server, paths[2]) as speaker:
        for number in range(20):
            speaker.send(frame(TEXT, str(number).encode()))
        expected = [f"{number} {part}" for number in range(20) for part in range(10)]
        assert [first.text() for _ in expected] == expected
        assert [second.text() for _ in expected] == expected


# RFC 6455.


def test_fragments_pings_between_them_and_close_codes(server: Server) -> None:
    with Client(server) as client:
        client.send(frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(CONT, fin=False), frame(CONT, b"b"))
        assert sorted([client.receive(), client.receive()]) == [(0x81, b"ab"), (0x8A, b"p")]
        client.send(frame(PONG, b"unasked"))
        client.send(frame(TEXT, "é".encode()[:1], fin=False), frame(CONT, "é".encode()[1:]))
        assert client.text() == "é"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"a", fin=False) + frame(CONT, b"\xc3"), 1007),
        (frame(BINARY, bytes(65_537)), 1009),
        (frame(BINARY, bytes(40_000), fin=False) + frame(CONT, bytes(40_000)), 1009),
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"x", rsv1=True), 1002),
        (frame(3, b"x"), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, fin=False) + frame(TEXT), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, fin=False), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(CLOSE, b"\x03\xed"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
@pytest.mark.parametrize("path", ["/echo", "/link"])
def test_faults_end_with_their_code_and_no_traceback(server: Server, path: str, bad: bytes, code: int) -> None:
    before = server.log().count("Traceback")
    with Client(server, path) as client:
        client.send(frame(TEXT, b"fine"))
        assert client.text() == "fine"
        client.send(bad)
        assert client.close_code() == code
    assert server.log().count("Traceback") == before


def test_a_fault_and_a_close_in_one_packet(server: Server) -> None:
    with Client(server, "/link?name=both") as client:
        client.send(frame(TEXT, b"\xff") + frame(CLOSE, b"\x03\xe8"))
        assert client.close_code() == 1007
    with Client(server, "/link?name=crossed") as client:
        client.send(frame(TEXT, b"close") + frame(PING) + frame(CLOSE, b"\x0f\xa3"))
        assert client.text() == "last"
        assert client.close_code() == 4001, "the listener's close comes before the client's is read"
    assert told(server, "crossed")[0][1] == 4001
    assert told(server, "crossed")[0][3] is True


def test_a_close_frame_reaches_a_client_that_is_still_sending(server: Server) -> None:
    with Client(server, "/link") as client:
        for piece in [frame(BINARY, bytes(3_000_000))[:100_000]] * 30:
            client.send(piece)
            time.sleep(0.005)
        assert client.close_code() == 1009


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/echo", host=False), 400),
        (request("/echo", "Host: other"), 400),
        (request("/echo", "Origin: http://a", "Origin: http://b"), 400),
        (request("/echo", version="1.0"), 400),
        (request("/echo").replace(b"Version: 13", b"Version: 12"), 400),
        (request("/echo").replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="), 400),
        (request("/echo").replace(b"GET", b"POST"), 405),
        (request("/echo", "Content-Length: 5"), 400),
    ],
)
def test_handshakes_that_are_refused(server: Server, sent: bytes, status: int) -> None:
    with connect(server) as raw:
        raw.sendall(sent)
        assert int(raw.recv(65_536).split()[1]) == status


# permessage-deflate.


@pytest.fixture(scope="module")
def deflating() -> Iterator[Server]:
    with serving(deflate=True) as running:
        yield running


OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def inflate(data: bytes, window: int = -12) -> bytes:
    return zlib.decompressobj(wbits=window).decompress(data + b"\x00\x00\xff\xff")


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_deflate_is_off_by_default(server: Server) -> None:
    with Client(server, "/link", OFFER) as client:
        assert "extensions" not in client.answer.lower()


def test_deflate_is_negotiated_without_context_takeover(deflating: Server) -> None:
    with Client(deflating, "/link", OFFER) as client:
        answer = client.answer.lower()
        assert "server_no_context_takeover" in answer
        assert "client_no_context_takeover" in answer
        assert "server_max_window_bits=12" in answer
        for _ in range(2):
            client.send(frame(TEXT, deflated(b"hello " * 50), rsv1=True))
            first, data = client.receive()
            assert first == 0xC1
            assert inflate(data) == b"hello " * 50


def test_one_compressed_batch_serves_everybody_who_has_it(deflating: Server) -> None:
    with (
        Client(deflating, "/link?name=a", OFFER) as a,
        Client(deflating, "/link?name=b", OFFER) as b,
        Client(deflating, "/link?name=c") as plain,
        Client(deflating, "/all", OFFER) as speaker,
    ):
        speaker.send(frame(TEXT, b"x"))
        for number in range(10):
            assert inflate(a.receive()[1]) == inflate(b.receive()[1]) == f"x {number}".encode()
            assert plain.text() == f"x {number}"


@pytest.mark.parametrize("bits", [8, 9, 11])
def test_a_window_too_small_for_shared_batches_is_declined(deflating: Server, bits: int) -> None:
    header = f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}"
    with Client(deflating, "/link", header) as client:
        assert client.status == 101
        assert "extensions" not in client.answer.lower()
    with Client(deflating, "/link", header + ", permessage-deflate") as client:
        assert "server_max_window_bits=12" in client.answer.lower()


def test_asgi_messages_are_compressed_too_and_a_real_client_reads_them(deflating: Server) -> None:
    async def talk() -> None:
        async with ws_connect(deflating.url("/echo"), compression="deflate") as client:
            for message in ("héllo" * 1_000, b"\x00" * 60_000, ""):
                await client.send(message)
                assert await client.recv() == message

    asyncio.run(talk())


# The drain.


def test_a_drain_ends_links_at_moments_spread_over_its_time() -> None:
    loop = Mock()
    for _ in range(20):
        WebSocketLink(Mock(), Mock(), Limits(drain_seconds=4.0), loop, 5.0).drain()
    moments = [call.args[0] for call in loop.call_later.call_args_list]
    assert len(moments) == 20
    assert all(0 <= moment <= 4 for moment in moments)
    assert max(moments) - min(moments) > 0.7


def test_a_drain_closes_everybody_with_1012() -> None:
    with serving(limits={"drain_seconds": 4.0}) as server:
        clients = [Client(server, f"/{path}?name=n{number}") for number in range(10) for path in ("echo", "link")]
        waiting = connect(server)
        waiting.sendall(request("/hesitate"))
        time.sleep(0.2)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert waiting.recv(1_000).split()[1] == b"503"
        codes = []
        for client in clients:
            client.socket.settimeout(8)
        pending = {client.socket: client for client in clients}
        while pending:
            readable, _, _ = select.select(list(pending), [], [], 8)
            assert readable
            for ready in readable:
                codes.append(pending.pop(ready).receive()[1][:2])
                ready.sendall(frame(CLOSE, b"\x03\xf4"))
        events = server.stop()
        assert time.monotonic() - start < 12
    assert codes == [b"\x03\xf4"] * 20
    for number in range(10):
        assert [f"n{number}", 1012, "service restart", True] in events
        assert [f"n{number}", 1012, "service restart"] in events
    assert server.process.returncode in (0, -signal.SIGTERM)


# The heartbeat.


def test_pings_come_within_the_interval_and_pongs_keep_the_connection() -> None:
    with (
        serving(limits={"ping_seconds": 0.5, "pong_seconds": 1.0}) as server,
        Client(server, "/link?name=lively") as lively,
        Client(server, "/link?name=silent") as silent,
    ):
        start = time.monotonic()
        while time.monotonic() - start < 3:
            first, data = lively.next_frame()
            assert (first, data) == (0x89, b"")
            lively.send(frame(PONG, data))
        assert told(server, "silent") == [["silent", 4012, "no pong", False]]
        assert silent.close_code() == 4012
        assert server.stats()["links"] == ["lively"]
        assert server.stats()["limits"] == {"pong_seconds": 1}


def test_a_client_that_takes_nothing_is_ended_though_its_kernel_takes_all_that_comes() -> None:
    with (
        serving(limits={"ping_seconds": 1, "pong_seconds": 1}) as server,
        Client(server, "/link?name=frozen", receive_buffer=262_144) as frozen,
    ):
        frozen.send(frame(TEXT, b"trickle"))  # its buffer would be full after half a minute
        assert told(server, "frozen") == [["frozen", 4012, "no pong", False]]
        sent = list(iter(frozen.next_frame, (0x88, b"\x0f\xacno pong")))
        assert sent.count((0x89, b"")) <= 5


def test_a_client_that_takes_megabytes_slowly_may_answer_a_ping_behind_them() -> None:
    with (
        serving(limits={"ping_seconds": 0.5, "pong_seconds": 1.5}) as server,
        Client(server, "/link?name=slow", receive_buffer=65_536) as slow,
    ):
        slow.send(frame(TEXT, b"much"))
        taken, start = 0, time.monotonic()
        while taken < 3 * 1_048_576 - 65_536:
            taken += len(slow.socket.recv(16_384))
            time.sleep(0.025)
        assert time.monotonic() - start > 4, "else it was not slow"
        slow.send(frame(PONG))
        assert server.stats()["links"] == ["slow"]
        assert server.stats()["limits"] == {}


def test_a_message_is_a_sign_of_life_and_a_paused_reader_is_not_judged() -> None:
    with (
        serving(limits={"ping_seconds": 0.3, "pong_seconds": 0.4, "rate": 1000}) as server,
        Client(server, "/link?name=talks") as talks,
        Client(server, "/link?name=paused") as paused,
    ):
        paused.send(frame(TEXT, b"pause"))
        for _ in range(20):
            talks.send(frame(TEXT, b"no pong from me"))
            paused.send(frame(PONG))
            time.sleep(0.1)
        assert server.stats()["links"] == ["paused", "talks"]


def drip(client: Client, data: bytes, seconds: float) -> None:
    with contextlib.suppress(OSError):
        for byte in data:
            client.send(bytes((byte,)))
            time.sleep(seconds)


DRIPPED = {
    "text": frame(TEXT, b"x" * 60),
    "ping": frame(PING, b"x" * 60),
    "long": frame(TEXT, b"x" * 1_000)[:60],
    "fragments": frame(TEXT, b"x", fin=False) + (frame(PONG) + frame(CONT, b"", fin=False)) * 5,
}


def test_a_message_that_is_dripped_ends_its_connection() -> None:
    limits = {"message_seconds": 1.0, "ping_seconds": 0.4, "pong_seconds": 0.4}
    kinds = [(path, name, data) for path in ("link", "echo") for name, data in DRIPPED.items()]
    with serving(limits=limits) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server, f"/{path}?name={path}-{name}")) for path, name, _ in kinds]
        start = time.monotonic()
        for client, (_, _, data) in zip(clients, kinds, strict=True):
            thread = threading.Thread(target=drip, args=(client, data, 0.1))
            thread.start()
            stack.callback(thread.join)
        for client, (path, name, _) in zip(clients, kinds, strict=True):
            assert client.close_code() == 1008, (path, name)
            assert 0.9 < time.monotonic() - start < 14, (path, name)
            assert told(server, f"{path}-{name}")[0][1] == 1008
        assert server.stats()["limits"] == {"message_seconds": len(kinds)}


def test_a_fragmented_message_whose_rest_never_comes_ends_its_connection_although_pongs_come() -> None:
    limits = {"message_seconds": 1.0, "ping_seconds": 0.3, "pong_seconds": 1.0}
    with serving(limits=limits) as server, Client(server, "/link?name=half") as client:
        client.send(frame(TEXT, b"half", fin=False))
        while (event := client.next_frame())[0] == 0x89:
            client.send(frame(PONG))
        assert event[1].startswith(b"\x03\xf0")
        assert server.stats()["limits"] == {"message_seconds": 1}


def test_a_message_over_a_slow_network_is_read_and_its_pong_may_stand_behind_it() -> None:
    limits = {"message_seconds": 1.0, "body_rate": 50, "ping_seconds": 0.3, "pong_seconds": 0.3}
    with serving(limits=limits) as server, Client(server, "/link?name=slow") as client:
        for _ in range(2):  # the second begins in the piece that ends the first
            drip(client, frame(TEXT, b"x" * 200), 0.01)
        assert [client.text() for _ in range(2)] == ["x" * 200] * 2
        assert server.stats()["limits"] == {}


def test_a_peer_that_is_gone_is_noticed_although_reading_is_paused() -> None:
    with serving(limits={"ping_seconds": 0.4, "pong_seconds": 0.5}) as server:
        with Client(server, "/link?name=gone") as client:
            client.send(frame(TEXT, b"halt"))
            assert client.text() == "halted"
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert told(server, "gone")[0][1] == 1006


def test_a_peer_that_never_answers_our_close_is_aborted() -> None:
    with serving(close_seconds=1.0) as server, Client(server, "/link?name=mute") as client:
        start = time.monotonic()
        client.send(frame(TEXT, b"close"))
        (event,) = told(server, "mute")
        assert (event[1], event[3]) == (4001, False)
        assert 0.9 < time.monotonic() - start < 10


def test_a_wheel_that_was_held_up_with_its_loop_judges_nobody_before_it_has_read() -> None:
    class Timer:
        timer_slot = 0
        calls: list[float] = []

        def on_timer(self, now: float) -> float | None:
            self.calls.append(now)
            return None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wheel, timer = TimerWheel.of(loop), Timer()
        wheel.schedule(timer, 0.1)
        time.sleep(2)  # noqa: ASYNC251 the loop is to be held up
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert timer.calls == []
        start = loop.time()
        while not timer.calls and loop.time() - start < 5:
            await asyncio.sleep(0.01)
        assert len(timer.calls) == 1
        wheel.schedule(timer, 0.1)
        wheel.cancel(timer)
        await asyncio.sleep(0.6)
        assert len(timer.calls) == 1

    asyncio.run(main())


# Memory.


@pytest.mark.parametrize(
    "http", [HttpProtocol, first_request.configured(Limits())], ids=["behind the HTTP class", "from the first byte"]
)
def test_connections_leave_nothing_for_the_garbage_collector(http: Any) -> None:
    kinds = (Core, WebSocketLink, PhasedProtocol, FirstRequest, OpeningHandshake)

    def left() -> int:
        return sum(isinstance(thing, kinds) for thing in gc.get_objects())

    async def visit(port: int, path: str, begin: bytes = b"", end: bytes = b"\x81\x02hi") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin or request(path) + frame(TEXT, b"hi"))
        await reader.readuntil(end)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        listener = listening_socket("127.0.0.1", 0)
        config = uvicorn.Config(wire_app.app, http=http, ws=WebSocketProtocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        port = listener.getsockname()[1]
        await visit(port, "/echo")
        while server.server_state.connections or server.server_state.tasks:
            await asyncio.sleep(0.01)
        before = left()  # those that judge handshakes for all connections of this thread
        for path in ("/echo", "/link"):
            for _ in range(20):
                await visit(port, path)
        for _ in range(20):
            await visit(port, "", b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n")
            await visit(port, "", request("/echo").replace(b": 13", b": 12"), b"\r\n\r\n")  # it is refused
        while server.server_state.connections or server.server_state.tasks:
            await asyncio.sleep(0.01)
        assert left() == before
        server.should_exit = True
        await serving

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.slow
def test_an_idle_held_connection_costs_at_most_7_kib() -> None:
    count = 3_000
    with serving() as server:
        for _ in range(2):
            warm = [Client(server, f"/link?name=warm{number}") for number in range(100)]
            for client in warm:
                client.socket.close()
            wait_for(lambda: not server.stats()["links"])
        before = server.rss()
        clients = [Client(server, f"/link?name={number}") for number in range(count)]
        cost = (server.rss() - before) * 1_024 / count
        for client in clients:
            client.socket.close()
    assert cost < 7


# TLS, other ways to run it, the listening socket.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_tls(certificate: tuple[str, str]) -> None:
    with serving(tls=certificate, limits={"stalled_seconds": 2.0}) as server:
        with Client(server, "/scope") as client:
            assert json.loads(client.text())["scheme"] == "wss"
        with Client(server, "/link?name=secure") as client:
            client.send(frame(BINARY, bytes(65_536)), frame(TEXT, b"close"))
            assert client.receive() == (0x82, bytes(65_536))
            assert client.text() == "last"
            assert client.close_code() == 4001
        with Client(server, "/link?name=slow", receive_buffer=4_096) as client:
            client.send(frame(TEXT, b"flood"))
            assert told(server, "slow")[0][1] == 4013
        with Client(server, "/link?name=big") as client:
            client.send(frame(BINARY, bytes(70_000)))
            assert client.close_code() == 1009


def test_the_documented_command_runs_a_fastapi_application(tmp_path: Path) -> None:
    Path(tmp_path, "main.py").write_text(
        "from fastapi import FastAPI, WebSocket, WebSocketDisconnect\n"
        "app = FastAPI()\n"
        "@app.websocket('/ws')\n"
        "async def ws(websocket: WebSocket):\n"
        "    await websocket.accept()\n"
        "    try:\n"
        "        while True:\n"
        "            await websocket.send_text(f'Message text was: {await websocket.receive_text()}')\n"
        "    except WebSocketDisconnect as end:\n"
        "        print('code', end.code, flush=True)\n"
    )
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "main:app", "--fd", str(listener.fileno())]
        command += ["--ws", "tidewire.links.uvicorn:WebSocketProtocol", "--http", "h11", "--no-access-log"]
        process = subprocess.Popen(
            command, pass_fds=[listener.fileno()], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    async def talk() -> None:
        async with ws_connect(f"ws://127.0.0.1:{port}/ws") as client:
            await client.send("hé")
            assert await client.recv() == "Message text was: hé"
            await client.close(3001)

    try:
        asyncio.run(talk())
        assert process.stdout is not None
        assert process.stdout.readline() == b"code 3001\n"
    finally:
        process.terminate()
        process.communicate()


def test_plain_asyncio_without_uvloop() -> None:
    with serving(uvicorn={"loop": "asyncio"}, limits={"stalled_seconds": 1.0}) as server:
        with Client(server, "/link?name=plain") as client:
            client.send(frame(TEXT, b"hi"), frame(PING, b"p"), frame(TEXT, b"close"))
            assert sorted(client.receive()[1] for _ in range(3)) == [b"hi", b"last", b"p"]
            assert client.close_code() == 4001
        with Client(server, "/link?name=stuck", receive_buffer=4_096) as client:
            client.send(frame(TEXT, b"flood"))
            assert told(server, "stuck")[0][1] == 4013
