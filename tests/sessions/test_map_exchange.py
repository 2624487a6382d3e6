"""Words of other nodes about a map that nobody keeps: none of them raises, fills the memory, or ends later changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.support import run
from helpers.counting import reached
from tidewire import ChannelOptions, Hub
from tidewire.channel_options import MapOptions
from tidewire.channels import copies
from tidewire.messages import EphemeralPublication, Format
from tidewire.protocols.map_news import KnownChange, News
from tidewire.protocols.meta import CHANGE
from tidewire.sessions.map_exchange import SharedReplica
from tidewire.sessions.maps import Maps
from tidewire.testing import wait_until

NEIGHBOUR = "0123456789ab"


class Alone:
    """One node with a map, that hears what a test makes another one say."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        replica = Maps.of(hub.node)._replicas["board"]
        assert isinstance(replica, SharedReplica)
        self.replica = replica
        self.said: list[News] = []

    def hear(self, data: bytes) -> None:
        self._add(copies("board"), data, Format.BINARY, b"")

    def change(self, data: bytes, meta: bytes = CHANGE) -> None:
        key = data.partition(b'"key":"')[2].partition(b'"')[0].decode()
        self._add("board", data, Format.JSON, meta, f"$map:{key}")

    def set(self, key: str, value: Any = 1, *, stamp: int = 1, by: str = f"{NEIGHBOUR}1") -> None:
        self.change(json.dumps({"key": key, "value": value, "stamp": stamp, "by": by}, separators=(",", ":")).encode())

    def _add(self, channel: str, data: bytes, format_: Format, meta: bytes, sender: str = "") -> None:
        publication = EphemeralPublication(channel, 0, 0, "", 0.0, data, format_, meta, sender)
        self.hub.node.fanout.ephemeral.add(publication)

    async def values(self) -> dict[str, Any]:
        return (await self.hub.entries("board")).values()


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[Alone]:
    channels = {"board": ChannelOptions(ephemeral=True, map=MapOptions())}
    async with Hub(f"sqlite:///{path}/chat.db", channels=channels) as hub:
        await hub.set("board", "own", 0)
        yield Alone(hub)


MALFORMED = {
    "no-hex": {"by": f"{NEIGHBOUR}xyz"},
    "no-number": {"by": NEIGHBOUR},
    "short": {"by": "a"},
    "sign": {"by": f"{NEIGHBOUR}-1"},
    "underscore": {"by": f"{NEIGHBOUR}1_0"},
    "huge-number": {"by": NEIGHBOUR + "f" * 5_000},
    "without": {},
    "huge-stamp": {"by": f"{NEIGHBOUR}1", "stamp": 1 << 63},
    "huger-stamp": {"by": f"{NEIGHBOUR}1", "stamp": msgspec.Raw(b"9" * 30)},
    "left": {"left": "x", "by": f"{NEIGHBOUR}1", "key": ""},
    "number": {"by": f"{NEIGHBOUR}1", "value": msgspec.Raw(b"1e999")},
    "unicode": {"by": f"{NEIGHBOUR}1", "value": msgspec.Raw(b'"\xff"')},
}


@pytest.mark.parametrize("wrong", MALFORMED)
def test_a_change_of_another_form_is_left_out_and_counted(tmp_path: Path, wrong: str) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here, here.hub.listen("board") as publications:
            before = reached()["relay"]
            data = msgspec.json.encode({"key": "a", "value": 1, **MALFORMED[wrong]})
            here.change(data)
            here.hear(News(NEIGHBOUR, 1, "", 1, 0, 1, [KnownChange(data, CHANGE, 0.0)]).encode())
            assert reached()["relay"] > before
            here.set("b", by=f"{NEIGHBOUR}2", stamp=2)
            own = await here.hub.set("board", "own", 2)
            values = await here.values()
            values.pop("a", None)
            assert values == {"b": 1, "own": 2}
            assert own.value == 2
            seen = ""
            while seen != "own":
                seen = (await anext(publications)).json()["key"]

    run(main(), 30)


