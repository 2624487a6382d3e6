"""The waiting room of publishes, which all stores but the memory have."""

from __future__ import annotations

import asyncio

from tidewire.backends.shared import waiting
from tidewire.backends.shared.waiting import WaitingRoom, Write, not_published
from tidewire.messages import Format, Position, PublishRequest
from tidewire.support.admission import Admission
from tidewire.testing import wait_until


def test_newcomers_leave_turns_to_a_publish_until_it_is_answered() -> None:
    async def main() -> None:
        gate = Admission.of(asyncio.get_running_loop())
        for ends_by_itself in (True, False):
            handed: list[Write] = []
            room = WaitingRoom("the store", hand_over=handed.extend, late=lambda _: not_published("it is slow"))
            assert not gate._on_their_way
            answers = [room.enter(Write(PublishRequest("a", b"one", Format.TEXT), 3_600.0)) for _ in range(2)]
            begun: list[int] = []
            for number in range(3):
                gate.start(lambda begun=begun, number=number: begun.append(number), 1)  # type: ignore[misc]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert begun == [0]
            await wait_until(lambda begun=begun: len(begun) == 3)  # type: ignore[misc]
            assert [is_on_its_way() for is_on_its_way in gate._on_their_way] == [True]
            for write in handed:
                room.settle(write, Position(1, "e"))
            await asyncio.gather(*answers)
            assert not any(is_on_its_way() for is_on_its_way in gate._on_their_way)
            if ends_by_itself:
                await wait_until(lambda: not gate._on_their_way, 20 * waiting._SWEEP + 5)
            room.close()
            room.close()
            await wait_until(lambda: not gate._started)
        assert not gate._on_their_way

    asyncio.run(main())
