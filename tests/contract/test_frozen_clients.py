"""A client that is frozen (SIGSTOP) in a room of 50: it costs only itself, and recovers when it wakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .chatting import Chat
from .conftest import FAST, StartServer
from .raw import RawSocket
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-frozen")

MEMBERS = 50
#: Seconds beyond ping and pong: the wheel's notches, the leave through the store, a busy machine.
SLACK = 4.0


class Member:
    """A member of the room in a process of its own (member.py)."""

    def __init__(self, server: Server, token: str, room: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("member.py")), server.url(f"/ws/auth?room={room}")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(token + "\n")
        self._process.stdin.flush()

    def next_event(self) -> dict[str, Any]:
        """Return what it tells next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the member has ended"
        event: dict[str, Any] = json.loads(line)
        return event

    def freeze(self) -> None:
        """Let it do nothing any more."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def member_of(server: Server, token: str, room: str) -> Iterator[Member]:
    """Run a member for as long as the block lasts."""
    member = Member(server, token, room)
    try:
        yield member
    finally:
        member.end()


@pytest.mark.parametrize("size", [100, 30_000], ids=["quiet", "busy"])
def test_a_frozen_client_costs_only_itself(start_server: StartServer, room: str, size: int) -> None:
    limits = {"ping_seconds": 3, "pong_seconds": 3, "stalled_seconds": 3, **FAST}
    server = start_server(broker="sqlite:///tidewire.db", limits=limits)
    _freeze_in_a_room(server, room, size=size, seconds=6)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("size", [100, 30_000], ids=["quiet", "busy"])
def test_a_frozen_client_costs_only_itself_with_the_default_limits(
    start_server: StartServer, room: str, size: int
) -> None:
    server = start_server(broker="sqlite:///tidewire.db", limits=FAST)
    _freeze_in_a_room(server, room, size=size, seconds=35)


def _freeze_in_a_room(server: Server, room: str, *, size: int, seconds: float) -> None:
    """Freeze one of MEMBERS while the others talk; `seconds`: ping and pong of the server."""
    frozen_name, frozen_token = server.sign_up()
    tokens = [server.sign_up()[1] for _ in range(4)]

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            others = [Chat(server, tokens[number % 4], room=room) for number in range(MEMBERS - 1)]
            for chat in others:
                await stack.enter_async_context(chat)
                await chat.joined()
            with member_of(server, frozen_token, room) as member:
                assert (await asyncio.to_thread(member.next_event))["event"] == "history"
                await others[0].expect("system", content=f"User '{frozen_name}' has joined the chat.")
                await talk(others, "before", 20, size)
                before = server.resident()
                member.freeze()
                frozen_at = time.monotonic()
                sent = await talk(others, "frozen", 150 if size > 1_000 else 20, size)
                assert server.resident() < before + 16, "the memory stays flat"
                left = f"User '{frozen_name}' has left the chat."
                remaining = frozen_at + seconds + SLACK - time.monotonic()
                if not [message for message in others[0].seen if message.get("content") == left]:
                    await others[0].expect("system", within=remaining, content=left)
                assert frozen_name not in await others[0].who()
                await asyncio.to_thread(recovers, member, sent)

    asyncio.run(scenario())


def test_what_waits_for_a_client_that_reads_nothing_is_bounded(start_server: StartServer, room: str) -> None:
    """No timer ends it here: only the limit of its outbox does, and it is told to come back."""
    limits = {"ping_seconds": 600, "stalled_seconds": 600, **FAST}
    server = start_server(broker="sqlite:///tidewire.db", limits=limits)
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room) as one, Chat(server, token, room=room) as two:
            await one.joined()
            await two.joined()
            await talk([one, two], "warm", 20, 60_000)
            with RawSocket(server, f"/ws/auth?token={token}&room={room}", receive_buffer=8_192) as deaf:
                await two.who()
                before = server.resident()
                sent = await talk([one, two], "more", 400, 60_000)
                assert len(sent) * 60_000 > 20 * 1_048_576
                assert server.resident() < before + 12
                assert await asyncio.to_thread(deaf.closed) in (4008, 1006)

    asyncio.run(scenario())


async def talk(members: list[Chat], prefix: str, count: int, size: int) -> list[str]:
    """Say so much, one after the other; each message reaches everybody before the next is said."""
    contents = [f"{prefix}-{number}" for number in range(count)]
    for content in contents:
        await members[0].say(f"{content} ".ljust(size, "x"))
        async with asyncio.timeout(20):
            for chat in members:
                message = await chat.expect("chat_message")
                assert message["content"].startswith(f"{content} ")
                chat.seen = [old for old in chat.seen if old["type"] == "system"]
    return contents


def recovers(member: Member, sent: list[str]) -> None:
    """Wake a member, and assert that it is given all that was said, once and in order."""
    member.wake()
    given: list[str] = []
    while not given or given[-1] != sent[-1]:
        event = member.next_event()
        if event["event"] == "message":
            given.append(event["content"])
        elif event["event"] == "history":
            assert event["recovered"] is True
            given += event["contents"]
    assert [content for content in given if content.startswith("frozen")] == sent
