"""The accounts of the ready server: users with their passwords, their sessions, and the rooms."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from tidewire.errors import TidewireError
from tidewire.limits import Limits
from tidewire.server.accounts_database import Database
from tidewire.server.login_attempts import Attempts, Bound
from tidewire.server.login_sessions import (
    USER_COLUMNS,
    InvalidCredentials,
    LoginSession,
    LoginSessions,
    User,
    apart_user,
    end_sessions,
    has_password,
    user_of,
)
from tidewire.server.passwords import Passwords, check_password
from tidewire.server.stored_rooms import RoomTable

__all__ = ("Accounts", "BadName", "NameTaken", "Removed", "display_name")

_NAME = re.compile(r"[\w.-]{1,32}")
#: Separates a name from the number of the account in an id; no name contains it.
_NUMBER = "~"
#: Seconds over which sign-ups are counted.
_HOUR = 3_600.0


class NameTaken(TidewireError):
    """Raised when another user has this name, in any case of letters."""


class BadName(TidewireError):
    """Raised for a text that cannot be a user name."""


class Removed(msgspec.Struct, frozen=True):
    """The effects of the removal of a user: the sessions that ended, and the rooms that have no owner now."""

    user: User
    sessions: int
    rooms: int


class Accounts:
    """Users with their passwords, their `sessions` and the `rooms`, in one file for all workers of a machine.

    A user has an id that is never given again: the name for the first account of a name, `name~2` for the second, and
    so on. Everything that belongs to a user goes by the id. A server says whether it sets accounts `apart`: the hub
    knows them by another name then, which no user of an application has. Methods raise StoreUnavailable.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        apart: bool | None = None,
    ) -> None:
        self._apart = apart
        self._limits = limits or Limits()
        self._database = Database(path, apart=apart)
        self._attempts = Attempts(self._database, clock)
        self._passwords = Passwords(self._limits.logins_waiting)
        self._nobody = ""
        self.sessions = LoginSessions(self._database, self._limits.sessions_per_user, clock)
        self.rooms = RoomTable(self._database, self._limits, clock)

    async def open(self) -> None:
        """Open the file, and create it if need be. Raises ConfigurationError when that cannot work."""
        self._nobody = await self._passwords.hash("nobody has this password", "start")
        await self._database.open()

    async def aclose(self) -> None:
        """Close the file; harmless when it is not open."""
        await self._database.aclose()
        self._passwords.close()

    @property
    def openings(self) -> int:
        """How often the file was opened: once more when another one has taken the place of the one before."""
        return self._database.openings

    async def add_user(self, name: str, password: str, *, network: str | None = None) -> User:
        """Add a user. Raises BadName, WeakPassword, NameTaken.

        With a `network` ("" is this machine) sign-ups are counted, and TooManyAttempts is raised beyond the limits.
        """
        name = unicodedata.normalize("NFC", name)
        check_name(name)
        check_password(password)
        if await self.find(name) is not None:
            raise _taken(name)
        async with self._counted(self._signup_bounds(network)):
            password_hash = await self._passwords.hash(password, "signup", network or "", "")
            user = await self._database.write(lambda db: _add(db, name, password_hash, self._apart))
        if user is None:
            raise _taken(name)
        return user

    async def remove_user(self, name: str) -> Removed | None:
        """Remove a user, and end its sessions; return None if there is no user of this name."""

        def work(connection: sqlite3.Connection) -> Removed | None:
            user = _find(connection, name)
            if user is None:
                return None
            connection.execute("DELETE FROM accounts_users WHERE key = ?", (_key(name),))
            statement = "INSERT OR IGNORE INTO accounts_removed (id, key, removed) VALUES (?, ?, ?)"
            connection.execute(statement, (user.id, _key(name), time.time()))
            sessions = end_sessions(connection, user.id)
            owners = (user.id, apart_user(user.id))
            orphaned = connection.execute("UPDATE accounts_rooms SET owner = '' WHERE owner IN (?, ?)", owners)
            return Removed(user, sessions, orphaned.rowcount)

        return await self._database.write(work)

    async def find(self, name: str) -> User | None:
        """Return the user of a name in any case of letters, or None."""
        return await self._database.read(lambda connection: _find(connection, name))

    async def is_empty(self) -> bool:
        """Return whether there is no account yet."""
        found = await self._database.read(lambda db: db.execute("SELECT 1 FROM accounts_users LIMIT 1").fetchone())
        return found is None

    async def users(self) -> list[User]:
        """Return all users by name."""
        statement = f"SELECT {USER_COLUMNS} FROM accounts_users ORDER BY key"
        rows = await self._database.read(lambda connection: connection.execute(statement).fetchall())
        return [user_of(row) for row in rows]

    async def login(
        self,
        name: str,
        password: str,
        *,
        network: str = "",
        device: tuple[str, str] | None = None,
        seconds: float = _HOUR,
        program: str = "",
    ) -> tuple[User, LoginSession]:
        """Begin a session of the user of a name and a password.

        It takes the same time whether the user exists or not. `device` is the user id and the id of a device that this
        user has logged in on before: its guesses are counted apart from those of the network. Raises
        InvalidCredentials, also when the password changes meanwhile, and TooManyAttempts beyond the limits of guesses.
        """
        user, password_hash = await self._verified(name, password, network, device)
        return user, await self.sessions.start(user.id, seconds, program, password=password_hash)

    async def _verified(
        self, name: str, password: str, network: str, device: tuple[str, str] | None
    ) -> tuple[User, str]:
        """Return the user of a name and a password, and the hash that it matches; raises as `login` does."""
        found = await self._database.read(lambda connection: _find_with_password(connection, name))
        is_known = device is not None and found is not None and device[0] == found[0].id
        bounds = self._device_bounds(device) if device and is_known else self._guess_bounds(name, network)
        begun = await self._attempts.begin(bounds)
        path = ("device", *device) if device and is_known else ("login", network, _key(name))
        try:
            right = await self._passwords.verify(password, found[1] if found else self._nobody, *path)
        except BaseException:
            await self._attempts.undo(begun)
            raise
        if found is None or not right:
            raise InvalidCredentials
        await self._attempts.undo(begun, forget=bounds[:1])
        return found

    async def change_password(self, user: User, password: str, new: str, *, network: str = "", keep: str = "") -> int:
        """Change a password, and end all sessions of the user but one; return how many were ended.

        Raises InvalidCredentials, also when the password changes meanwhile, WeakPassword, TooManyAttempts.
        """
        check_password(new)
        _, before = await self._verified(user.name, password, network, (user.id, keep) if keep else None)
        password_hash = await self._passwords.hash(new, "device", user.id, keep)

        def work(connection: sqlite3.Connection) -> int:
            if not has_password(connection, user.id, before):
                raise InvalidCredentials
            connection.execute("UPDATE accounts_users SET password = ? WHERE id = ?", (password_hash, user.id))
            return end_sessions(connection, user.id, keep=keep)

        return await self._database.write(work)

    @contextlib.asynccontextmanager
    async def _counted(self, bounds: list[Bound]) -> AsyncIterator[None]:
        """Count an attempt; do not count it if it fails for another reason than the limits."""
        begun = await self._attempts.begin(bounds) if bounds else ()
        try:
            yield
        except BaseException:
            if begun:
                await self._attempts.undo(begun)
            raise

    def _signup_bounds(self, network: str | None) -> list[Bound]:
        if network is None:
            return []
        limits = self._limits
        total = Bound("signup", limits.signups, _HOUR, "signups")
        of_network = Bound(f"signup {network}", limits.signups_per_network, _HOUR, "signups_per_network")
        # Behind a proxy that does not name its clients, all of them share one loopback address.
        return [of_network, total] if network else [total]

    def _guess_bounds(self, name: str, network: str) -> list[Bound]:
        limits = self._limits
        seconds = limits.login_seconds
        bounds = [Bound(f"guess {network} {_key(name)}", limits.login_failures, seconds, "login_failures")]
        if network:
            most = limits.login_failures_per_network
            bounds.append(Bound(f"guess {network}", most, seconds, "login_failures_per_network"))
        return bounds

    def _device_bounds(self, device: tuple[str, str]) -> list[Bound]:
        limits = self._limits
        return [Bound(f"guess {' '.join(device)}", limits.login_failures, limits.login_seconds, "login_failures")]


