"""An answer with a file that a program may write, shorten, replace or remove while it is sent."""

from __future__ import annotations

import mimetypes
import os
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from tidewire.pipelines.errors import NotFound

__all__ = ("ResultResponse", "open_inside")

_INSIDE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Sent(Exception):
    """Ends an answer: everything that was announced is sent, or its reader has lost the right to read it."""


def open_inside(path: Path, within: Path) -> int:
    """Open a file below a folder, even if its name is replaced by a link meanwhile. Raises NotFound."""
    try:
        *folders, name = path.resolve(strict=True).relative_to(within.resolve()).parts
        here = os.open(within, _INSIDE | os.O_DIRECTORY)
        for part, flags in (*((folder, os.O_DIRECTORY) for folder in folders), (name, os.O_NONBLOCK)):
            outer = here
            try:
                here = os.open(part, _INSIDE | flags, dir_fd=outer)
            finally:
                os.close(outer)
    except (OSError, ValueError, RuntimeError):
        raise NotFound(f"result {path.name[:200]!r} has just changed; ask for it again") from None
    if stat.S_ISREG(os.fstat(here).st_mode):
        return here
    os.close(here)
    raise NotFound(f"result {path.name[:200]!r} is no file any more")


class ResultResponse(FileResponse):
    """Sends a file, or ranges of it, with the size that it had when it was opened; closes its descriptor.

    `look` is called every so many seconds; when it raises HTTPException, the answer breaks off.
    """

    def __init__(
        self,
        opened: int,
        name: str,
        headers: Mapping[str, str],
        *,
        filename: str | None,
        look: Callable[[], Awaitable[None]],
        seconds: float,
    ) -> None:
        self._opened = opened
        self._look = look
        self._seconds = seconds
        facts = os.fstat(opened)
        self._size = facts.st_size
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        super().__init__(f"/dev/fd/{opened}", 200, headers, kind, filename=filename, stat_result=facts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the announced bytes; if the file has become shorter, the answer breaks off, which its reader notices."""
        left, looked = 0, time.monotonic()

        async def send_announced(message: Message) -> None:
            nonlocal left, looked
            if message["type"] == "http.response.start":
                left = int(Headers(raw=message["headers"]).get("content-length", "0"))
                await send(message)
                return
            if time.monotonic() - looked > self._seconds:
                await self._look()
                looked = time.monotonic()
            body = message.get("body", b"")[:left]
            left -= len(body)
            if left and not message.get("more_body", False):
                raise _Sent
            await send({**message, "body": body, "more_body": left > 0})
            if not left:
                raise _Sent

        try:
            await super().__call__(scope, receive, send if scope["method"] == "HEAD" else send_announced)
        except (_Sent, HTTPException):
            pass
        except RuntimeError:
            if os.fstat(self._opened).st_size >= self._size:
                raise
        finally:
            os.close(self._opened)
