"""One session with a Redis server: commands leave in order, replies come in order, nothing is retried."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection as DriverConnection
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from tidewire.backends.redis.address import Address, Host
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("Command", "Reply", "Session", "connect", "explain", "pack")

Command = Sequence[str | bytes | int]
#: A reply as the driver decodes it; an error that answers a command is a value here.
Reply = object


def explain(error: BaseException) -> str:
    """Return in a few words why a server cannot be used; the driver's texts hold no credentials."""
    if isinstance(error, TimeoutError) or not str(error):
        return "it does not answer"
    return " ".join(str(error).split()).rstrip(".")


async def connect(address: Address, host: Host, *, is_sentinel: bool = False) -> AbstractConnection:
    """Connect and log in; raises ConfigurationError when the login is refused, StoreUnavailable otherwise."""
    username = address.sentinel_username if is_sentinel else address.username
    password = address.sentinel_password if is_sentinel else address.password
    options: dict[str, object] = dict(address.tls_options)
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"] in ("true", "1", "yes")
    options |= {
        "db": 0 if is_sentinel else address.db,
        "username": username,
        "password": password,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "client_name": None if is_sentinel else "tidewire",
    }
    connection: AbstractConnection
    if address.socket:
        connection = UnixDomainSocketConnection(path=address.socket, **options)
    else:
        kind = SSLConnection if address.tls else DriverConnection
        connection = kind(host=host[0], port=host[1], **options)  # type: ignore[arg-type]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, AuthenticationError | AuthorizationError) or "NOAUTH" in str(error):
            raise ConfigurationError(
                f"{address.shown} refuses the login ({explain(error)}); write redis://user:password@host"
            ) from None
        if isinstance(error, RedisError | OSError):
            raise StoreUnavailable(
                f"{address.shown} cannot be reached ({explain(error)}); see that it runs there"
            ) from error
        raise
    return connection


def pack(commands: Sequence[Command]) -> bytes:
    """Return commands as they are sent; raises TypeError or UnicodeEncodeError for a value that cannot be sent."""
    return b"".join([pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]


class Session:
    """Sends and reads on a driver's connection until it ends; `ended` is then the reason, in words."""

    def __init__(self, connection: AbstractConnection, take: Callable[[Reply], None]) -> None:
        self._connection = connection
        self._take = take
        self._outgoing: list[bytes] = []
        self._has_outgoing = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = loop.create_future()
        self._tasks = (loop.create_task(self._run(self._send)), loop.create_task(self._run(self._read)))

    def send(self, packed: bytes) -> None:
        """Send packed commands, together with others that wait; their replies come by `take`."""
        self._outgoing.append(packed)
        self._has_outgoing.set()

    def end(self, reason: str) -> None:
        """End the connection; harmless when it has ended."""
        if not self.ended.done():
            self.ended.set_result(reason)

    async def aclose(self) -> None:
        """Release the connection; nothing is taken afterwards."""
        self.end("it was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _run(self, step: Callable[[], object]) -> None:
        try:
            while True:
                await step()  # type: ignore[misc]
        except (RedisError, OSError) as error:
            self.end(explain(error))
        except Exception as error:
            self.end(f"an internal error ({error!r})")
            raise

    async def _send(self) -> None:
        await self._has_outgoing.wait()
        self._has_outgoing.clear()
        outgoing, self._outgoing = self._outgoing, []
        await self._connection.send_packed_command(b"".join(outgoing), check_health=False)

    async def _read(self) -> None:
        try:
            reply: Reply = await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            reply = error
        self._take(reply)
