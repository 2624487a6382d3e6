"""The first steps on every connection: the scripts are loaded, and the server's role and settings are read."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec
from redis.exceptions import NoPermissionError, ResponseError

from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.requests import Requests
from tidewire.backends.redis.scripts import Script
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("Server", "check_single", "load", "new_epoch", "read_server")


class Server(msgspec.Struct, frozen=True):
    """A server's description of itself; settings are "" where it does not let them be read."""

    version: str
    policy: str
    maxmemory: int
    appendonly: str
    appendfsync: str
    save: str
    replicas: int

    @property
    def is_durable(self) -> bool:
        """A restart of this very server loses nothing that it has acknowledged."""
        return self.appendonly == "yes" and self.appendfsync == "always"


def new_epoch() -> str:
    """Return an epoch, or a generation, that was never used."""
    return secrets.token_hex(6)


async def load(requests: Requests, scripts: Sequence[Script]) -> None:
    """Load scripts and check that the server takes writes; raises StoreUnavailable or ConfigurationError."""
    commands: list[Command] = [["SCRIPT", "LOAD", one.text] for one in scripts]
    role, *replies = await requests.ask_first(["ROLE"], *commands)
    if isinstance(role, list) and role[0] == b"sentinel":
        raise ConfigurationError(
            "this is a Redis Sentinel, which keeps nothing; write redis+sentinel://HOST:PORT/SERVICE"
        )
    for reply in (role, *replies):
        if isinstance(reply, NoPermissionError):
            raise ConfigurationError(
                f"Redis refuses commands that tidewire needs ({reply}); `tidewire docs howto/redis` has the rule"
            )
        if isinstance(reply, ResponseError):
            raise StoreUnavailable(f"Redis answers {str(reply)!r}")
    if isinstance(role, list) and role[0] != b"master":
        raise StoreUnavailable("this Redis is a replica; name the primary, or use redis+sentinel://")


async def read_server(requests: Requests) -> Server:
    """Read a server's description of itself, as far as it permits that."""
    settings: dict[str, str] = {}
    names = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
    *replies, info = await requests.ask_first(*(["CONFIG", "GET", name] for name in names), ["INFO"])
    for reply in replies:
        if isinstance(reply, list) and len(reply) == 2:
            settings[reply[0].decode()] = reply[1].decode()
    facts = _facts(info)
    return Server(
        version=facts.get("redis_version", ""),
        policy=settings.get("maxmemory-policy", facts.get("maxmemory_policy", "")),
        maxmemory=int(facts.get("maxmemory", "0")),
        appendonly=settings.get("appendonly", ""),
        appendfsync=settings.get("appendfsync", ""),
        save=settings.get("save", ""),
        replicas=int(facts.get("connected_slaves", "0")),
    )


def _facts(info: Reply) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


async def check_single(requests: Requests) -> None:
    """Raise ConfigurationError for a server that is one of a cluster, where the URL names it alone."""
    (info,) = await requests.ask_first(["INFO", "cluster"])
    if isinstance(info, bytes) and b"cluster_enabled:1" in info:
        raise ConfigurationError("this Redis is a server of a cluster; write redis+cluster:// in place of its scheme")
