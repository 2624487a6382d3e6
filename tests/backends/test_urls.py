"""What is said of a URL that cannot be read: nothing that may be of its password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tidewire.backends import open_backend
from tidewire.backends.base import Broker
from tidewire.errors import ConfigurationError, NotPublished, TidewireError
from tidewire.limits import Limits
from tidewire.messages import Member, Position, PublishRequest
from tidewire.retention import Retention
from tidewire.testing import wait_until

SCHEMES = ("redis", "redis+sentinel", "redis+cluster", "nats", "tls", "postgresql", "mysql")
FORMS = (
    "ann:s3cret/more@host",
    "ann:s3cret?more@host",
    "ann:s3cret#more@host",
    "ann:s3cret[more@host",
    "ann:[s3cret]@host",
    "ann:s3cret\u2100@host",
    "ann:more@s3cret/more@host",
    ":s3cret",
    "ann:1/s3cret@host",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_part_of_a_password_is_told(scheme: str, form: str) -> None:
    told = ""
    try:
        open_backend(f"{scheme}://{form}", Limits())
    except ConfigurationError as error:
        told = str(error)
    assert "s3cret" not in told


def test_a_file_may_have_any_name() -> None:
    open_backend("sqlite:///chat@home.db", Limits())


def test_nodes_that_name_a_file_differently_are_nodes_of_one_store(tmp_path: Path) -> None:
    """The files beside it belong to the file, not to the name that leads there: presence and wake-ups are in them."""
    (tmp_path / "there").mkdir()
    file, link, folder = tmp_path / "there" / "chat.db", tmp_path / "link.db", tmp_path / "folder"
    link.symlink_to(file)  # which is not there yet
    folder.symlink_to(tmp_path / "there")

    async def main() -> None:
        stores = [open_backend(f"sqlite:///{path}", Limits()) for path in (file, link, folder / "chat.db")]
        async with AsyncExitStack() as stack:
            for number, (broker, presence) in enumerate(stores):
                await broker.start(lambda *_: None)
                stack.push_async_callback(broker.aclose)
                await presence.start(f"node{number}")
                stack.push_async_callback(presence.aclose)
                await presence.join("room:1", Member(f"c{number}", f"user{number}", b""))
            for _, presence in stores:
                assert {member.user for member in await presence.members("room:1")} == {"user0", "user1", "user2"}

    asyncio.run(main())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["link.db"]


def test_a_node_whose_link_is_led_elsewhere_refuses_until_it_is_led_back(tmp_path: Path) -> None:
    """Else it would keep one file, and a worker that comes later another one by the same name."""
    link = tmp_path / "current.db"

    def lead_to(name: str) -> None:
        new = tmp_path / "new.db"
        new.symlink_to(tmp_path / name)
        new.replace(link)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Broker]:
        broker, _ = open_backend(f"sqlite:///{link}", Limits())
        await broker.start(lambda *_: None)
        try:
            yield broker
        finally:
            await broker.aclose()

    async def main() -> None:
        lead_to("v1.db")
        async with opened() as before:
            request = PublishRequest("room:1", b"{}", retention=Retention(size=10))
            first = await before.publish(request)
            lead_to("v2.db")
            async with opened() as after:
                assert (await after.publish(request)).epoch != first.epoch
                for _ in range(2):
                    with pytest.raises(NotPublished, match=r"current\.db led to .*v1\.db and does so no more"):
                        await before.publish(request)

            lead_to("v1.db")

            async def is_back() -> bool:
                try:
                    return await before.publish(request) == Position(2, first.epoch)
                except NotPublished:
                    return False

            await wait_until(is_back)

    asyncio.run(main())


def test_a_link_that_leads_in_a_circle_is_an_error_in_words(tmp_path: Path) -> None:
    link = tmp_path / "chat.db"
    link.symlink_to(link)

    async def main() -> None:
        broker, _ = open_backend(f"sqlite:///{link}", Limits())
        try:
            with pytest.raises(TidewireError, match=r"chat\.db"):
                await broker.start(lambda *_: None)
        finally:
            await broker.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["sqlite:///:memory:", "sqlite:///file::memory:?cache=shared", "sqlite:///x?mode=memory"]
)
def test_sqlite_without_a_file_is_refused_and_the_store_of_one_process_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write memory://"):
        open_backend(url, Limits())
