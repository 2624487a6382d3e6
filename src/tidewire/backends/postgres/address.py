"""Where a PostgreSQL server is, and sessions with the settings that we need; its URL is never shown whole."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from tidewire.backends.postgres.pooler import check_session, is_pooled, refusal
from tidewire.errors import ConfigurationError

__all__ = ("Server",)

#: Every statement of ours finds rows by an index; plans made while the tables were small must do so too.
_SETTINGS = {
    "application_name": "tidewire",
    "default_transaction_isolation": "read committed",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
_OPENING_SECONDS = 5.0
#: The first version that ends sessions for being idle.
_IDLE_SINCE = (14,)
_HOW = "write postgresql://user:password@host:5432/database, with characters such as @ : / in a password as %40 %3A %2F"
#: Names behind a `?` that the driver understands.
_OF_DRIVER = re.compile(
    "host|port|user|password|passfile|dbname|database|service|servicefile|target_session_attrs|krbsrvname|gsslib|"
    "ssl(mode|cert|key|rootcert|crl|password|negotiation)|ssl_(min|max)_protocol_version"
)
#: Names that libpq understands and the driver does not: they change how a connection is made, not what it means.
_OF_LIBPQ = re.compile(
    "channel_binding|client_encoding|connect_timeout|fallback_application_name|hostaddr|load_balance_hosts|replication|"
    "keepalives.*|require_?(auth|peer|ssl)|gss(encmode|delegation)|ssl(certmode|compression|crldir|sni)|"
    "tcp_user_timeout|prepared_statement_cache_size"
)
#: One setting in libpq's `options`: `-c name=value` or `--name=value`.
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)")


class Server:
    """A PostgreSQL server, or several of which one is the primary."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._settings = _parse(url)
        #: Seconds within which it has to answer, and within which a session has to be ready, its tables made.
        self.seconds = seconds
        self.opening_seconds = max(seconds, _OPENING_SECONDS)
        #: The server's name for people.
        self.shown = _shown(url)
        #: Whether each connection was found to be a session of the server, or is known to be one.
        self._is_judged = False

    async def connect(self, *, asynchronous: bool = False) -> Any:
        """Return a new asyncpg connection; raises asyncpg's errors, and ConfigurationError for a URL that cannot work.

        `asynchronous`: its commits need not be on the disk, because they contain nothing that lasts.
        """
        # the server gives up before we do: a slow or blocked one answers with an error, and a silent one is away
        milliseconds = self.seconds * 1e3
        settings = {**_SETTINGS, **self._settings, "lock_timeout": f"{milliseconds * 0.75:.0f}"}
        settings["statement_timeout"] = f"{milliseconds * 0.85:.0f}"
        if asynchronous:
            settings["synchronous_commit"] = "off"
        connection = await self._dial()
        if connection.get_server_version() >= _IDLE_SINCE:  # a session that waits for notices is idle by its nature
            settings = {"idle_session_timeout": "0", **settings}
        try:
            if not self._is_judged:  # before the settings: in a session that is shared they would be others', too
                await self._judge(connection)
            # after the start: a pooler such as PgBouncer refuses parameters of the start that it does not know
            await connection.execute(_SET, list(settings), list(settings.values()), timeout=self.opening_seconds)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, asyncpg.UndefinedObjectError | asyncpg.InvalidParameterValueError):
                raise ConfigurationError(f"the URL of {self.shown} has a setting that cannot be: {error}") from error
            if is_pooled(error):
                raise refusal(self.shown) from error
            raise
        return connection

    async def _dial(self) -> Any:
        is_one_of_many = "," in urlsplit(self._url).netloc and "target_session_attrs" not in self._url
        try:
            return await asyncpg.connect(
                self._url,
                timeout=self.opening_seconds,
                target_session_attrs="primary" if is_one_of_many else None,
                connection_class=_Session,
            )
        except ValueError as error:  # its text may contain a part of the password
            raise ConfigurationError(f"the URL of {self.shown} cannot be used; {_HOW}") from error

    async def _judge(self, connection: Any) -> None:
        """Find out whether a pooler is between, which gives processes numbers of its own, and if it keeps sessions."""
        if connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"):
            other = await self._dial()
            try:
                async with asyncio.timeout(self.opening_seconds):
                    await check_session(connection, other, self.shown)
            finally:
                other.terminate()
        self._is_judged = True


async def _do_execute(connection: Any, *arguments: Any, **options: Any) -> Any:
    """Run a statement; a session that is ended between its preparation and its start is a failure as any other."""
    try:
        return await asyncpg.Connection._do_execute(connection, *arguments, **options)
    except AttributeError as error:  # the driver has let go of what it needs
        if not connection.is_closed():
            raise
        raise asyncpg.ConnectionDoesNotExistError("the session was ended") from error


#: asyncpg has no types, so that no class of ours can be derived from its own.
_Session = type("_Session", (asyncpg.Connection,), {"_do_execute": _do_execute})


_SET = "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)"


def _parse(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL as the driver understands it, and the settings of a session that the URL contains."""
    base, _, query = url.partition("?")
    scheme, colon, rest = base.partition(":")
    options: list[tuple[str, str]] = []
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "ssl":  # as SQLAlchemy writes it
            options.append(("sslmode", value))
        elif _OF_DRIVER.fullmatch(name):
            options.append((name, value))
        elif name == "options":
            for found, said in _OPTION.findall(value):
                settings[found.replace("-", "_")] = re.sub(r"\\(.)", r"\1", said)
        elif not _OF_LIBPQ.fullmatch(name):
            settings[name] = value
    slashes, (account, at, place) = rest[:2], rest[2:].rpartition("@")
    # the host begins behind the last @; the driver looks for the first
    base = f"{scheme.partition('+')[0]}{colon}{slashes}{account.replace('@', '%40')}{at}{place}"
    return (f"{base}?{urlencode(options)}" if options else base), settings


def _shown(url: str) -> str:
    """Return the host and the database, or neither when a password was not written as it must be."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    try:
        ports = [urlsplit(f"//{host}").port for host in hosts.split(",")]
    except ValueError:
        ports = []
    if not ports or "@" in parts.path + parts.query + parts.fragment:
        return "PostgreSQL"
    return f"PostgreSQL at {hosts or 'this machine'}{parts.path}"
