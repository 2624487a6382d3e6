"""Drives the published centrifuge-python: a command a line comes in, an event a line goes out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any

from centrifuge import CentrifugeError, Client, ClientEventHandler, DeltaType, SubscriptionEventHandler
from centrifuge.exceptions import ReplyError
from centrifuge.types import StreamPosition

protocol, base = sys.argv[1:3]
questions: deque[asyncio.Future[str]] = deque()


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def encoded(data: Any) -> Any:
    return json.dumps(data).encode() if protocol == "protobuf" else data


def decoded(data: Any) -> Any:
    return json.loads(data) if protocol == "protobuf" else data


async def ask_token(channel: str = "") -> str:
    question: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    questions.append(question)
    say("token", channel=channel)
    return await question


class Events(ClientEventHandler):  # type: ignore[misc]
    async def on_connected(self, ctx: Any) -> None:
        say("connected")

    async def on_connecting(self, ctx: Any) -> None:
        say("connecting", code=ctx.code)

    async def on_disconnected(self, ctx: Any) -> None:
        say("disconnected", code=ctx.code)

    async def on_subscribed(self, ctx: Any) -> None:
        say("subscribed", channel=ctx.channel, wasRecovering=ctx.was_recovering, recovered=ctx.recovered)

    async def on_publication(self, ctx: Any) -> None:
        say("publication", channel=ctx.channel, data=decoded(ctx.pub.data))


class ChannelEvents(SubscriptionEventHandler):  # type: ignore[misc]
    def __init__(self, channel: str) -> None:
        self.channel = channel

    async def on_subscribed(self, ctx: Any) -> None:
        data = decoded(ctx.data) if ctx.data else None
        say("subscribed", channel=self.channel, wasRecovering=ctx.was_recovering, recovered=ctx.recovered, data=data)

    async def on_unsubscribed(self, ctx: Any) -> None:
        say("unsubscribed", channel=self.channel, code=ctx.code)

    async def on_publication(self, ctx: Any) -> None:
        say("publication", channel=self.channel, data=decoded(ctx.pub.data))

    async def on_join(self, ctx: Any) -> None:
        say("join", channel=self.channel, user=ctx.info.user)


class Driver:
    def __init__(self) -> None:
        self.client: Any = None
        self.subscriptions: dict[str, Any] = {}

    async def obey(self, command: dict[str, Any]) -> None:
        if "token" in command:
            questions.popleft().set_result(command["token"])
            return
        try:
            value = await getattr(self, command.pop("do"))(**command)
        except (ReplyError, CentrifugeError) as error:
            say("error", code=getattr(error, "code", 0))
        else:
            if value is not None:
                say("result", value=value[0])

    async def connect(self, asksToken: bool = False) -> None:
        options: dict[str, Any] = {"get_token": ask_token} if asksToken else {}
        address = f"ws://{base}/connection/websocket"
        self.client = Client(
            address, Events(), use_protobuf=protocol == "protobuf", max_reconnect_delay=0.5, proxy=None, **options
        )
        await self.client.connect()

    async def subscribe(
        self, channel: str, delta: bool = False, asksToken: bool = False, since: dict[str, Any] | None = None
    ) -> None:
        options: dict[str, Any] = {"delta": DeltaType.FOSSIL} if delta else {}
        if asksToken:
            options["get_token"] = ask_token
        if since is not None:

            async def get_state(channel: str) -> StreamPosition:
                say("state")
                return StreamPosition(since["offset"], since["epoch"])

            options["get_state"] = get_state
        subscription = self.client.new_subscription(channel, ChannelEvents(channel), **options)
        self.subscriptions[channel] = subscription
        await subscription.subscribe()

    async def unsubscribe(self, channel: str) -> None:
        await self.subscriptions[channel].unsubscribe()

    async def publish(self, channel: str, data: Any) -> list[Any]:
        await self.client.publish(channel, encoded(data))
        return [None]

    async def presence(self, channel: str) -> list[Any]:
        return [[info.user for info in (await self.client.presence(channel)).clients.values()]]

    async def stats(self, channel: str) -> list[Any]:
        found = await self.client.presence_stats(channel)
        return [[found.num_clients, found.num_users]]

    async def history(self, channel: str, limit: int) -> list[Any]:
        found = await self.client.history(channel, limit=limit)
        return [[decoded(publication.data) for publication in found.publications]]

    async def rpc(self, method: str, data: Any) -> list[Any]:
        return [decoded((await self.client.rpc(method, encoded(data))).data)]


async def main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    driver, tasks = Driver(), set()
    async for line in reader:
        task = asyncio.create_task(driver.obey(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


asyncio.run(main())
