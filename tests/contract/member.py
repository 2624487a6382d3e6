"""A member of a room, as a process of its own that can be frozen: it tells on stdout what happens to it.

    python member.py URL    (the token on stdin)

It joins, reads, comes back once with its position when it was cut off, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


def tell(**event: Any) -> None:
    """Say one thing."""
    print(json.dumps(event), flush=True)


async def visit(url: str, token: str, position: dict[str, Any]) -> dict[str, Any]:
    """Read until the connection ends, and return the position then."""
    since = "".join(f"&{name}={value}" for name, value in position.items())
    async with connect(
        url + since,
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        max_size=None,
        proxy=None,
    ) as socket:
        try:
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "history":
                    position["epoch"] = message["epoch"]
                    for old in message["messages"]:
                        position["since"] = old["offset"]
                    contents = [old["content"].split()[0] for old in message["messages"]]
                    tell(event="history", recovered=message.get("recovered"), contents=contents)
                elif message["type"] == "chat_message":
                    position["since"] = message["offset"]
                    tell(event="message", content=message["content"].split()[0])
        except ConnectionClosed:
            pass
        tell(event="closed", code=socket.close_code)
    return position


async def main() -> None:
    """Be a member."""
    token = sys.stdin.readline().strip()
    position = await visit(sys.argv[1], token, {})
    await visit(sys.argv[1], token, position)


asyncio.run(main())
