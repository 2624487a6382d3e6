"""Python: prints what the bell of a user rings, in twenty lines. `python python_client.py [USER] [ADDRESS]`."""

import asyncio
import sys

from tidewire.client import Client


async def main(user: str = "ann", address: str = "ws://127.0.0.1:8000") -> None:
    async with Client(f"{address}/connection/websocket?name={user}") as client:
        bell = client.subscribe(f"bell:{user}")
        await bell.wait_subscribed()
        print(f"listening for {user}", flush=True)
        async for notification in bell:
            print(notification.data["title"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
