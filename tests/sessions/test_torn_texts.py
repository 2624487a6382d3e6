"""Text streams whose producer is cancelled, or whose chunks are not confirmed: the text has no hole, and an end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from engine.support import run
from sessions.test_text_streams import Reader
from tidewire import BadRequest, Hub, NotPublished, Position, PublishError, PublishUnconfirmed
from tidewire.protocols.text_chunks import chunk_of
from tidewire.testing import wait_until


class Flaky:
    """Stands before a node's `publish`: it fails, before or after the publication is kept, or takes its time."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failure: PublishError | None = None
        self.is_kept = False
        self.seconds = 0.0
        self.waiting = asyncio.Event()
        publish = hub.node.publish

        async def flaky(*arguments: Any, **options: Any) -> Position:
            failure, self.failure = self.failure, None
            if failure is not None and not self.is_kept:
                raise failure
            position = await publish(*arguments, **options)
            if self.seconds:
                self.waiting.set()
                await asyncio.sleep(self.seconds)
            if failure is not None:
                raise failure
            return position

        monkeypatch.setattr(hub.node, "publish", flaky)
        monkeypatch.setattr("tidewire.sessions.text_streams._PATIENCE", 0.0)


async def kept(hub: Hub) -> tuple[str, str]:
    """Return the text that a reader has who reads one publication after the other, and its end."""
    reader = Reader()
    for publication in (await hub.node.broker.history("chat:1")).publications:
        chunk = chunk_of(publication)
        assert chunk is not None
        reader.take(chunk)
    return reader.text, reader.end


@pytest.mark.parametrize("writes_on", [False, True])
@pytest.mark.parametrize("is_kept", [False, True])
def test_text_that_was_not_confirmed_comes_again(
    monkeypatch: pytest.MonkeyPatch, *, is_kept: bool, writes_on: bool
) -> None:
    async def main() -> None:
        async with Hub() as hub:
            flaky = Flaky(hub, monkeypatch)
            with contextlib.suppress(NotPublished):
                async with hub.stream("chat:1") as out:
                    await out.write("one ")
                    await wait_until(lambda: hub.statistics().published == 2)
                    flaky.failure, flaky.is_kept = NotPublished("the store is away"), is_kept
                    await out.write("two ")
                    await wait_until(lambda: flaky.failure is None)
                    if writes_on:
                        await out.write("three ")
            assert await kept(hub) == ("one two ", "aborted" if writes_on else "done")

    run(main())


def test_a_producer_that_is_cancelled_while_it_publishes_leaves_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Hub() as hub:
            flaky = Flaky(hub, monkeypatch)

            async def produce() -> None:
                async with hub.stream("chat:1") as out:
                    await out.write("one ")
                    await wait_until(lambda: hub.statistics().published == 2)
                    flaky.seconds = 0.2
                    await out.write("two " * 20_000)

            producing = asyncio.create_task(produce())
            await flaky.waiting.wait()
            producing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await producing
            assert await kept(hub) == ("one " + "two " * 20_000, "aborted")

    run(main())


def test_a_producer_that_is_cancelled_at_its_end_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Hub() as hub:
            publish, begun = hub.node.publish, asyncio.Event()
            out = await hub.stream("chat:1").__aenter__()
            await out.write("one ")

            async def slow(*arguments: Any, **options: Any) -> Position:
                begun.set()
                await asyncio.sleep(0.1)
                return await publish(*arguments, **options)

            monkeypatch.setattr(hub.node, "publish", slow)
            ending = asyncio.create_task(out.__aexit__(None, None, None))
            await begun.wait()
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            async with asyncio.timeout(10):
                while await kept(hub) != ("one ", "done"):
                    await asyncio.sleep(0.01)
            async with hub.stream("chat:1") as another:  # and its place is free
                await another.write("another")

    run(main())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "refused", "broken"])
def test_an_end_that_fails_cancels_nobody_and_hides_no_error(
    monkeypatch: pytest.MonkeyPatch, how: str, *, fails: bool
) -> None:
    errors = {"cancelled": PublishUnconfirmed, "refused": BadRequest, "broken": ZeroDivisionError}

    async def main() -> None:
        async with Hub() as hub:
            begun = asyncio.Event()

            async def publish(*arguments: Any, **options: Any) -> Position:
                begun.set()
                if how == "refused":
                    raise BadRequest("no publication of this store is as large")
                if how == "broken":
                    raise ZeroDivisionError
                return await asyncio.Event().wait()  # type: ignore[return-value]

            async def produce() -> None:
                async with hub.stream("chat:1"):
                    monkeypatch.setattr(hub.node, "publish", publish)
                    if fails:
                        raise LookupError("of the application")

            producing = asyncio.create_task(produce())
            await begun.wait()
            if how == "cancelled":  # as a node that closes does when it has waited long enough
                for task in tuple(hub.node.tasks._tasks):
                    task.cancel()
            with pytest.raises(LookupError if fails else errors[how]):
                await producing

    run(main())
