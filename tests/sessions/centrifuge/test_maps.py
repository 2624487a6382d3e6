"""Maps for clients of the protocol: pages, filters, deltas, who is in a channel, and what leaves with its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from engine.support import run
from helpers.counting import reached
from helpers.turns import CallsByTurn
from sessions.centrifuge.support import JSON, PROTOBUF, Client, connect, open_sessions
from tidewire.engine.node import Node
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.fossil import apply_delta
from tidewire.sessions.maps import Entries, Maps
from tidewire.testing import wait_until

_STREAM, _STATE = 1, 2


@asynccontextmanager
async def open_maps(**limits: Any) -> AsyncIterator[Node]:
    async with open_sessions(**limits) as node:
        try:
            yield node
        finally:
            await Maps.close(node)


async def follow(client: Client, channel: str, *, type: int = 1, **request: Any) -> dict[str, Any]:
    """Subscribe to a map; return the first reply."""
    return await client.ask("subscribe", channel=channel, type=type, **{"phase": _STATE, **request})


def keys(result: dict[str, Any]) -> list[str]:
    return [pub["key"] for pub in result.get("state", ())]


def changes(client: Client, channel: str) -> list[tuple[str, Any]]:
    """Return what was pushed of a map: keys with their values, None for removed ones."""
    pubs = [push["pub"] for push in client.pushes("pub", channel)]
    return [(pub["key"], None if pub.get("removed") else pub.get("data")) for pub in pubs]


async def fill(node: Node, channel: str, *names: str) -> None:
    for name in names:
        await Maps.of(node).set(channel, name, name.upper())


@pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
@pytest.mark.parametrize("channel", ["map:a", "anew:a"])
def test_entries_come_in_pages_and_then_what_changed_meanwhile(protocol: CentrifugeProtocol, channel: str) -> None:
    async def main() -> None:
        async with open_maps() as node:
            await fill(node, channel, "a", "b", "c", "d", "e")
            client = await connect(node, protocol=protocol)
            first = await follow(client, channel, limit=2)
            assert (first["phase"], keys(first)) == (_STATE, ["a", "b"])
            maps = Maps.of(node)
            await maps.unset(channel, "a")
            await maps.set(channel, "c", "new")
            await maps.set(channel, "aa", "between")
            second = await follow(client, channel, limit=2, cursor=first["cursor"])
            assert keys(second) == ["c", "d"]
            assert second.get("offset") == first.get("offset")
            last = await follow(client, channel, limit=2, cursor=second["cursor"])
            assert (last.get("phase", 0), last["type"], keys(last)) == (0, 1, ["e"])
            assert last.get("recoverable", False) is (channel == "map:a")
            missed = [(pub["key"], pub.get("removed", False)) for pub in last["publications"]]
            assert missed == [("a", True), ("c", False), ("aa", False)]
            await maps.set(channel, "live", 1)
            await client.wait_pushes("pub", 1, channel)
            assert changes(client, channel)[0][0] == "live"

    run(main())


@pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
@pytest.mark.parametrize("channel", ["map:a", "gonemap:a"])
def test_a_page_is_as_large_as_a_reply_may_be(protocol: CentrifugeProtocol, channel: str) -> None:
    async def main() -> None:
        async with open_maps(reply_bytes=2_500) as node:
            maps, pages = Maps.of(node), []
            for name, size in (("a", 1_000), ("b", 1_000), ("c", 1_000), ("d", 9_000), ("e", 1_000), ("f", 2_000)):
                await maps.set(channel, name, "x" * size)
            client = await connect(node, protocol=protocol)
            page = await follow(client, channel)
            while page.get("phase"):
                pages.append(keys(page))
                page = await follow(client, channel, cursor=page["cursor"])
            assert [*pages, keys(page)] == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]

    run(main())


@pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_what_changed_in_a_map_that_nobody_keeps_is_pushed_behind_its_pages(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_maps() as node:
            maps, channel = Maps.of(node), "gonemap:a"
            await fill(node, channel, "a", "b", "c", "d", "e")
            client = await connect(node, protocol=protocol)
            first = await follow(client, channel, limit=3, delta="fossil")
            assert (first["phase"], keys(first)) == (_STATE, ["a", "b", "c"])
            await maps.unset(channel, "a")
            await maps.set(channel, "c", "new")
            await maps.set(channel, "aa", "between")
            last = await follow(client, channel, limit=3, delta="fossil", cursor=first["cursor"])
            assert (last.get("phase", 0), last["type"], keys(last)) == (0, 1, ["d", "e"])
            assert [last.get(name, default) for name, default in (("recoverable", False), ("offset", 0))] == [False, 0]
            await maps.set(channel, "live", 1)
            await client.wait_pushes("pub", 4, channel)
            assert changes(client, channel) == [("a", None), ("c", "new"), ("aa", "between"), ("live", 1)]
            assert (await follow(await connect(node), channel, phase=_STREAM, recover=True))["error"]["code"] == 107

    run(main())


def test_pages_begin_with_the_first_one() -> None:
    async def main() -> None:
        async with open_maps() as node:
            await fill(node, "map:a", "a", "b")
            client = await connect(node)
            assert (await follow(client, "map:a", cursor="a"))["error"]["code"] == 103
            assert (await follow(client, "map:a", phase=_STREAM))["error"]["code"] == 103
            assert (await follow(client, "map:a", phase=0))["error"]["code"] == 107
            assert (await follow(client, "map:a", type=2))["error"]["code"] == 108
            assert (await follow(client, "history:a"))["error"]["code"] == 108
            begun = await follow(client, "map:a", limit=1)
            await client.ask("unsubscribe", channel="map:a")
            assert (await follow(client, "map:a", limit=1, cursor=begun["cursor"]))["error"]["code"] == 103

    run(main())


def test_a_client_that_was_away_gets_the_changes_or_is_told_to_begin_anew() -> None:
    async def main() -> None:
        async with open_maps() as node:
            await fill(node, "smallmap:a", "a", "b")
            client = await connect(node)
            position = await follow(client, "smallmap:a")
            await client.ask("unsubscribe", channel="smallmap:a")
            await fill(node, "smallmap:a", "c", "d")
            since = {"offset": position["offset"], "epoch": position["epoch"], "recover": True}
            back = await follow(client, "smallmap:a", phase=_STREAM, **since)
            assert back["recovered"] is True
            assert [pub["key"] for pub in back["publications"]] == ["c", "d"]
            await client.ask("unsubscribe", channel="smallmap:a")
            await fill(node, "smallmap:a", "e", "f", "g", "h")
            assert (await follow(client, "smallmap:a", phase=_STREAM, **since))["error"]["code"] == 112
            assert keys(await follow(client, "smallmap:a")) == list("abcdefgh")

    run(main())


def test_a_filter_chooses_entries_and_an_entry_that_it_wants_no_more_is_removed() -> None:
    async def main() -> None:
        async with open_maps() as node:
            maps = Maps.of(node)
            await maps.set("tagmap:a", "x", 1, tags={"team": "eng"})
            await maps.set("tagmap:a", "y", 2, tags={"team": "sales"})
            client = await connect(node)
            wanted = {"key": "team", "cmp": "eq", "val": "eng"}
            assert keys(await follow(client, "tagmap:a", tf=wanted)) == ["x"]
            await maps.set("tagmap:a", "y", 3, tags={"team": "sales"})
            await maps.set("tagmap:a", "y", 4, tags={"team": "eng"})
            await maps.set("tagmap:a", "y", 5, tags={"team": "sales"})
            await maps.set("tagmap:a", "y", 6, tags={"team": "sales"})
            await maps.set("tagmap:a", "x", 7, tags={"team": "eng"})
            await client.wait_pushes("pub", 3, "tagmap:a")
            assert changes(client, "tagmap:a") == [("y", 4), ("y", None), ("x", 7)]
            assert (await follow(await connect(node), "map:a", tf=wanted))["error"]["code"] == 107

    run(main())


class Deltas:
    """What an SDK does with deltas of a map in JSON: one value for each key, each made of the one before."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.values: dict[str, bytes] = {}
        self.patches = 0
        for pub in (*result.get("state", ()), *result.get("publications", ())):
            self.take(pub)

    def take(self, pub: dict[str, Any]) -> None:
        key, data = pub["key"], pub["data"].encode()
        if pub.get("removed"):
            assert data == b"null"
            del self.values[key]
        elif pub.get("delta"):
            self.values[key] = apply_delta(self.values[key], data)
            self.patches += 1
        else:
            self.values[key] = data

    def take_all(self, client: Client, channel: str) -> dict[str, Any]:
        for push in client.pushes("pub", channel):
            self.take(push["pub"])
        return {key: msgspec.json.decode(value) for key, value in self.values.items()}


