"""Starts the server: listens, and serves in this process or in several supervised ones."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tidewire.errors import ConfigurationError
from tidewire.links.listener import listening_socket, unix_listener
from tidewire.server import logs
from tidewire.server.settings import Settings
from tidewire.server.supervisor import Supervisor
from tidewire.server.worker_job import Job

__all__ = ("run",)


def run(
    settings: Settings,
    *,
    app: str | None = None,
    limits: Mapping[str, float] | None = None,
    reload: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT: the ready server, or the ASGI application `app` ("module:attribute").

    `limits` are those of the settings, which take precedence over those of the application's hubs. With `reload` it is
    started again when a Python file of the folder has changed. `announce` is given the URL, or `unix:` and the path of
    its socket, as soon as it answers. Raises TidewireError when it cannot start.
    """
    if reload and settings.workers != 1:
        raise ConfigurationError(f"--reload is for one worker, not {settings.workers}; write --workers 1")
    _raise_file_limit()
    job = Job(settings, app, limits or {})
    with _listener(settings) as listener:
        url = _url(settings, listener)
        if reload:
            from tidewire.server.reloading import serve_reloading

            announce(url)
            serve_reloading(job, listener)
        elif settings.workers == 1:
            from tidewire.server.worker import serve  # with all that an application needs, and a supervisor does not

            serve(job, listener, lambda: announce(url))
        else:
            logs.configure(settings.log_level, format=settings.log_format)
            asyncio.run(_supervise(job, listener, lambda: announce(url)))


async def _supervise(job: Job, listener: socket.socket, ready: Callable[[], None]) -> None:
    await Supervisor(job, listener, ready).run()


def _listener(settings: Settings) -> AbstractContextManager[socket.socket]:
    if settings.uds is not None:
        return unix_listener(settings.uds)
    return listening_socket(settings.host, settings.port, seconds=settings.limits.stalled_seconds)


def _url(settings: Settings, listener: socket.socket) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
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
