"""Files that users upload before they start a run: bounded, known by their content, kept for a day."""

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
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.naming import file_name

__all__ = ("Upload", "Uploads")

_SECONDS = 86_400.0
_ID = re.compile(r"u[0-9a-f]{24}")


class Upload(msgspec.Struct, frozen=True):
    """An uploaded file that waits for its run."""

    upload: str
    name: str
    size: int


class Uploads:
    """The folder of uploads, `USER/ID-CONTENT/NAME`; `count` is called with the name of each limit that is reached."""

    def __init__(self, folder: Path, limits: PipelineLimits, *, count: Callable[[str], None]) -> None:
        self._folder = folder
        self._limits = limits
        self._count = count
        self._lock = asyncio.Lock()

    async def save(self, name: str, chunks: AsyncIterator[bytes], *, user: str = "", size: int = 0) -> Upload:
        """Write a user's file while it is received; `size` is the size that the client has announced, 0 if none.

        Raises TooBig, BadStart, or NotNow when too many uploads wait or the disk is full.
        """
        self._check_size(size)
        draft: Path | None = None
        try:
            async with self._lock:
                draft = await asyncio.to_thread(self._new_draft, user)
            size, digest = await self._receive(draft, chunks)
            if not size:
                raise BadStart(f"upload {name[:80]!r} is empty; send the file as the body of the request")
            upload = Upload(f"u{secrets.token_hex(12)}", file_name(name, "upload"), size)
            folder = draft.with_name(f"{upload.upload}-{digest}")
            await asyncio.to_thread(_keep, draft, folder, upload.name)
            return upload
        except OSError as error:
            raise NotNow(f"the upload cannot be kept ({error.strerror}); free some space, or try again later") from None
        finally:
            if draft is not None:
                await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def _receive(self, draft: Path, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        with draft.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                self._check_size(size)
                await asyncio.to_thread(_write, file.write, digest.update, chunk)
        return size, digest.hexdigest()

    def _check_size(self, size: int) -> None:
        most = self._limits.upload_bytes
        if size > most:
            self._count("upload_bytes")
            raise TooBig(f"an upload has at most {most} bytes (limit upload_bytes); use the folder of inputs")

    def path(self, upload: str, *, user: str = "") -> Path:
        """Return the path of a user's upload. Raises NotFound."""
        if _ID.fullmatch(upload):
            for path in self._of_user(user).glob(f"{upload}-*/*"):
                return path
        raise NotFound(
            f"there is no upload {upload[:60]!r}; a run takes its uploads, and others are kept for a day: "
            "send the file again"
        )

    def contains(self, path: Path) -> bool:
        """Return whether a file is an upload; a run moves its uploads into its own folder."""
        return path.parent.parent.parent == self._folder.resolve()

    def identity(self, path: Path) -> str:
        """Return an identity that is equal for two uploads of a user with the same name and content."""
        return f"{path.parent.parent.name}/{path.parent.name.partition('-')[2]}/{path.name}"

    def _new_draft(self, user: str) -> Path:
        """Remove uploads that are too old, and return a new file for a user. Raises NotNow when too many wait."""
        mine = self._of_user(user)
        mine.mkdir(mode=0o750, parents=True, exist_ok=True)
        waiting = own = 0
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another request has just removed it
                if time.time() - path.stat().st_mtime > _SECONDS:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                else:
                    waiting += 1
                    own += path.parent == mine
        if user and own >= self._limits.user_uploads:
            self._count("user_uploads")
            raise NotNow(f"{own} uploads of yours wait for their runs (limit user_uploads); start those first")
        if waiting >= self._limits.uploads:
            self._count("uploads")
            raise NotNow(f"{waiting} uploads wait for their runs already (limit uploads); start those first")
        draft = mine / f".{secrets.token_hex(8)}"
        draft.touch(0o640, exist_ok=False)
        return draft

    def _of_user(self, user: str) -> Path:
        """Return the folder of a user's uploads; its name must be a name of a folder for any user."""
        return self._folder / hashlib.sha256(user.encode(errors="replace")).hexdigest()[:24]


def _keep(draft: Path, folder: Path, name: str) -> None:
    folder.mkdir(mode=0o750)
    draft.rename(folder / name)


def _write(write: Callable[[bytes], object], update: Callable[[bytes], object], chunk: bytes) -> None:
    write(chunk)
    update(chunk)