def check_name(name: str) -> None:
    """Raise BadName unless this can be a user's name: 1 to 32 letters, digits, `-`, `_` or `.`."""
    if not _NAME.fullmatch(name):
        raise BadName(f"user name {name[:40]!r} must be 1 to 32 letters, digits, '-', '_' or '.'")


def display_name(user: str) -> str:
    """Return the name in the id of a user."""
    return user.partition(_NUMBER)[0]


def _key(name: str) -> str:
    """Return the form of a name that is unique: another case or form of letters does not make another name."""
    return unicodedata.normalize("NFKC", name[:64]).casefold()


def _find(connection: sqlite3.Connection, name: str) -> User | None:
    statement = f"SELECT {USER_COLUMNS} FROM accounts_users WHERE key = ?"
    row = connection.execute(statement, (_key(name),)).fetchone()
    return user_of(row) if row else None


def _find_with_password(connection: sqlite3.Connection, name: str) -> tuple[User, str] | None:
    statement = f"SELECT {USER_COLUMNS}, password FROM accounts_users WHERE key = ?"
    row = connection.execute(statement, (_key(name),)).fetchone()
    return (user_of(row[:-1]), row[-1]) if row else None


def _add(connection: sqlite3.Connection, name: str, password_hash: str, apart: bool | None) -> User | None:
    """Insert a user with an id that no user had before; None when the name is taken.

    It is set apart as the server says, or, for another process, as the server said that was started last.
    """
    statement = "SELECT count(*) FROM accounts_removed WHERE key = ?"
    (before,) = connection.execute(statement, (_key(name),)).fetchone()
    id_ = f"{name}{_NUMBER}{before + 1}" if before else name
    insert = (
        "INSERT OR IGNORE INTO accounts_users (key, name, password, created, id, apart) "
        "VALUES (?, ?, ?, ?, ?, coalesce(?, (SELECT apart FROM accounts_mode)))"
    )
    values = (_key(name), name, password_hash, time.time(), id_, apart)
    return _find(connection, name) if connection.execute(insert, values).rowcount else None


def _taken(name: str) -> NameTaken:
    return NameTaken(f"name {name!r} is taken")
