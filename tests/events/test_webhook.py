"""Where a webhook may be sent, and what its receiver may answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from tidewire.errors import ConfigurationError
from tidewire.events import webhook as webhook_module
from tidewire.events.event_kinds import Event
from tidewire.events.webhook import NOT_TAKEN, Webhook, is_public

OF_IPV4 = (
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
)
OF_IPV6 = ("::1", "::", "::7f00:1", "::ffff:127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1")
OTHERS = (
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", [*OF_IPV4, *OF_IPV6, *OTHERS])
def test_no_form_of_a_private_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_ones_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost", "[::ffff:7f00:1]"])
def test_other_ways_to_write_this_machine_are_refused(host: str) -> None:
    webhook = Webhook(f"http://{host}:9/in", "s3cret", (), allow_private=False)
    with pytest.raises(NOT_TAKEN, match=r"no public address|not known|resolution|No address"):
        asyncio.run(webhook.send(()))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:99999/",
        "http://example.org:x/",
        "http://a..b/",
        f"http://{'a' * 64}.org/",
        "http://example.org/ü",
        "http://example.org/a b",
        "ftp://example.org/",
        "http:///in",
    ],
)
def test_a_url_that_cannot_work_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Webhook(url, "s3cret", (), allow_private=True)


@pytest.mark.parametrize(
    "answer",
    [
        b"x" * 200_000,
        b"",
        b"\r\n",
        b"\xff\xfe\r\n",
        b"HTTP/1.1\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n",
        b"HTTP/1.1 500 No\r\n\r\n",
    ],
)
def test_whatever_a_receiver_answers_it_is_tried_again(answer: bytes) -> None:
    async def main() -> None:
        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(receive, "127.0.0.1", 0, family=socket.AF_INET)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NOT_TAKEN):
                await Webhook(f"http://127.0.0.1:{port}/in", "s3cret", (), allow_private=True).send(())

    asyncio.run(main())


def test_a_url_is_shown_with_its_port_and_without_its_secrets() -> None:
    webhook = Webhook("https://ann:s3cret@example.org:8443/hook?key=s3cret", "key", (), allow_private=False)
    assert webhook.shown == "https://example.org:8443/hook"


def test_a_name_with_an_address_that_does_not_answer_is_reached_by_its_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `localhost` is on a machine where nobody listens at ::1; asked once, so that no later answer counts."""
    asked, taken = [], []

    async def main() -> None:
        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            writer.close()

        async def look_up(host: str, port: int, **_: object) -> list[object]:
            asked.append(host)
            addresses = ("127.0.0.2", "127.0.0.1") if len(asked) == 1 else ("127.0.0.3",)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        server = await asyncio.start_server(receive, "127.0.0.1", 0, family=socket.AF_INET)
        async with server:
            port = server.sockets[0].getsockname()[1]
            webhook = Webhook(f"http://ann:p%40ss@receiver.example:{port}/in", "s3cret", (), allow_private=True)
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
            await webhook.send(())

    asyncio.run(main())
    assert asked == ["receiver.example"]
    (request,) = taken
    assert b"\r\nAuthorization: Basic YW5uOnBAc3M=\r\n" in request  # ann:p@ss
    assert b"\r\nHost: receiver.example:" in request


def test_the_trusted_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes more than 20 ms in which the worker does nothing else; a busy stream has five batches a second."""
    make, made = ssl.create_default_context, []

    def counted() -> ssl.SSLContext:
        made.append(1)
        return make()

    monkeypatch.setattr(ssl, "create_default_context", counted)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(OSError, match=r"refused|Connect"):
                await Webhook("https://127.0.0.1:9/in", "s3cret", (), allow_private=True).send(())

    asyncio.run(main())
    assert len(made) <= 1


def test_a_receiver_that_reads_nothing_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a day of tries leaves a connection, and what it was to send, for each of them."""
    monkeypatch.setattr(webhook_module, "_ANSWER_SECONDS", 0.5)
    connect, writers = asyncio.open_connection, []

    async def open_connection(*values: Any, **options: Any) -> Any:
        reader, writer = await connect(*values, **options)
        writers.append(writer)
        return reader, writer

    monkeypatch.setattr(asyncio, "open_connection", open_connection)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            events = [Event(str(number), "joined", "room:" + 200 * "x", "ann", 0.0) for number in range(50_000)]
            with pytest.raises(TimeoutError):
                await Webhook(f"http://127.0.0.1:{port}/in", "s3cret", (), allow_private=True).send(events)
            assert [writer.transport.get_write_buffer_size() for writer in writers] == [0]

    asyncio.run(main())


def test_an_answer_that_comes_by_bytes_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "_ANSWER_SECONDS", 0.5)

    async def main() -> None:
        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"H")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        server = await asyncio.start_server(receive, "127.0.0.1", 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError):
                await Webhook(f"http://127.0.0.1:{port}/in", "s3cret", (), allow_private=True).send(())
        server.close()

    asyncio.run(main())
