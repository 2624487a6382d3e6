"""Users and rooms of the ready server, in one SQLite file that several processes may share, the broker's too."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
import unicodedata
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec
from pwdlib import PasswordHash
from pwdlib.exceptions import PwdlibError
from pwdlib.hashers.argon2 import Argon2Hasher

from tidewire.errors import ConfigurationError, LimitExceeded, StoreUnavailable, TidewireError
from tidewire.server.throttle import Throttle

__all__ = ("Accounts", "BadName", "InvalidCredentials", "NameTaken", "TooManyLogins", "User", "WeakPassword")

T = TypeVar("T")

_NAME = re.compile(r"[\w.-]{1,32}")
_PASSWORD_LENGTH = range(8, 1_025)
#: Argon2id as OWASP's password storage cheat sheet has it: 19 MiB, two passes, one lane.
_HASHER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))
#: Hashes at a time, so that a flood of logins leaves the event loop a core, and how many logins may wait for one.
_HASHING, _WAITING = 2, 256
_ROOMS = 10_000
#: Seconds for which another process may hold the write lock of the file.
_BUSY_SECONDS = 5.0


class InvalidCredentials(TidewireError):
    """Raised when there is no such user, or the password is another one; it does not say which."""


class TooManyLogins(TidewireError):
    """Raised when a user or an address failed too often, or too many log in at once; `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many logins; wait a little and try again")
        self.retry_after = retry_after


class NameTaken(TidewireError):
    """Raised when another user has this name, in whichever case of letters."""


class BadName(TidewireError):
    """Raised for a user name that cannot be one."""


class WeakPassword(TidewireError):
    """Raised for a password that is too short, or absurdly long."""


class User(msgspec.Struct, frozen=True):
    """One user; `created` is in seconds since 1970."""

    name: str
    created: float


class Accounts:
    """Users with their passwords, and the rooms that were ever joined.

    Methods raise StoreUnavailable when the file cannot be read or written. All SQLite calls run in one thread of
    this object, all hashing in two others.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "tidewire-accounts")
        self._hashing = ThreadPoolExecutor(_HASHING, "tidewire-argon2")
        self._slots = asyncio.Semaphore(_HASHING)
        self._waiting = 0
        self._users, self._addresses = Throttle(), Throttle()
        self._database: sqlite3.Connection | None = None
        self._nobody = ""

    async def open(self) -> None:
        """Open the file, making it if need be. Raises ConfigurationError when that cannot work."""
        self._nobody = await self._hash("nobody has this password")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def aclose(self) -> None:
        """Close the file; harmless when it is not open."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        self._hashing.shutdown()

    async def add_user(self, name: str, password: str) -> User:
        """Add a user. Raises BadName, WeakPassword or NameTaken, and TooManyLogins when too many wait already."""
        name = unicodedata.normalize("NFC", name)
        check_name(name)
        check_password(password)
        if await self.find(name) is not None:
            raise _taken(name)
        async with self._place_to_hash():
            user, password_hash = User(name, time.time()), await self._hash(password)
        values = (_key(name), user.name, password_hash, user.created)
        statement = "INSERT OR IGNORE INTO accounts_users (key, name, password, created) VALUES (?, ?, ?, ?)"
        if not await self._run(lambda db: db.execute(statement, values).rowcount):
            raise _taken(name)
        return user

    async def remove_user(self, name: str) -> bool:
        """Remove a user; False when there is none of this name."""
        statement = "DELETE FROM accounts_users WHERE key = ?"
        return bool(await self._run(lambda db: db.execute(statement, (_key(name),)).rowcount))

    async def find(self, name: str) -> User | None:
        """Return the user of a name in whichever case of letters, or None."""
        statement = "SELECT name, created FROM accounts_users WHERE key = ?"
        row = await self._run(lambda db: db.execute(statement, (_key(name),)).fetchone())
        return User(*row) if row else None

    async def users(self) -> list[User]:
        """Return all users by name."""
        statement = "SELECT name, created FROM accounts_users ORDER BY key"
        return [User(*row) for row in await self._run(lambda db: db.execute(statement).fetchall())]

    async def login(self, name: str, password: str, *, address: str = "") -> User:
        """Return the user whose name and password these are, in the same time whether the user exists or not.

        Raises InvalidCredentials, or TooManyLogins after ten failures in a minute of one name or one address.
        """
        keys = [(self._users, _key(name))] + ([(self._addresses, address)] if address else [])
        async with self._place_to_hash():
            # Judged here and not before the wait, so that guesses made all at once are counted too.
            wait = max(throttle.wait(key, self._clock()) for throttle, key in keys)
            if wait:
                raise TooManyLogins(wait)
            user = await self._verify(name, password)
        if user is None:
            for throttle, key in keys:
                throttle.fail(key, self._clock())
            raise InvalidCredentials("invalid credentials")
        self._users.forget(_key(name))
        return user

    async def add_room(self, name: str) -> bool:
        """Remember a room; False when it was known. Raises LimitExceeded beyond 10,000 rooms."""
        known = "SELECT (SELECT count(*) FROM accounts_rooms), EXISTS (SELECT 1 FROM accounts_rooms WHERE name = ?)"
        insert = "INSERT OR IGNORE INTO accounts_rooms (name, created) VALUES (?, ?)"
        count, exists = await self._run(lambda db: db.execute(known, (name,)).fetchone())
        if exists:
            return False
        if count >= _ROOMS:
            raise LimitExceeded(f"there are {_ROOMS} rooms already, and room {name!r} would be one more; join another")
        return bool(await self._run(lambda db: db.execute(insert, (name, time.time())).rowcount))

    async def rooms(self) -> list[str]:
        """Return the names of all rooms, the oldest first."""
        statement = "SELECT name FROM accounts_rooms ORDER BY id"
        return [row[0] for row in await self._run(lambda db: db.execute(statement).fetchall())]

    async def _verify(self, name: str, password: str) -> User | None:
        statement = "SELECT name, created, password FROM accounts_users WHERE key = ?"
        row = await self._run(lambda db: db.execute(statement, (_key(name),)).fetchone())
        expected = row[2] if row else self._nobody
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._hashing, verify_password, password, expected)
        return User(row[0], row[1]) if row and right else None

    @contextlib.asynccontextmanager
    async def _place_to_hash(self) -> AsyncIterator[None]:
        if self._waiting >= _WAITING:
            raise TooManyLogins(5.0)
        self._waiting += 1
        try:
            async with self._slots:
                yield
        finally:
            self._waiting -= 1

    async def _hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._hashing, _HASHER.hash, password)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._database is None:
            raise StoreUnavailable("the accounts are not open")
        try:
            return work(self._database)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the accounts in {self._path} cannot be used now ({error})") from error

    def _connect(self) -> None:
        try:
            self._path.touch(0o600)
            self._database = _open(self._path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"{self._path} cannot be used for accounts ({error}); "
                "start where you may write, or name another file with --accounts or --broker"
            ) from None

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _open(path: Path) -> sqlite3.Connection:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(resources.files(__package__).joinpath("accounts.sql").read_text())
            return database
        except sqlite3.OperationalError as error:
            database.close()
            # Processes that turn a new file into WAL at once do not wait for each other in SQLite.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def verify_password(password: str, expected: str) -> bool:
    """Return whether this is the password of a hash; takes its time whatever the answer."""
    try:
        return _HASHER.verify(password, expected)
    except PwdlibError:
        return False


def check_name(name: str) -> None:
    """Raise BadName unless this can be a user's name: 1 to 32 letters, digits, `-`, `_` or `.`."""
    if not _NAME.fullmatch(name):
        raise BadName(f"user name {name[:40]!r} must be 1 to 32 letters, digits, '-', '_' or '.'")


def check_password(password: str) -> None:
    """Raise WeakPassword unless this can be a password; the text never shows it."""
    if len(password) not in _PASSWORD_LENGTH:
        raise WeakPassword(
            f"a password needs at least {_PASSWORD_LENGTH.start} characters"
            if len(password) < _PASSWORD_LENGTH.start
            else f"a password has at most {_PASSWORD_LENGTH.stop - 1} characters"
        )


def _key(name: str) -> str:
    """Return what two names must not share: letters in another case or form do not make another name."""
    return unicodedata.normalize("NFKC", name[:64]).casefold()


def _taken(name: str) -> NameTaken:
    return NameTaken(f"name {name!r} is taken")
