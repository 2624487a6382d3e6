"""A test's application while it runs: its workers, its store, its time and its clients."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.exceptions import HTTPException

from tidewire.engine.connection import Connection
from tidewire.errors import ConfigurationError, Disconnect, TidewireError
from tidewire.hub.hub import Hub
from tidewire.limits import Limits
from tidewire.messages import Position
from tidewire.rules.rule_authority import Decision, RuleAuthority
from tidewire.testing.dialing import Opening, opening
from tidewire.testing.http_client import http_client
from tidewire.testing.idleness import Idleness
from tidewire.testing.journal import Journal
from tidewire.testing.players import SocketClient
from tidewire.testing.simulated_store import SimulatedStore
from tidewire.testing.stage import Stage
from tidewire.testing.staged_worker import StagedWorker
from tidewire.testing.subscriber import Subscriber
from tidewire.testing.unfinished import unfinished
from tidewire.testing.virtual_time import VirtualTime
from tidewire.testing.wire_client import WireClient

__all__ = ("World",)


class _Errors(logging.Handler):
    """Collects the exceptions that the package logs: those of rules, of functions for calls, and its own."""

    def __init__(self, take: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None:
            self._take(error)


class World(Stage):
    """The world that `realtime(app)` gives a test: clients, workers, a store and a time that the test moves on."""

    def __init__(self, app: Any, *, workers: int, seed: int | None, factory: Callable[[], Any] | None) -> None:
        loop = asyncio.get_running_loop()
        self.journal = Journal(seed)
        #: The random numbers of the seed, for the test's own steps, too.
        self.chance = random.Random(seed)
        self._time = VirtualTime(loop)
        self._is_seeded = seed is not None
        self._make = factory or (lambda: app)
        self._count = workers
        self._idleness = Idleness(self._connections)
        #: The store of all workers.
        self.store = SimulatedStore(
            self._time.now,
            limits=Limits(),
            is_shared=workers > 1,
            chance=self.chance if self._is_seeded and workers > 1 else None,
        )
        self.store.on_published = self.journal.published
        #: The workers, killed ones included.
        self.workers: list[StagedWorker] = []
        #: Errors that handlers have raised and that the test has not got yet.
        self.errors: list[BaseException] = []
        self._seen: list[BaseException] = []
        self._logged = _Errors(self._failed)
        self._names = itertools.count(1)
        self._next = itertools.count()
        self._http: list[Any] = []
        self._authorities: list[RuleAuthority] = []

    # Its life.

    async def start(self) -> None:
        """Start every worker; raises the exceptions of their lifespans."""
        logging.getLogger("tidewire").addHandler(self._logged)
        try:
            for _ in range(self._count):
                await self.start_worker()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End every worker; raises the exceptions of their lifespans."""
        try:
            for client in self._http:
                await client.aclose()
            for worker in self.workers:
                if not worker.is_killed:
                    await worker.stop()
        finally:
            for authority in self._authorities:
                authority.on_decision = None
            logging.getLogger("tidewire").removeHandler(self._logged)

    async def start_worker(self) -> int:
        """Start one more worker, as a supervisor does for one that died; returns its number."""
        worker = StagedWorker(
            self._make(),
            len(self.workers),
            lambda number: (self.store.broker(number), self.store.presence()),
            on_activity=self._idleness.happened,
            on_error=self._failed,
        )
        self.workers.append(worker)
        await worker.start()
        for hub in worker.hubs:
            hub.authority.on_decision = self._decided
            self._authorities.append(hub.authority)
        return worker.number

    async def kill(self, worker: int = 0) -> None:
        """Kill a worker as `kill -9` does: its clients are cut, and its members leave when its lease has ended."""
        silenced = self.errors[:]
        await self._numbered(worker).kill()
        await self.settle_briefly()
        self.errors = silenced

    # Its clients.

    async def connect(
        self,
        path: str,
        *,
        user: str = "",
        name: str = "",
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        subprotocols: Iterable[str] = (),
        worker: int | None = None,
    ) -> SocketClient:
        """Connect to one of the application's WebSocket endpoints; raises HandshakeRefused.

        `user` is for `hub.connect` where the endpoint gives it none, and the result of `connected_user`.
        """
        chosen = opening(
            name or self._name(user),
            path,
            user=user,
            params=params,
            headers=headers,
            cookies=cookies,
            subprotocols=tuple(subprotocols),
            worker=worker,
            is_nameless=not name and not user,
        )
        client = SocketClient(self, chosen)
        await client.open()
        await self.settle()
        return client

    async def subscriber(
        self,
        *channels: str,
        user: str = "",
        name: str = "",
        path: str = "",
        hub: Hub | None = None,
        context: Any = None,
        history: bool = False,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        worker: int | None = None,
    ) -> Subscriber:
        """Subscribe to channels as the browser's client does, by the rules of the hub; raises CommandRefused.

        The test gives the `user`, and with `context` the value that rules get from the application's dependency. With a
        `path` ("/connection/websocket") it goes through the application's own route, which finds the user by itself.
        With `history`, earlier publications are read first.
        """
        if not channels:
            raise ConfigurationError('subscriber() names no channel; write rt.subscriber("room:1", user="bob")')
        if not path:
            first = next(found for found in self.workers if found.is_alive)
            path = first.place_of(hub or first.hub)
        chosen = opening(
            name or self._name(user),
            path,
            user=user,
            params=params,
            headers=headers,
            cookies=cookies,
            context=context,
            worker=worker,
        )
        client = Subscriber(self, chosen, channels, history=history)
        await client.open()
        await self.settle()
        return client

    def _name(self, user: str) -> str:
        return user or f"client {next(self._names)}"

    async def dial(
        self,
        opening: Opening,
        on_message: Callable[[str | bytes], None],
        on_closed: Callable[[Disconnect], None],
        on_user: Callable[[str], None],
    ) -> WireClient:
        worker = self._worker_of(opening)
        return await worker.connect(
            opening,
            lambda: WireClient(
                opening.path,
                headers=opening.headers,
                subprotocols=opening.subprotocols,
                on_message=on_message,
                on_closed=on_closed,
                on_activity=self._idleness.happened,
            ),
            on_user,
        )

    def _worker_of(self, opening: Opening) -> StagedWorker:
        alive = [worker for worker in self.workers if worker.is_alive]
        if not alive:
            raise ConfigurationError("no worker is alive; `await rt.start_worker()` starts one")
        if opening.worker is not None and self._numbered(opening.worker).is_alive:
            return self.workers[opening.worker]
        return self.chance.choice(alive) if self._is_seeded else alive[next(self._next) % len(alive)]

    def _numbered(self, worker: int) -> StagedWorker:
        try:
            return self.workers[worker]
        except IndexError:
            count = len(self.workers)
            message = (
                f"there is no worker {worker}: this application has {count}, from 0; write realtime(app, workers=…)"
            )
            raise ConfigurationError(message) from None

    # Acts of the application.

    @property
    def hub(self) -> Hub:
        """The first hub of the first worker that is alive."""
        return next(worker for worker in self.workers if worker.is_alive).hub

    async def publish(self, channel: str, data: Any, *, key: str = "") -> Position:
        """Publish as the application does, and wait until it was delivered."""
        position = await self.hub.publish(channel, data, key=key)
        await self.settle()
        return position

    @property
    def http(self) -> Any:
        """A client for the application's other routes: `await rt.http.post("/notify", json=…)`; it needs httpx."""
        if not self._http:
            self._http.append(http_client(lambda: next(worker for worker in self.workers if worker.is_alive).app))
        return self._http[0]

    # Its time.

    async def advance(self, seconds: float) -> None:
        """Advance the time by some seconds: pings, leases, expiry and history behave as if they had passed."""
        await self._time.advance(seconds, self._idleness.wait_quiet)
        await self.settle()

    async def settle(self) -> None:
        await self._idleness.wait()
        self.is_stuck = self._idleness.is_stuck

    async def settle_briefly(self) -> None:
        await self._idleness.wait_quiet()

    def unfinished(self) -> list[str]:
        return unfinished(self._idleness.working())

    def _connections(self) -> Iterable[Connection]:
        for worker in self.workers:
            for opened in worker.hubs.values():
                yield from opened.node.registry.connections.values()

    # Faults.

    def _decided(self, decision: Decision) -> None:
        self.journal.decided(decision)
        if decision.error is not None and not isinstance(decision.error, TidewireError | HTTPException):
            self._failed(decision.error)

    def _failed(self, error: BaseException) -> None:
        if all(error is not known for known in self._seen):
            self._seen.append(error)
            self.journal.add("failed", "", repr(error))
            self.errors.append(error)

    def raise_errors(self) -> None:
        if self.errors:
            error, self.errors = self.errors[0], []
            raise error

    async def expect_error(self, kind: type[BaseException] = Exception) -> BaseException:
        """Wait for the exception of a handler, and return it, so that it does not fail the test."""
        for _ in range(100):
            await self.settle_briefly()
            for error in self.errors:
                if isinstance(error, kind):
                    self.errors.remove(error)
                    return error
            await asyncio.sleep(0.01)
        raise AssertionError(f"no handler raised {kind.__name__}\n{self.journal.report('')}")