def test_deltas_are_to_the_value_before_of_the_same_key() -> None:
    async def main() -> None:
        async with open_maps() as node:
            maps = Maps.of(node)
            values = [{"text": "é" * 80, "n": n} for n in range(6)]
            await maps.set("map:a", "old", values[0])
            first = await connect(node)
            early = Deltas(await follow(first, "map:a", delta="fossil"))
            for key, value in zip(("old", "new", "old", "new"), values[1:], strict=False):
                await maps.set("map:a", key, value)
            second = await connect(node)
            late = Deltas(await follow(second, "map:a", delta="fossil"))
            await maps.set("map:a", "old", values[5])
            await maps.unset("map:a", "new")
            await maps.set("map:a", "new", values[0])
            expected = {"old": values[5], "new": values[0]}
            await wait_until(lambda: len(first.pushes("pub", "map:a")) == 7, what="all are pushed")
            await wait_until(lambda: len(second.pushes("pub", "map:a")) == 3, what="all are pushed")
            assert early.take_all(first, "map:a") == expected
            assert late.take_all(second, "map:a") == expected
            assert (early.patches, late.patches) == (4, 1)

    run(main())


def test_one_that_comes_back_is_given_no_patch_of_what_it_may_not_have() -> None:
    async def main() -> None:
        async with open_maps() as node:
            maps = Maps.of(node)
            values = [{"text": "é" * 80, "n": n} for n in range(4)]
            await maps.set("map:a", "k", values[0])
            stayed, away = await connect(node), await connect(node)
            kept = Deltas(await follow(stayed, "map:a", delta="fossil"))
            left = await follow(away, "map:a")
            await away.ask("unsubscribe", channel="map:a")
            position = {"offset": left["offset"], "epoch": left["epoch"], "recover": True}
            back = Deltas(await follow(away, "map:a", phase=_STREAM, delta="fossil", **position))
            for value in values[1:]:
                await maps.set("map:a", "k", value)
            for client, deltas in ((stayed, kept), (away, back)):
                await client.wait_pushes("pub", 3, "map:a")
                assert deltas.take_all(client, "map:a") == {"k": values[3]}
            assert back.patches == 2

    run(main())


