"""`tidewire run --reload`: starts the server again when a Python file of the folder has changed."""

from __future__ import annotations

import logging
import socket
import sys
from functools import partial

import msgspec
import uvicorn
from uvicorn.supervisors import ChangeReload

from tidewire.errors import TidewireError
from tidewire.server import logs
from tidewire.server.worker import serve
from tidewire.server.worker_job import Job

__all__ = ("serve_reloading",)

_log = logging.getLogger("tidewire")


def serve_reloading(job: Job, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT in a process of its own, replaced at each change that uvicorn's reloader sees."""
    settings = job.settings
    logs.configure(settings.log_level, format=settings.log_format)
    if "drain_seconds" not in job.limits:  # a developer does not wait for clients to drain
        limits = msgspec.structs.replace(settings.limits, drain_seconds=0.0)
        given = {**job.limits, "drain_seconds": 0.0}
        job = msgspec.structs.replace(job, settings=settings.model_copy(update={"limits": limits}), limits=given)
    config = uvicorn.Config(str(job.app), reload=True, log_config=None)
    ChangeReload(config, target=partial(_serve, job.encode()), sockets=[listener]).run()


def _serve(job: bytes, sockets: list[socket.socket]) -> None:
    try:
        serve(Job.decode(job), sockets[0], lambda: None)
    except TidewireError as error:
        _log.error("%s; it is tried again when a file has changed", error)
        sys.exit(2)
