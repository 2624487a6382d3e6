"""The limit on resident memory: who comes is refused, who is inside goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.support import connect, open_node, publish, run
from tidewire.errors import LimitExceeded
from tidewire.sessions.newcomers import admit
from tidewire.support.resident_memory import MemoryReturn, ResidentMemory, _resident
from tidewire.testing import wait_until


def test_it_is_what_the_process_holds() -> None:
    told = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    assert ResidentMemory().read() == pytest.approx(int(told) * 1_024, rel=0.1)


def test_it_is_read_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, readings = time.monotonic(), iter(range(1, 9))
    monkeypatch.setattr("tidewire.support.resident_memory._resident", lambda: next(readings))
    memory = ResidentMemory()
    for passed, expected in ((0.0, 1), (0.9, 1), (1.1, 2), (1.2, 2), (2.2, 3)):
        monkeypatch.setattr("tidewire.support.resident_memory.time.monotonic", lambda passed=passed: now + passed)
        assert memory.read() == expected


def test_over_the_limit_newcomers_are_refused_and_those_inside_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_node(memory_bytes=1_000) as node:
            monkeypatch.setattr(ResidentMemory, "read", lambda _: 999)
            async with admit(node, "", ""):
                client = await connect(node, channel="a")
            monkeypatch.setattr(ResidentMemory, "read", lambda _: 1_000)
            with pytest.raises(LimitExceeded, match=r"No memory .*memory_bytes is 1000"):
                async with admit(node, "", ""):
                    pass
            assert node.statistics().limits_reached["memory_bytes"] == 1
            await publish(node, "still here")
            await wait_until(lambda: client.offsets() == [1])
            assert node.registry.arriving == 0

    run(main())


def test_without_a_limit_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tidewire.support.resident_memory._resident", lambda: pytest.fail("read although there is no limit")
    )

    async def main() -> None:
        async with open_node() as node, admit(node, "", ""):
            pass

    run(main())


def test_what_was_freed_while_others_hold_theirs_is_given_back() -> None:
    async def main() -> None:
        memory = MemoryReturn(asyncio.get_running_loop())
        while memory.give_back():
            pass
        for _ in range(2):  # a second burst touches again what was returned, and may come and go between two looks
            blocks = [bytes(100_000) for _ in range(400)]  # smaller than what is mapped by itself
            kept = blocks[::100]
            high = _resident()
            del blocks
            assert memory.give_back()
            assert _resident() < high - 20_000_000
            assert not memory.give_back()
            assert len(kept) == 4
        blocks = [bytes(100_000) for _ in range(400)]
        assert not memory.give_back()  # as a look does while a burst lasts
        del blocks
        assert memory.give_back()

    asyncio.run(main())
