"""Maps over the HTTP API: set, remove, read in pages and as changes, count, clear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from engine.support import open_node, run
from tidewire.channel_options import ChannelOptions, MapKind, MapOptions
from tidewire.errors import BadRequest, NotAvailable
from tidewire.http_api.calls import Calls
from tidewire.http_api.nodes import Nodes
from tidewire.sessions.maps import Maps


class Api:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def __call__(self, method: str, **request: Any) -> dict[str, Any]:
        result = await self._calls.call(f"map_{method}", msgspec.json.encode({"channel": "board", **request}))
        return result.model_dump(exclude_unset=True)


@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    rules = {
        "board": ChannelOptions(map=MapOptions()),
        "who": ChannelOptions(map=MapOptions(kind=MapKind.USERS)),
        "plain": ChannelOptions(),
    }
    async with open_node(rules=rules) as node:
        yield Api(Calls(node, Nodes(node, version="0"), node.options.of))
        await Maps.close(node)


def test_entries_are_set_read_in_pages_counted_removed_and_cleared() -> None:
    async def main() -> None:
        async with api() as call:
            first = await call("publish", key="a", data={"x": 1}, tags={"t": "1"})
            assert first["offset"] == 1
            assert first["epoch"]
            for key in "bcd":
                await call("publish", key=key, data=key)
            page = await call("read_state", limit=3)
            assert [entry["key"] for entry in page["entries"]] == ["a", "b", "c"]
            assert page["entries"][0]["tags"] == {"t": "1"}
            assert bytes(page["entries"][0]["data"]) == b'{"x":1}'
            rest = await call("read_state", limit=3, cursor=page["cursor"])
            assert [entry["key"] for entry in rest["entries"]] == ["d"]
            assert "cursor" not in rest
            assert [entry["key"] for entry in (await call("read_state", key="c"))["entries"]] == ["c"]
            assert await call("stats") == {"num_keys": 4}
            assert (await call("remove", key="a"))["offset"] == 5
            assert await call("remove", key="a") == {"suppressed": True, "suppress_reason": "key_not_found"}
            stream = await call("read_stream", since_offset=3, since_epoch=first["epoch"])
            assert [(one["key"], one.get("removed", False)) for one in stream["entries"]] == [("d", False), ("a", True)]
            await call("clear")
            assert await call("stats") == {"num_keys": 0}

    run(main())


def test_an_entry_is_set_only_if_there_is_none_or_one() -> None:
    async def main() -> None:
        async with api() as call:
            missing = await call("publish", key="a", data=1, key_mode="if_exists")
            assert missing == {"suppressed": True, "suppress_reason": "key_not_found"}
            assert (await call("publish", key="a", data=1, key_mode="if_new"))["offset"] == 1
            there = await call("publish", key="a", data=2, key_mode="if_new")
            assert there == {"suppressed": True, "suppress_reason": "key_exists"}
            assert (await call("publish", key="a", data=3, key_mode="if_exists"))["offset"] == 2

    run(main())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"key": "a"}, BadRequest),
        ({"key": "", "data": 1}, BadRequest),
        ({"key": "a", "b64data": "AA=="}, BadRequest),
        ({"key": "a", "data": 1, "idempotency_key": "k"}, BadRequest),
        ({"key": "a", "data": 1, "version": 3}, BadRequest),
        ({"key": "a", "data": 1, "channel": "plain"}, NotAvailable),
        ({"key": "a", "data": 1, "channel": "who"}, NotAvailable),
    ],
)
def test_what_cannot_be_set(request_: dict[str, Any], error: type[Exception]) -> None:
    async def main() -> None:
        async with api() as call:
            with pytest.raises(error):
                await call("publish", **request_)

    run(main())
