"""Calls of the HTTP API in this process: what one command of a batch breaks is its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.support import open_node, run
from tidewire.http_api.calls import FAULT, Calls
from tidewire.http_api.nodes import Nodes


@pytest.mark.parametrize("parallel", [False, True])
def test_an_extension_that_raises_in_a_batch_hides_nothing_that_was_done(
    caplog: pytest.LogCaptureFixture, parallel: bool
) -> None:
    async def broken(_: Any) -> None:
        raise ValueError("a fault of the application")

    async def main() -> None:
        async with open_node() as node:
            calls = Calls(node, Nodes(node, version="0"), node.options.of, extensions={"broken": broken})
            commands: list[dict[str, Any]] = [
                {"publish": {"channel": "a", "data": 1}},
                {"rpc": {"method": "broken"}},
                {"publish": {"channel": "b", "data": 2}},
            ]
            body = msgspec.json.encode({"commands": commands, "parallel": parallel})
            result: Any = await calls.call("batch", body)
            replies = result.replies
            assert [list(reply) for reply in replies] == [["publish"], ["error"], ["publish"]]
            assert replies[1]["error"] == FAULT
            assert [(await node.broker.history(name)).top.offset for name in ("a", "b")] == [1, 1]
        assert "the command rpc in a batch" in caplog.text
        assert "a fault of the application" in caplog.text

    run(main())