def test_news_of_another_form_is_left_out_and_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here:
            good = msgspec.msgpack.decode(News(NEIGHBOUR, 1, "", 1, 0, 1, [KnownChange(b"{}", b"", 0.0)]).encode())
            wrong: list[Any] = [
                {**good, "number": 2**64 - 1},
                {**good, "number": -1},
                {**good, "part": 1},
                {**good, "parts": 2**40},
                {**good, "by": "x" * 10_000},
                {**good, "known": {"a": 2**63}},
                {**good, "changes": [[b"{}", b"", float("nan")]]},
                {**good, "changes": [[b"{}", b"", -1.0]]},
                [],
                "text",
            ]
            before = reached()["relay"]
            for one in (*map(msgspec.msgpack.encode, wrong), b"", b"\xc1", b"\x91" * 100_000):
                here.hear(one)
            assert reached()["relay"] == before + len(wrong) + 3
            here.hear(msgspec.msgpack.encode(good))  # news that is understood, of a change that is not
            assert reached()["relay"] == before + len(wrong) + 4
            assert await here.values() == {"own": 0}

    run(main(), 30)


def test_stamps_of_one_bad_node_do_not_end_later_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here:
            for number, stamp in enumerate((1 << 39, 1 << 53, 1 << 62, (1 << 64) - 1, 10**4_299, 10**4_300 - 1), 1):
                here.set("own", "bad", stamp=stamp, by=f"{NEIGHBOUR}{number:x}")
                await here.hub.set("board", "own", number)
                assert (await here.values())["own"] == number

    run(main(), 30)


def test_a_flood_of_readers_fills_no_memory(tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here:
            replica, said = here.replica, 2_500
            for number in range(said):
                name = f"{number:012x}"
                here.hear(News(name, 5).encode())
                here.hear(News(name, 5, "", 1, 0, 2, known={f"{number + n:x}": 1 for n in range(3)}).encode())
                here.set("flood", stamp=number + 10, by=f"{name}9")
            here.hear(News(NEIGHBOUR, 5, "", 1, 0, 1, known={f"{number:x}": 1 for number in range(said)}).encode())
            readers = replica._readers
            for kept in (readers.numbers, readers._parts, readers._asked):
                assert 0 < len(kept) <= 1_000
            assert not replica._heard
            here.set("last", stamp=said * 2, by=f"{NEIGHBOUR}6")
            assert (await here.values())["last"] == 1

    run(main(), 60)


@pytest.mark.parametrize(("length", "most"), [(5, 10_000), (255, 3_000)], ids=["many", "large"])
def test_keys_that_come_and_go_are_forgotten(tmp_path: Path, length: int, most: int) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here:
            for number in range(1, most + 2_001):
                key = f"{number:0{length}}"
                data = {"key": key, "removed": True, "stamp": number + 5, "by": f"{NEIGHBOUR}{number:x}"}
                here.change(msgspec.json.encode(data))
            assert most * 0.9 < len(here.replica._newest) <= most + 1, "with the one that is there"
            assert set(here.replica._newest) >= {"own", key}
            assert here.replica._newest.keys() == {*here.replica.state.entries, *here.replica.state.copy().gone}

    run(main(), 60)


def test_many_that_ask_at_once_are_answered_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as here:
            replica = here.replica
            for number in range(500):
                here.hear(News(f"{number:012x}", 0, "*").encode())
            await wait_until(lambda: replica._answered > 0)
            answered_at = replica._answered_at
            for number in range(500):
                here.hear(News(f"{number:012x}", 0, "*").encode())
            assert replica._answered == 1
            await wait_until(lambda: replica._answered == 2)
            assert replica._answered_at - answered_at > 0.09  # each answer is the whole map

    run(main(), 30)
