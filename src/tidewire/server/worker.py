"""One serving process: uvicorn on uvloop with a tuned garbage collector, started by `run` or by the supervisor.

A supervised worker writes to its channel: `=` and the seconds of its drain in a line, then `.` each second from its
event loop; or `!` and why it cannot start.
It ends itself when the channel ends, so that no worker outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import math
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.importer import ImportFromStringError, import_from_string
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tidewire.errors import ConfigurationError, TidewireError
from tidewire.hub.limit_precedence import SERVER_LIMITS
from tidewire.limits import Limits
from tidewire.links import first_request
from tidewire.links import uvicorn as websocket
from tidewire.links.acceptor import Acceptor
from tidewire.links.foreign_clients import ForeignClients
from tidewire.links.request_limit import RequestLimit
from tidewire.server import logs
from tidewire.server.direct_sockets import DirectSockets
from tidewire.server.load_faults import in_one_line, mistakes_in_one_line
from tidewire.server.settings import Settings
from tidewire.server.worker_job import CANNOT_START, MISCONFIGURED, ApplicationFailed, Job
from tidewire.support.networks import with_mapped
from tidewire.support.resident_memory import MemoryReturn
from tidewire.support.siblings import Siblings

__all__ = ("serve",)

_log = logging.getLogger("tidewire")

#: Seconds that the protocols, and after them the process, may take to end when the drain is over.
_CLOSING_SECONDS, _ENDING_SECONDS = 3, 4.5
#: Connections live long, so full collections are rare: with thousands of connections one takes longer than a turn of
#: the loop may. Collections of young objects take about a millisecond.
_GC_THRESHOLDS = (700, 2, 3_500)
#: Shorter than Python's default, so that the thread of a store soon gets its turn beside a busy event loop.
_SWITCH_SECONDS = 0.0005

#: Browsers that have connected by TLS use nothing else for half a year (RFC 6797).
_ONLY_TLS = ("Strict-Transport-Security", "max-age=15768000")

#: The address of a peer that has none.
_THIS_MACHINE = "127.0.0.1"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class _Application:
    """The application; keeps the reason if its lifespan fails, and ends the server if it fails while it serves."""

    def __init__(self, app: App, limits: Limits) -> None:
        self._app = app
        direct = DirectSockets(app) if isinstance(app, FastAPI) else app
        self._requests = RequestLimit(ForeignClients(direct), limits.connections_per_address)
        self.failure: TidewireError = ApplicationFailed("the application did not start; the log says why")
        #: Whether the lifespan has ended by itself, and what ends the server then.
        self.has_ended = False
        self.end: Callable[[], None] = lambda: None

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        return self._live(scope, receive, send) if scope["type"] == "lifespan" else self._requests(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        failed: list[Message] = []
        is_serving = False

        async def receive_and_note() -> Message:
            nonlocal is_serving
            message = await receive()
            is_serving = is_serving and message["type"] != "lifespan.shutdown"
            return message

        async def send_unless_failed(message: Message) -> None:
            nonlocal is_serving
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
                return
            is_serving = is_serving or message["type"] == "lifespan.startup.complete"
            await send(message)

        try:
            await self._app(scope, receive_and_note, send_unless_failed)
        except Exception as error:
            if failed and isinstance(error, TidewireError):
                self.failure = error
                # The caller reports it in one line; uvicorn would add a traceback and a line of its own.
                logging.getLogger("uvicorn.error").disabled = True
            elif failed:
                self.failure = ApplicationFailed(f"the application did not start: {in_one_line(error)}")
            elif is_serving:
                self._end(f": {in_one_line(error)}")
            raise
        else:
            if is_serving:
                self._end("")
        finally:
            for message in failed:
                await send(message)

    def _end(self, why: str) -> None:
        self.has_ended = True
        self.failure = ApplicationFailed(f"the application's lifespan ended while it served{why}")
        self.end()


class _Server(uvicorn.Server):
    """uvicorn's server with our acceptor; reports when it is ready, and ends in time even if something hangs."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], limits: Limits, what: str) -> None:
        super().__init__(config)
        self._ready = ready
        self._limits = limits
        self._what = what

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        if self.started:
            for listener in sockets or ():
                acceptor = Acceptor(asyncio.get_running_loop(), listener, self._protocol, self._limits, self.config.ssl)
                self.servers.append(cast(asyncio.Server, acceptor))
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            sys.setswitchinterval(_SWITCH_SECONDS)
            MemoryReturn(asyncio.get_running_loop())
            _log.info("serving %s", self._what)
            self._ready()

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol for one more connection, as uvicorn makes it."""
        make: Callable[..., asyncio.Protocol] = cast(Any, self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        last_resort = threading.Timer(self._limits.drain_seconds + _ENDING_SECONDS, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        _log.info("stopping: its connections end within %g s", self._limits.drain_seconds)
        await super().shutdown(sockets)
        _log.info("stopped")


def serve(job: Job, listener: socket.socket, ready: Callable[[], None], channel: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises TidewireError when it cannot start, or the application ends by itself."""
    settings = job.settings
    logs.configure(settings.log_level, format=settings.log_format, access=settings.access_log)
    SERVER_LIMITS.begin(job.limits)
    app = _load(job)
    settings = settings.model_copy(update={"limits": SERVER_LIMITS.of_links(settings.limits)})
    application = _Application(app, settings.limits)
    what = job.app or logs.redacted(settings.broker)
    server = _Server(_config(settings, application), ready, settings.limits, what)
    application.end = partial(server.handle_exit, signal.SIGTERM, None)
    for signum in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again after its end, for the previous handler: this one.
        signal.signal(signum, server.handle_exit)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            Siblings.of(runner.get_loop()).workers = settings.workers
            runner.run(_serve(server, listener, channel, settings.limits.drain_seconds))
    except SystemExit:
        raise application.failure from None
    finally:
        SERVER_LIMITS.end()
    if application.has_ended:
        raise application.failure


