"""One worker of a test: an application, its lifespan, and the connections that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, cast

from fastapi import FastAPI
from starlette.authentication import SimpleUser
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect
from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.backends.base import Broker, Presence
from tidewire.backends.checked import CheckedBroker, CheckedPresence
from tidewire.errors import ConfigurationError, ConnectionClosed
from tidewire.hub.hosting import HOST, Host, Opened
from tidewire.hub.hub import Hub
from tidewire.limits import Limits
from tidewire.links import first_request, uvicorn
from tidewire.rules.base import Identity
from tidewire.testing.dialing import Opening
from tidewire.testing.simulated_presence import SimulatedPresence
from tidewire.testing.wire_client import WireClient

__all__ = ("StagedWorker", "Stores", "connected_user")

Stores = Callable[[int], tuple[Broker, SimulatedPresence]]
#: The path for subscribers whose user the test gives, beside the application's own routes.
SUBSCRIBERS = "/-tidewire-testing"
#: Seconds for the endpoints of clients that were cut, before they are cancelled.
_ENDING_SECONDS = 0.3


class _Hosted(Host):
    """The part of one worker, or of one of its connections, in every hub that the application opens."""

    def __init__(
        self, worker: StagedWorker, opening: Opening | None = None, on_user: Callable[[str], None] | None = None
    ) -> None:
        self._worker = worker
        self._on_user = on_user
        self.opening = opening
        self.user = "" if opening is None else opening.user

    @property
    def worker(self) -> StagedWorker:
        return self._worker

    def connecting(self, user: str) -> str:
        if user and self._on_user is not None:
            self._on_user(user)
        return super().connecting(user)

    def open_store(self, url: str, limits: Limits) -> tuple[Broker, Presence]:
        broker, presence = self._worker.open_store()
        return CheckedBroker(broker), CheckedPresence(presence)

    def opened(self, hub: object, opened: Opened) -> Opened:
        assert isinstance(hub, Hub)
        self._worker.hubs[hub] = opened
        return _Everywhere.of(hub)

    def closing(self, hub: object) -> tuple[Opened | None, Opened | None]:
        assert isinstance(hub, Hub)
        opened = self._worker.hubs.pop(hub, None)
        return opened, _Everywhere.without(hub, self._worker)


class _Everywhere:
    """The open parts of a hub in each worker of a test; each caller gets those of its own worker."""

    _known: dict[Hub, list[StagedWorker]] = {}

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @classmethod
    def of(cls, hub: Hub) -> _Everywhere:
        host = HOST.get()
        assert isinstance(host, _Hosted)
        cls._known.setdefault(hub, []).append(host.worker)
        return cls(hub)

    @classmethod
    def without(cls, hub: Hub, worker: StagedWorker) -> _Everywhere | None:
        workers = cls._known.get(hub, [])
        if worker in workers:
            workers.remove(worker)
        if workers:
            return cls(hub)
        cls._known.pop(hub, None)
        return None

    @property
    def _own(self) -> Opened:
        host = HOST.get()
        workers = self._known[self._hub]
        worker = host.worker if isinstance(host, _Hosted) and host.worker in workers else workers[0]
        return worker.hubs[self._hub]

    @property
    def node(self) -> Any:
        return self._own.node

    @property
    def nodes(self) -> Any:
        return self._own.nodes

    @property
    def loop(self) -> Any:
        return self._own.loop

    @property
    def threads(self) -> Any:
        return self._own.threads

    @property
    def revocations(self) -> Any:
        return self._own.revocations

    @property
    def streams(self) -> Any:
        return self._own.streams


class StagedWorker:
    """Runs an application in this process: its lifespan, and uvicorn's protocols over pairs of sockets."""

    def __init__(
        self,
        app: Any,
        number: int,
        stores: Stores,
        *,
        on_activity: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.app = app
        self.number = number
        self._stores = stores
        self._presences: list[SimulatedPresence] = []
        self.hubs: dict[Hub, Opened] = {}
        self.is_alive = False
        #: Calls of the application that do not wait for their clients.
        self.is_killed = False
        self._on_activity = on_activity
        self._on_error = on_error
        self._context: Context | None = None
        self._state: dict[str, Any] = {}
        self._ended = asyncio.Event()
        self._lifespan: asyncio.Task[None] | None = None
        self._server = ServerState()
        self._config: Config | None = None
        self._subscribers: FastAPI | None = None
        self._sockets: list[asyncio.Transport] = []

    @property
    def hub(self) -> Hub:
        """The first hub that the application has opened."""
        if not self.hubs:
            raise ConfigurationError(
                "the application has opened no hub; write FastAPI(lifespan=hub.lifespan), or open it in your lifespan"
            )
        return next(iter(self.hubs))

    def open_store(self) -> tuple[Broker, Presence]:
        """Make the broker and the presence of a hub."""
        broker, presence = self._stores(self.number)
        self._presences.append(presence)
        return broker, presence

    # Its life.

    async def start(self) -> None:
        """Run the lifespan until it has started; raises its exceptions."""
        context = copy_context()
        context.run(HOST.set, _Hosted(self))
        self._context = context
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lifespan = asyncio.get_running_loop().create_task(self._live(started), context=context)
        await started
        limits = next(iter(self.hubs)).limits if self.hubs else Limits()
        self._config = Config(
            cast(Any, self._call),
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            access_log=False,
            http=cast(Any, first_request.configured(limits)),
            ws=cast(Any, uvicorn.configured(limits)),
        )
        self._config.load()
        self._subscribers = self._mounted()
        self.is_alive = True

    async def _live(self, started: asyncio.Future[None]) -> None:
        """Speak the lifespan protocol (ASGI specification, lifespan)."""
        asked = [{"type": "lifespan.startup"}]

        async def receive() -> Any:
            if asked:
                return asked.pop()
            await self._ended.wait()
            return {"type": "lifespan.shutdown"}

        async def send(event: Any) -> None:
            if event["type"] == "lifespan.startup.complete" and not started.done():
                started.set_result(None)

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            elif not self.is_killed:
                raise
        else:
            if not started.done():  # an application without a lifespan
                started.set_result(None)

    async def stop(self) -> None:
        """Drain as a server does, then end the lifespan; raises its exceptions."""
        self.is_alive = False
        for transport in self._sockets:
            transport.abort()
        self._ended.set()
        if self._lifespan is not None:
            lifespan, self._lifespan = self._lifespan, None
            await self._gone()
            opened = tuple(self.hubs.values())
            while not lifespan.done():
                await asyncio.wait((lifespan,), timeout=_ENDING_SECONDS)
                for one in opened:
                    if not one.node.is_open:  # it waits for handlers of commands, which may never end
                        await one.node.tasks.aclose(0.0)
            await lifespan

    async def kill(self) -> None:
        """End as a killed process does: it closes and writes nothing, and its lease expires."""
        self.is_alive, self.is_killed = False, True
        for presence in self._presences:
            presence.die()
        for opened in self.hubs.values():
            await opened.node.broker.aclose()
            await opened.node.tasks.aclose(0.0)
        for transport in self._sockets:
            transport.abort()
        for task in tuple(self._server.tasks):
            task.cancel()
        if self._lifespan is not None:
            self._lifespan.cancel()
            with contextlib.suppress(BaseException):
                await self._lifespan
        for hub in tuple(self.hubs):
            self.hubs.pop(hub)
            _Everywhere.without(hub, self)

    async def _gone(self) -> None:
        """Wait until the endpoints of the clients that were cut have ended."""
        tasks = [task for task in self._server.tasks if not task.done()]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_ENDING_SECONDS)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)

    # Its clients.

    async def connect(
        self, opening: Opening, make: Callable[[], WireClient], on_user: Callable[[str], None]
    ) -> WireClient:
        """Connect a client over a pair of sockets; raises HandshakeRefused."""
        assert self._config is not None
        assert self._context is not None
        context = self._context.copy()
        context.run(HOST.set, _Hosted(self, opening, on_user))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_task(loop.connect_accepted_socket(self._protocol, ours), context=context)
        self._sockets.append(transport)
        _, client = await loop.connect_accepted_socket(make, theirs)
        await client.opened
        return client

    def _protocol(self) -> asyncio.Protocol:
        assert self._config is not None
        made: asyncio.Protocol = cast(Any, self._config.http_protocol_class)(
            config=self._config, server_state=self._server, app_state=self._state
        )
        return made

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application for one connection; the test gets its exceptions."""
        host = HOST.get()
        if isinstance(host, _Hosted) and host.user:
            scope["user"] = SimpleUser(host.user)
        self._on_activity()
        app = self.app
        if scope["path"].startswith(SUBSCRIBERS) and self._subscribers is not None:
            app = self._subscribers
            app.dependency_overrides = getattr(self.app, "dependency_overrides", {})
        try:
            await app(scope, receive, send)
        except (ConnectionClosed, WebSocketDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            self._on_error(error)
            raise
        finally:
            self._on_activity()

    def _mounted(self) -> FastAPI | None:
        """Return the application that serves subscribers whose user the test gives."""
        if not self.hubs:
            return None
        app = FastAPI()
        for number, hub in enumerate(self.hubs):
            app.include_router(hub.client_router(user=_given), prefix=f"{SUBSCRIBERS}/{number}")
        return app

    def place_of(self, hub: Hub) -> str:
        """Return the path for subscribers of a hub."""
        return f"{SUBSCRIBERS}/{list(self.hubs).index(hub)}/connection/websocket"


async def _given(connection: HTTPConnection) -> Identity | None:
    """Return the user that the test has given the connection."""
    host = HOST.get()
    opening = host.opening if isinstance(host, _Hosted) else None
    return None if opening is None else Identity(opening.user, context=opening.context)


def connected_user() -> str:
    """Return the `user=` of the client that a test connects: a dependency for `app.dependency_overrides`."""
    host = HOST.get()
    return host.user if isinstance(host, _Hosted) else ""
