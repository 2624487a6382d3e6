"""Files that users upload before they start a run: bounded, named by their content, kept for a day."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from tidewire.pipelines.errors import BadStart, NotFound, NotNow, TooBig
from tidewire.pipelines.naming import file_name

__all__ = ("Upload", "Uploads")

_SECONDS = 86_400.0
_ID = re.compile(r"u[0-9a-f]{40}")


class Upload(msgspec.Struct, frozen=True):
    """An uploaded file that waits for its run."""

    upload: str
    name: str
    size: int


class Uploads:
    """The folder of uploads; `count` is called with the name of each limit that is reached."""

    def __init__(self, folder: Path, *, size: int, most: int, count: Callable[[str], None]) -> None:
        self._folder = folder
        self._size = size
        self._most = most
        self._count = count

    async def save(self, name: str, chunks: AsyncIterator[bytes], *, user: str = "") -> Upload:
        """Write a user's file while it is received.

        Raises TooBig, BadStart, or NotNow when too many uploads wait or the disk is full.
        """
        await asyncio.to_thread(self._make_room)
        draft = self._folder / f".{secrets.token_hex(8)}"
        try:
            size, digest = await self._receive(draft, chunks)
            if not size:
                raise BadStart(f"upload {name[:80]!r} is empty; send the file as the body of the request")
            upload = Upload(f"u{digest[:40]}", file_name(name, "upload"), size)
            await asyncio.to_thread(self._keep, draft, upload, user)
            return upload
        except OSError as error:
            raise NotNow(f"the upload cannot be kept ({error.strerror}); free some space, or try again later") from None
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def _receive(self, draft: Path, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        with draft.open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._size:
                    self._count("upload_bytes")
                    raise TooBig(
                        f"an upload has at most {self._size} bytes (limit upload_bytes); use the folder of inputs"
                    )
                await asyncio.to_thread(_write, file.write, digest.update, chunk)
        return size, digest.hexdigest()

    def path(self, upload: str, *, user: str = "") -> Path:
        """Return the path of a user's upload. Raises NotFound."""
        if _ID.fullmatch(upload):
            for path in self._place(upload, user).glob("*"):
                return path
        raise NotFound(f"there is no upload {upload[:60]!r}; they are kept for a day, send the file again")

    def contains(self, path: Path) -> bool:
        """Return whether a file is an upload; a run moves its uploads into its own folder."""
        return path.parent.parent == self._folder.resolve()

    def _make_room(self) -> None:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        waiting = 0
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another request has just removed it
                if time.time() - path.stat().st_mtime > _SECONDS:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                else:
                    waiting += 1
        if waiting >= self._most:
            self._count("uploads")
            raise NotNow(f"{waiting} uploads wait for their runs already; start those first")

    def _place(self, upload: str, user: str) -> Path:
        """Return the folder of an upload. It depends on the user: knowing a file's hash gives no access to it."""
        return self._folder / f"u{hashlib.sha256(f'{user}/{upload}'.encode()).hexdigest()[:40]}"

    def _keep(self, draft: Path, upload: Upload, user: str) -> None:
        folder = self._place(upload.upload, user)
        folder.mkdir(mode=0o750, exist_ok=True)
        draft.rename(folder / upload.name)
        for other in folder.iterdir():
            if other.name != upload.name:
                other.unlink(missing_ok=True)


def _write(write: Callable[[bytes], object], update: Callable[[bytes], object], chunk: bytes) -> None:
    write(chunk)
    update(chunk)
