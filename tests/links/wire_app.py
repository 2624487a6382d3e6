"""A server process to test the uvicorn link: `python -m tests.links.wire_app '{"limits": {…}}'` prints its port."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
import uvicorn

from tidewire.errors import Disconnect
from tidewire.limits import Limits
from tidewire.links import first_request
from tidewire.links import uvicorn as ws_class
from tidewire.links.asgi import AsgiLink
from tidewire.links.base import Link
from tidewire.links.listener import listening_socket
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.support.counters import LimitCounter

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

#: What listeners and endpoints were told, in order.
events: list[Any] = []
links: dict[str, Listener] = {}
limits = Limits()
background: set[asyncio.Task[None]] = set()


class Listener:
    """Echoes through the link, says what it is told, and can write to all of its group."""

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self.name = name
        links[name] = self

    def message_received(self, message: str | bytes) -> None:
        if message == "raise":
            raise ValueError("a bug in the listener")
        if message == "close":
            self.write("last")
            self.link.close(4001, "bye " + "é" * 100)
            self.write("never seen")
        elif message == "abort":
            self.link.abort()
        elif message == "pause":
            self.link.pause_reading()
            asyncio.get_running_loop().call_later(1.0, self.link.resume_reading)
            self.write("paused")
        elif message == "halt":
            self.link.pause_reading()
            self.write("halted")
        elif message == "flood":
            background.add(asyncio.create_task(self.flood()))
        elif message == "trickle":
            background.add(asyncio.create_task(self.trickle()))
        elif message == "much":
            self.link.write(Batch([WireMessage(b"x" * 16_384)] * 192))
        else:
            self.write(message)

    def write(self, message: str | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        deflate = self.link.deflate
        self.link.write(Batch([WireMessage(data, binary=isinstance(message, bytes))], deflate=deflate))

    async def flood(self) -> None:
        batch = Batch([WireMessage(b"x" * 16_384)])
        while not self.link.is_closed:
            await self.link.wait_drained()
            self.link.write(batch)
            await asyncio.sleep(0)

    async def trickle(self) -> None:
        batch = Batch([WireMessage(b"x" * 8)])
        while not self.link.is_closed:
            self.link.write(batch)
            await asyncio.sleep(0.001)

    def refuse(self, kind: str, why: str) -> None:
        pass

    def shut_down(self) -> None:
        self.link.close(1012, "service restart")

    def drained(self) -> None:
        events.append([self.name, "drained"])

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        del links[self.name]
        events.append([self.name, disconnect.code, disconnect.reason, clean])


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await http(scope, receive, send)
    else:
        name = scope["path"].strip("/").replace("/", "_") or "echo"
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        await globals()["ws_" + name](scope, receive, send, query)


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print(json.dumps(events), flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def http(scope: Event, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    answer: Any = len(body)
    if scope["path"] == "/stats":
        answer = {
            "events": events,
            "links": sorted(links),
            "limits": LimitCounter.of(asyncio.get_running_loop()).reached,
            "rss": _rss(),
        }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    if scope["path"] == "/endless":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        events.append(["endless", (await receive())["type"]])
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def _rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


async def ws_echo(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            events.append([query.get("name", "echo"), event["code"], event.get("reason")])
            if "send" in query:
                try:
                    await send({"type": "websocket.send", "text": "too late"})
                except OSError as error:
                    events.append(["send", type(error).__name__])
            return
        await send({**event, "type": "websocket.send"})


async def ws_link(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    if "wait" in query:
        await asyncio.sleep(float(query["wait"]))
    link = scope["extensions"].get("tidewire.link") or AsgiLink(receive, send, limits)
    link.listen(Listener(link, query.get("name", "link")))
    if "stay" in query:
        events.append([await receive()])
    else:
        await link.keep_open()


async def ws_flood(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    sent = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(65_536)})
            sent += 1
    except OSError as error:
        events.append(["flood", sent, type(error).__name__])


async def ws_deaf(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    """Accept, and read nothing until the name is given in a message of another connection."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(float(query.get("seconds", "2")))
    received = 0
    while (event := await receive())["type"] == "websocket.receive":
        received += 1
    events.append(["deaf", received, event["code"]])


async def ws_subprotocol(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    chosen = "chat" if "chat" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-own", b"yes")]})
    await send({"type": "websocket.send", "text": json.dumps(scope["subprotocols"])})


async def ws_scope(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    told = {key: scope[key] for key in ("type", "scheme", "path", "http_version", "client", "server", "root_path")}
    told["raw_path"], told["query_string"] = scope["raw_path"].decode(), scope["query_string"].decode()
    told["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    told["extensions"] = sorted(scope["extensions"])
    await send({"type": "websocket.send", "text": json.dumps(told)})


async def ws_deny(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no token")]})
    await send({"type": "websocket.http.response.body", "body": b"log ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"in"})
    events.append([(await receive())["type"]])


async def ws_reject(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def ws_early(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    """Close the link before the handshake is answered."""
    scope["extensions"]["tidewire.link"].close(1008)
    await receive()
    events.append(["early", (await receive())["type"]])


async def ws_hesitate(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    event = await receive()
    events.append(["hesitate", event["type"], event.get("code")])


async def ws_crash(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    if "accept" in query:
        await send({"type": "websocket.accept"})
    raise ValueError("a bug in the application")


async def ws_return(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    if "accept" in query:
        await send({"type": "websocket.accept"})


async def ws_close(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "before"})
    await send({"type": "websocket.close", "code": int(query["code"]), "reason": "so"})
    try:
        await send({"type": "websocket.send", "text": "after"})
    except RuntimeError as error:
        events.append(["close", str(error)])
    events.append(["close", (await receive())["code"]])


async def ws_all(scope: Event, receive: Receive, send: Send, query: dict[str, str]) -> None:
    """Every message goes to every link in one batch of ten."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        for deflate in (False, True):
            batch = Batch([WireMessage(f"{event['text']} {number}".encode()) for number in range(10)], deflate=deflate)
            for listener in links.values():
                if listener.link.deflate is deflate:
                    listener.link.write(batch)


def main() -> None:
    global limits
    options = json.loads(sys.argv[1])
    limits = msgspec.convert(options.get("limits", {}), Limits)
    deflate = options.get("deflate", False)
    uvicorn_options = {"lifespan": "on", "loop": "uvloop", "access_log": False, **options.get("uvicorn", {})}
    uvicorn_options.setdefault("timeout_graceful_shutdown", int(limits.drain_seconds) + 3)
    listener = listening_socket("127.0.0.1", 0, 1_024)
    config = uvicorn.Config(
        app,
        http=first_request.configured(limits),
        ws=options.get("ws")
        or ws_class.configured(limits, deflate=deflate, close_seconds=options.get("close_seconds", 5.0)),
        **uvicorn_options,
    )
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
