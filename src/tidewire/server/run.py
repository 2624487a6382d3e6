"""Starts the server: checks what it needs, listens, and serves in this process or in several supervised ones."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from tidewire.errors import ConfigurationError
from tidewire.server import logs
from tidewire.server.settings import Settings
from tidewire.server.supervisor import Supervisor
from tidewire.server.worker import Job, serve

__all__ = ("run",)


def run(settings: Settings, *, app: str | None = None, announce: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT: the ready server, or the ASGI application `app` ("module:attribute").

    `announce` is given the URL as soon as it answers. Raises ConfigurationError or StartupFailed.
    """
    _raise_file_limit()
    job = Job(settings, app)
    listener = _listen(settings)
    url = _url(settings, listener)
    with listener:
        if settings.workers == 1:
            serve(job, listener, lambda: announce(url))
        else:
            logs.configure(settings.log_level)
            asyncio.run(_supervise(job, listener, lambda: announce(url)))


async def _supervise(job: Job, listener: socket.socket, ready: Callable[[], None]) -> None:
    await Supervisor(job, listener, ready).run()


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigurationError(f"host {host!r} cannot be resolved ({error.strerror}); use an address") from None
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(4_096)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_cannot_listen(error, host, port)) from None
    return listener


def _cannot_listen(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _url(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{listener.getsockname()[1]}"


def _raise_file_limit() -> None:
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
