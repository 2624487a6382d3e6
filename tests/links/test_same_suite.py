"""The same behaviour on every ASGI server: our own link in uvicorn, and its plain sibling in four servers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from tidewire.testing import wait_until

KINDS = ("tidewire", "websockets-sansio", "hypercorn", "granian")
ROOT = Path(__file__).parent.parent.parent


class Server:
    """One server process."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.links.suite_app", kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"127.0.0.1:{self.port}"
        end = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"http://{self.url}/known/x", timeout=20).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)

    def known(self, channel: str = "x") -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"http://{self.url}/known/{channel}", timeout=20).json()
        return answer

    def post(self, path: str) -> None:
        httpx.post(f"http://{self.url}{path}", timeout=20).raise_for_status()

    def open(self, path: str, **options: Any) -> connect:
        options = {"max_size": 1 << 26, "proxy": None, "compression": None, **options}
        return connect(f"ws://{self.url}{path}", **options)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module", params=[pytest.param(k, marks=pytest.mark.xdist_group(f"suite-{k}")) for k in KINDS])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(limited())


async def receive(client: ClientConnection) -> Any:
    async with asyncio.timeout(10):
        return await client.recv()


async def closed(client: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(15):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (1006, "")


def test_text_and_bytes_and_json(server: Server) -> None:
    async def main() -> None:
        async with server.open("/echo") as client:
            for message in ("hello", "é日本", b"\x00\xff", "", b""):
                await client.send(message)
                assert await receive(client) == message
        async with server.open("/json") as client:
            await client.send('{"a": 1}')
            assert [await receive(client), await receive(client)] == ['{"a":1}', b'{"a":1}']
            for wrong in ("nonsense", "[]", b"\xff", '{"a": "b"}'):
                await client.send(wrong)
                assert json.loads(await receive(client))["code"] == "bad_request"
            await client.send(b'{"a": 2}')
            assert await receive(client) == '{"a":2}'

    run(main())


def test_large_messages_go_both_ways(server: Server) -> None:
    async def main() -> None:
        async with server.open("/echo") as client:
            for message in ("é" * 400_000, b"\xff" * 1_000_000):
                await client.send(message)
                assert await receive(client) == message

    run(main())


def test_a_message_over_the_limit_is_too_big(server: Server) -> None:
    async def main() -> None:
        async with server.open("/echo") as client:
            try:
                await client.send(b"x" * 2_100_000)
            except ConnectionClosed:
                pass
            assert (await closed(client))[0] in (1009, 1006)

    run(main())


def test_dependencies_resolve(server: Server) -> None:
    async def main() -> None:
        headers = {"Cookie": "session=s", "X-Custom": "c"}
        async with server.open("/dependencies/7?number=4&key=open", additional_headers=headers) as client:
            assert json.loads(await receive(client)) == [7, 8, "open", "s", "c"]
        for wrong in ("7?number=x&key=open", "0?number=4&key=open", "7?number=4", "7?number=4&key=wrong"):
            with pytest.raises(InvalidStatus) as caught:
                async with server.open(f"/dependencies/{wrong}"):
                    pass
            assert caught.value.response.status_code in (401, 403)

    run(main())


def test_over_a_limit_the_newcomer_learns_why_and_the_others_stay(server: Server) -> None:
    async def main() -> None:
        async with server.open("/echo?user=many") as first, server.open("/echo?user=many") as second:
            for client in (first, second):
                await client.send("in")
                assert await receive(client) == "in"
            with pytest.raises(InvalidStatus) as caught:
                async with server.open("/echo?user=many"):
                    pass
            response = caught.value.response
            if response.status_code != 403:  # a server without ASGI's extension for responses can say no more
                assert response.status_code == 503
                assert int(response.headers["Retry-After"]) > 0
                assert b"Too many connections" in (response.body or b"")
            else:
                assert server.kind == "granian"
            async with server.open("/echo?user=many", origin=f"http://{server.url}") as browser:
                assert await closed(browser) == (1013, "Too many connections")
            for client in (first, second):
                await client.send("still")
                assert await receive(client) == "still"

    run(main())


def test_a_foreign_page_is_refused(server: Server) -> None:
    async def main() -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with server.open("/echo", origin="https://evil.example"):
                pass
        assert caught.value.response.status_code == 403
        async with server.open("/echo", origin=f"http://{server.url}") as client:
            await client.send("x")
            assert await receive(client) == "x"

    run(main())


def test_a_subprotocol_shows_in_the_handshake(server: Server) -> None:
    async def main() -> None:
        async with server.open("/subprotocol", subprotocols=["unknown", "news", "chat"]) as client:
            assert (client.subprotocol, await receive(client)) == ("news", "news")
            assert client.response is not None
            if server.kind != "granian":  # it sends no headers of the application
                assert client.response.headers["x-own"] == "yes"
        async with server.open("/subprotocol") as client:
            assert (client.subprotocol, await receive(client)) == (None, "None")

    run(main())


def test_a_socket_has_one_reader(server: Server) -> None:
    async def main() -> None:
        async with server.open("/bare") as client:
            assert "once a disconnect message has been received" in await receive(client)
            for _ in range(2):
                assert "is not connected" in await receive(client)

    run(main())


def test_everyone_sees_joins_messages_and_leaves(server: Server) -> None:
    async def main() -> None:
        async with server.open("/room/r1?user=ann") as ann:
            assert await receive(ann) == "ann joined"
            async with server.open("/room/r1?user=bob") as bob:
                assert await receive(ann) == "bob joined"
                assert [await receive(bob), await receive(bob)] == ["ann joined", "bob joined"]
                async with server.open("/room/r1?user=bob") as tablet:
                    assert [await receive(tablet), await receive(tablet)] == ["ann joined", "bob joined"]
                    assert server.known("r1")["users"] == ["ann", "bob"]
                await bob.send("hi")
                assert [await receive(ann), await receive(bob)] == ["bob: hi", "bob: hi"]
            assert await receive(ann) == "bob left"

    run(main())


@pytest.mark.parametrize("path", ["room", "talk"])
def test_what_a_client_says_right_before_it_goes_is_heard(server: Server, path: str) -> None:
    words = [f"word {number}" for number in range(20)]
    said = [Frame(Opcode.TEXT, word.encode()) for word in words]
    goodbye = Frame(Opcode.CLOSE, struct.pack("!H", 1000))

    async def main() -> None:
        async with server.open(f"/room/{path}?user=ann") as ann:
            assert await receive(ann) == "ann joined"
            for number in range(5):
                bob = await server.open(f"/{path}/{path}?user=bob{number}")
                assert await receive(ann) == f"bob{number} joined"
                bob.transport.write(b"".join(frame.serialize(mask=True) for frame in [*said, goodbye]))
                assert [await receive(ann) for _ in words] == [f"bob{number}: {word}" for word in words]
                assert await receive(ann) == f"bob{number} left"
                bob.transport.abort()

    run(main())


def test_a_client_that_vanishes_has_left(server: Server) -> None:
    async def main() -> None:
        async with server.open("/room/r2?user=ann") as ann:
            assert await receive(ann) == "ann joined"
            async with server.open("/room/r2?user=bob") as bob:
                assert await receive(ann) == "bob joined"
                assert bob.transport is not None
                bob.transport.abort()
            assert await receive(ann) == "bob left"

    run(main())


def test_a_handler_that_raises_costs_its_client_only(server: Server) -> None:
    async def main() -> None:
        async with server.open("/room/r3?user=ann") as ann, server.open("/room/r3?user=bob") as bob:
            await bob.send("raise")
            code, reason = await closed(bob)
            assert code == 1011
            assert "secret" not in reason
            while (text := await receive(ann)) != "bob failed":
                assert text in ("ann joined", "bob joined")
            await ann.send("still here")
            assert await receive(ann) == "ann: still here"

    run(main())


def test_the_application_closes_with_its_own_code(server: Server) -> None:
    async def main() -> None:
        async with server.open("/room/r4?user=ann") as client:
            await client.send("close")
            assert await closed(client) == (4321, "as you wish")

    run(main())


def test_a_served_protocol_publishes_and_refuses(server: Server) -> None:
    async def main() -> None:
        async with server.open("/served/s1") as one, server.open("/served/s1") as two:
            await one.send('{"n": 1}')
            for client in (one, two):
                assert json.loads(await receive(client))["n"] == 1
            for wrong in ("nonsense", b"\xff\xff", '{"n":'):
                await one.send(wrong)
                assert json.loads(await receive(one))["code"] == "bad_request"
            await two.send('{"n": 2}')
            for client in (one, two):
                assert json.loads(await receive(client))["n"] == 2
        async with server.open("/served/s1") as late:
            assert [json.loads(await receive(late))["n"] for _ in range(2)] == [1, 2]
        for name in ("$user:ann", "$control", "%20x"):
            with pytest.raises(InvalidStatus) as caught:
                async with server.open(f"/served/{name}"):
                    pass
            assert caught.value.response.status_code == 403

    run(main())


def test_a_client_that_reads_nothing_is_cut_and_the_others_are_served(server: Server) -> None:
    async def main() -> None:
        raw = socket.create_connection(("127.0.0.1", server.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        headers = f"Host: {server.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        raw.sendall(f"GET /room/r5?user=frozen HTTP/1.1\r\n{headers}{key}".encode())
        try:
            async with server.open("/room/r5?user=reader") as reader:
                await wait_until(lambda: "frozen" in server.known("r5")["users"])
                before = server.known()["connections"]
                async with httpx.AsyncClient() as http:
                    for burst in range(0, 800, 20):  # a reader that keeps up, however busy the machine is
                        if server.known()["connections"] < before:
                            break
                        await http.post(f"http://{server.url}/publish/r5?size=20000&count=20", timeout=20)
                        expected = 0
                        while expected < 20:
                            text = await receive(reader)
                            if text.partition(" ")[0].isdecimal():
                                assert int(text.partition(" ")[0]) == expected, burst
                                expected += 1
                await wait_until(lambda: server.known()["connections"] == before - 1, 12.0, "the frozen one is cut")
                await wait_until(lambda: server.known("r5")["users"] == ["reader"])
        finally:
            raw.close()

    run(main())


def test_who_is_connected_misses_nothing(server: Server) -> None:
    """The handshake is answered when the subscribe is done: what others say from then on comes."""

    async def main() -> None:
        # which reads nothing: what it has not taken would keep its closing handshake for ten seconds
        async with server.open("/room/r7?user=speaker", max_queue=None) as speaker:
            for number in range(20):
                async with server.open(f"/room/r7?user=newcomer{number}&history=0") as newcomer:
                    await speaker.send(f"word {number}")
                    while f"word {number}" not in await receive(newcomer):
                        pass

    run(main())


def left_over(server: Server, tasks: list[str]) -> Counter[str]:
    left = Counter(server.known()["tasks"]) - Counter(tasks)
    print(left)  # shown when the test fails
    return left


def test_nothing_is_left_of_many_connections(server: Server) -> None:
    async def main() -> None:
        await wait_until(lambda: server.known()["connections"] == 0, 10.0)
        tasks = server.known()["tasks"]
        for number in range(5):
            clients = [await server.open(f"/room/r6?user=u{index}") for index in range(10)]
            for client in clients:
                assert client.transport is not None
                if number % 2:
                    client.transport.abort()
                else:
                    await client.close()
        await wait_until(lambda: server.known()["connections"] == 0, 10.0)
        await wait_until(lambda: not left_over(server, tasks), 10.0)
        await wait_until(lambda: server.known("r6")["users"] == [], 10.0)

    run(main())


def test_a_shutdown_says_1012(server: Server) -> None:
    """The last test of each server: it ends it."""

    async def main() -> None:
        clients = [await server.open("/echo"), await server.open("/served/s2")]
        for client in clients[:1]:
            await client.send("x")
            assert await receive(client) == "x"
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            code, _ = await closed(client)
            if server.kind == "granian":  # it closes sockets without a word
                assert code in (1006, 1012, 1001)
            else:
                assert code == 1012
            await client.close()

    run(main())
    assert server.process.wait(20) in (0, -signal.SIGTERM)
