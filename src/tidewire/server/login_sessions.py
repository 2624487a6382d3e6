"""Sessions of users: one for each login, which may be ended before its token expires."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable

import msgspec

from tidewire.errors import TidewireError
from tidewire.server.accounts_database import Database
from tidewire.support.counters import count_limit

__all__ = (
    "USER_COLUMNS",
    "EndedSession",
    "InvalidCredentials",
    "LoginSession",
    "LoginSessions",
    "User",
    "apart_user",
    "end_sessions",
    "has_password",
    "is_set_apart",
    "user_of",
)

#: Seconds for which workers can learn of the end of a session.
_RECORDED_SECONDS = 3_600.0
#: Characters of the description of a device.
_DEVICE = 120
#: The end of the name by which the hub knows an account that is set apart; no application's user has it then.
_APART = "~account"
#: The columns of a user; one that an earlier version has added is as the server sets accounts.
USER_COLUMNS = (
    "accounts_users.id, accounts_users.name, accounts_users.created, "
    "coalesce(accounts_users.apart, (SELECT apart FROM accounts_mode))"
)


class InvalidCredentials(TidewireError):
    """Raised when there is no such user, or the password is wrong; the text does not say which."""

    def __init__(self) -> None:
        super().__init__("invalid credentials")


class User(msgspec.Struct, frozen=True):
    """One user. `id` is never given to another one; `created` is in seconds since 1970.

    One that is set apart is no user of the application in the hub; `apart` is None until a server has said so.
    """

    id: str
    name: str
    created: float
    apart: bool | None = None

    @property
    def hub_user(self) -> str:
        """The user of the hub that the account is."""
        return apart_user(self.id) if self.apart else self.id


class LoginSession(msgspec.Struct, frozen=True):
    """One login; times are in seconds since 1970, and `device` describes the program that logged in."""

    id: str
    created: float
    expires: float
    device: str


class EndedSession(msgspec.Struct, frozen=True):
    """A session that has ended early."""

    seq: int
    user: str
    session: str


class LoginSessions:
    """The sessions that have not ended. Methods raise StoreUnavailable."""

    def __init__(self, database: Database, most: int, clock: Callable[[], float]) -> None:
        self._database = database
        self._most = most
        self._clock = clock

    async def start(self, user: str, seconds: float, device: str = "", *, password: str | None = None) -> LoginSession:
        """Begin a session of a user; the oldest ones end if the user has too many.

        With the hash of a `password` that was right, raises InvalidCredentials if the user has another one by now.
        """
        now = self._clock()
        session = LoginSession(secrets.token_urlsafe(16), now, now + seconds, device[:_DEVICE])
        values = (session.id, user, session.created, session.expires, session.device)

        def work(connection: sqlite3.Connection) -> int:
            if password is not None and not has_password(connection, user, password):
                raise InvalidCredentials
            connection.execute("DELETE FROM accounts_sessions WHERE expires <= ?", (now,))
            statement = "SELECT id FROM accounts_sessions WHERE user = ? ORDER BY created DESC LIMIT -1 OFFSET ?"
            old = connection.execute(statement, (user, self._most - 1)).fetchall()
            for (id_,) in old:
                end_sessions(connection, user, id_)
            insert = "INSERT INTO accounts_sessions (id, user, created, expires, device) VALUES (?, ?, ?, ?, ?)"
            connection.execute(insert, values)
            return len(old)

        if await self._database.write(work):
            count_limit("sessions_per_user")
        return session

    async def user(self, session: str) -> User | None:
        """Return the user of a session, or None when it has ended."""
        statement = (
            f"SELECT {USER_COLUMNS} FROM accounts_sessions "
            "JOIN accounts_users ON accounts_users.id = accounts_sessions.user WHERE accounts_sessions.id = ?"
        )
        row = await self._database.read(lambda connection: connection.execute(statement, (session,)).fetchone())
        return user_of(row) if row else None

    async def of(self, user: str) -> list[LoginSession]:
        """Return the sessions of a user, the newest first."""
        statement = (
            "SELECT id, created, expires, device FROM accounts_sessions WHERE user = ? AND expires > ? "
            "ORDER BY created DESC"
        )
        values = (user, self._clock())
        rows = await self._database.read(lambda connection: connection.execute(statement, values).fetchall())
        return [LoginSession(*row) for row in rows]

    async def ids(self) -> set[str]:
        """Return the ids of all sessions."""
        statement = "SELECT id FROM accounts_sessions"
        rows = await self._database.read(lambda connection: connection.execute(statement).fetchall())
        return {id_ for (id_,) in rows}

    async def end(self, user: str, session: str = "") -> int:
        """End one session of a user, or all of them, and return how many there were."""
        return await self._database.write(lambda connection: end_sessions(connection, user, session))

    async def last_end(self) -> int:
        """Return the number of the newest end of a session."""
        statement = "SELECT coalesce(max(seq), 0) FROM accounts_ended"
        row = await self._database.read(lambda connection: connection.execute(statement).fetchone())
        return int(row[0])

    async def ended_after(self, seq: int) -> list[EndedSession]:
        """Return the sessions that were ended after another one."""
        statement = "SELECT seq, user, session FROM accounts_ended WHERE seq > ? ORDER BY seq"
        rows = await self._database.read(lambda connection: connection.execute(statement, (seq,)).fetchall())
        return [EndedSession(*row) for row in rows]


def end_sessions(connection: sqlite3.Connection, user: str, session: str = "", *, keep: str = "") -> int:
    """End one session, or all sessions but one, as a part of a transaction; return how many there were."""
    now = time.time()
    connection.execute("DELETE FROM accounts_ended WHERE ended < ?", (now - _RECORDED_SECONDS,))
    statement = "DELETE FROM accounts_sessions WHERE user = ? AND (id = ? OR ? = '') AND id != ? RETURNING id"
    ended = connection.execute(statement, (user, session, session, keep)).fetchall()
    insert = "INSERT INTO accounts_ended (user, session, ended) VALUES (?, ?, ?)"
    connection.executemany(insert, [(user, id_, now) for (id_,) in ended])
    return len(ended)


def apart_user(id_: str) -> str:
    """Return the user of the hub that an account is when it is set apart."""
    return id_ + _APART


def is_set_apart(user: str) -> bool:
    """Return whether a user of the hub can only be an account that is set apart."""
    return user.endswith(_APART)


def user_of(row: tuple[str, str, float, int | None]) -> User:
    """Return the user of a row of USER_COLUMNS."""
    id_, name, created, apart = row
    return User(id_, name, created, None if apart is None else bool(apart))


def has_password(connection: sqlite3.Connection, user: str, password: str) -> bool:
    """Return whether the hash of a password is still that of a user."""
    statement = "SELECT 1 FROM accounts_users WHERE id = ? AND password = ?"
    return connection.execute(statement, (user, password)).fetchone() is not None