def test_maps_of_who_is_in_a_channel() -> None:
    async def main() -> None:
        async with open_maps() as node:
            watcher = await connect(node)
            assert (await follow(watcher, "clients:map:a", type=2)).get("state", []) == []
            assert (await follow(watcher, "users:map:a", type=3)).get("state", []) == []
            ann, again, bob = [await connect(node, f"user:{name}") for name in ("ann", "ann", "bob")]
            for client in (ann, again, bob):
                await follow(client, "map:a")
            clients = await watcher.wait_pushes("pub", 3, "clients:map:a")
            seen = {push["pub"]["key"]: push["pub"]["info"]["user"] for push in clients}
            assert seen == {ann.connection.id: "ann", again.connection.id: "ann", bob.connection.id: "bob"}
            await watcher.wait_pushes("pub", 2, "users:map:a")
            assert [key for key, _ in changes(watcher, "users:map:a")] == ["ann", "bob"]
            late = await connect(node)
            assert set(keys(await follow(late, "clients:map:a", type=2))) == set(seen)
            assert keys(await follow(late, "users:map:a", type=3)) == ["ann", "bob"]
            refused = await late.ask("publish", channel="clients:map:a", type=2, key="x", data=1)
            assert refused["error"]["code"] == 108
            await bob.ask("unsubscribe", channel="map:a")
            ann.link.abort()
            await watcher.wait_pushes("pub", 5, "clients:map:a")
            await watcher.wait_pushes("pub", 3, "users:map:a")
            again.link.abort()
            await watcher.wait_pushes("pub", 6, "clients:map:a")
            await watcher.wait_pushes("pub", 4, "users:map:a")
            gone = [push["pub"]["key"] for push in watcher.pushes("pub", "users:map:a") if push["pub"].get("removed")]
            assert gone == ["bob", "ann"]
            assert (await Maps.of(node).entries("clients:map:a")).entries == {}

    run(main())