async def _serve(server: _Server, listener: socket.socket, channel: socket.socket | None, drain_seconds: float) -> None:
    if channel is None:
        await server.serve(sockets=[listener])
        return
    channel.sendall(b"=%f\n" % drain_seconds)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(_beat(server, channel))
        try:
            await server.serve(sockets=[listener])
        finally:
            beating.cancel()


async def _beat(server: _Server, channel: socket.socket) -> None:
    def listen() -> None:
        with contextlib.suppress(OSError):
            if channel.recv(64):
                return
        asyncio.get_running_loop().remove_reader(channel)
        server.handle_exit(signal.SIGTERM, None)

    channel.setblocking(False)
    asyncio.get_running_loop().add_reader(channel, listen)
    while True:
        if server.started:
            with contextlib.suppress(OSError):
                channel.send(b".")
        await asyncio.sleep(1 if server.started else 0.02)


def _load(job: Job) -> App:
    if job.app is None:
        from tidewire.server.app import create_app

        return create_app(job.settings)
    sys.path.insert(0, os.getcwd())
    with mistakes_in_one_line(job.app):
        app = _named(job.app)
        if _is_factory(app):
            app = cast(Callable[[], App], app)()
    if not callable(app) or _needs_no_scope(app):
        kind = (
            "a function or class that is no application; an application's factory is a plain function without arguments"
        )
        what = kind if callable(app) else f"{type(app).__name__}, not an ASGI application"
        raise ConfigurationError(f"{job.app} is {what}")
    return app


def _named(path: str) -> App:
    try:
        found: App = import_from_string(path)
    except (ImportFromStringError, TypeError) as error:
        if isinstance(error, TypeError) and not path.startswith("."):
            raise  # of the module itself
        reason = str(error).splitlines()[0].rstrip(".")
        module, _, name = path.partition(":")
        remedy = "write it as main:app, in the folder that holds main.py"
        if name and module in sys.modules:
            remedy = f"name the application that {module} has, or write `{name} = FastAPI(lifespan=hub.lifespan)` there"
        raise ConfigurationError(f"{path} cannot be loaded ({reason}); {remedy}") from None
    return found


def _needs_no_scope(app: object) -> bool:
    """Return whether a function or class cannot be called as ASGI calls it: with scope, receive and send."""
    if not inspect.isroutine(app) and not inspect.isclass(app):
        return False
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False


def _is_factory(found: object) -> bool:
    """Return whether a function makes the application: it can be called without arguments."""
    function = found.func if isinstance(found, partial) else found
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        return False
    return all(
        parameter.default is not parameter.empty
        for parameter in inspect.signature(cast(Callable[..., object], found)).parameters.values()
    )


class _UnixPeers:
    """Takes a client that comes by a Unix socket for this machine: a proxy on it, which says where its clients are."""

    def __init__(self, app: App, trusted: list[str]) -> None:
        trusted = trusted if trusted == ["*"] else [*trusted, _THIS_MACHINE]
        self._app: App = cast(Any, ProxyHeadersMiddleware(cast(Any, app), trusted))

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        scope["client"] = (_THIS_MACHINE, 0)
        return self._app(scope, receive, send)


def _config(settings: Settings, app: _Application) -> uvicorn.Config:
    trusted = with_mapped(settings.trusted_proxies)
    config = uvicorn.Config(
        app if settings.uds is None else _UnixPeers(app, trusted),
        **_protocols(settings),
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        workers=1,
        backlog=4_096,
        proxy_headers=settings.uds is None,
        forwarded_allow_ips=trusted,
        timeout_graceful_shutdown=math.ceil(settings.limits.drain_seconds) + _CLOSING_SECONDS,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        headers=[] if settings.tls_cert is None or settings.is_loopback else [_ONLY_TLS],
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used ({error}); "
            "give a PEM certificate chain and its unencrypted private key"
        ) from None
    return config


def _protocols(settings: Settings) -> dict[str, Any]:
    return {
        "http": first_request.configured(settings.limits),
        "ws": websocket.configured(settings.limits, deflate=settings.deflate),
        "ws_max_size": settings.limits.message_size,
    }


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _reported(channel: socket.socket) -> Iterator[None]:
    try:
        yield
    except TidewireError as error:
        channel.setblocking(True)
        channel.sendall(b"!" + str(error).encode())
        sys.exit(MISCONFIGURED if isinstance(error, ConfigurationError) else CANNOT_START)


def main() -> None:
    """Run as a supervised worker; the arguments are the descriptors of its channel and of the listening socket."""
    channel, listener = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:3])
    with channel, listener, channel.makefile("rb") as lines:
        job = Job.decode(lines.readline())
        with _reported(channel):
            serve(job, listener, lambda: None, channel)


if __name__ == "__main__":
    main()