@pytest.mark.parametrize("channel", ["owned:a", "gonemap:a"])
@pytest.mark.parametrize("how", ["unsubscribes", "is lost"])
def test_what_a_client_owns_leaves_with_it_under_the_key_of_its_connection(how: str, channel: str) -> None:
    async def main() -> None:
        async with open_maps() as node:
            watcher, client = await connect(node), await connect(node, "user:ann")
            await follow(watcher, channel)
            await follow(client, channel)
            await client.ask("publish", channel=channel, type=1, key="other", data={"x": 1})
            pushed = (await watcher.wait_pushes("pub", 1, channel))[0]["pub"]
            assert (pushed["key"], pushed["data"]) == (client.connection.id, {"x": 1})
            assert pushed["info"]["user"] == "ann"
            if how == "is lost":
                client.link.abort()
            else:
                await client.ask("unsubscribe", channel=channel)
            await watcher.wait_pushes("pub", 2, channel)
            assert changes(watcher, channel)[1] == (client.connection.id, None)
            assert (await Maps.of(node).entries(channel)).entries == {}

    run(main())


def test_a_user_has_so_many_maps_in_use_and_others_have_theirs() -> None:
    async def main() -> None:
        async with open_maps(maps_per_user=3) as node:
            ann, again, bob = [await connect(node, token=f"user:{name}") for name in ("ann", "ann", "bob")]
            set_ = {"type": 1, "key": "k", "data": 1}
            for number in range(3):
                one = (ann, again)[number % 2]
                assert "error" not in await one.ask("publish", channel=f"map:{number}", **set_)
            assert "error" not in await again.ask("publish", channel="map:0", **set_)
            before = reached()["maps_per_user"]
            assert (await ann.ask("publish", channel="map:3", **set_))["error"]["code"] == 106
            assert (await follow(again, "map:4"))["error"]["code"] == 106
            assert reached()["maps_per_user"] == before + 2
            assert "error" not in await bob.ask("publish", channel="map:3", **set_)
            assert "error" not in await follow(ann, "map:3")

    run(main())


def test_pages_that_clients_ask_for_at_once_are_made_in_turns_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes milliseconds: made one behind the other, they would be a turn of seconds."""
    made = CallsByTurn()

    async def main() -> None:
        async with open_maps() as node:
            await fill(node, "map:a", "a", "b")
            clients = [await connect(node) for _ in range(3)]
            asked = {"channel": "map:a", "type": 1, "phase": _STATE, "limit": 1}
            with made.counting():
                for client in clients:
                    client.send(*({"id": number, "subscribe": asked} for number in range(100, 120)))
                await wait_until(lambda: all(client.reply(119) for client in clients))

    made.watch(monkeypatch, Entries, "page")
    run(main())
    assert made.total() == 60
    assert max(made.values()) == 1
