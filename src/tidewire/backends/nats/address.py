"""The parts of a `nats://` URL: which servers, and which stream on them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from tidewire.errors import ConfigurationError

__all__ = ("NatsAddress",)

_EXAMPLE = "nats://localhost:4222"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NatsAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of one store, tried one after another, and the stream that holds it.

    A server may hold a password; `shown` does not.
    """

    servers: tuple[str, ...]
    shown: str
    stream: str = "TIDEWIRE"
    replicas: int = 1
    credentials: str = ""

    @classmethod
    def from_url(cls, url: str) -> NatsAddress:
        """Read `nats://[user:password@]host[:port][,host…][?stream=…&replicas=…&credentials=FILE]`, or tls://.

        Raises ConfigurationError, which never shows a password.
        """
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:  # the wrong part may be its password, so it is not shown
            raise ConfigurationError(f"the broker's URL cannot be read; write {_EXAMPLE}") from None
        unknown = set(options) - {"stream", "replicas", "credentials"}
        if unknown or parts.path.strip("/"):
            wrong = parts.path if parts.path.strip("/") else f"option {min(unknown)!r}"
            raise ConfigurationError(
                f"{wrong} of the broker's URL is not known; write {_EXAMPLE}?stream=NAME&replicas=3&credentials=FILE"
            )
        stream = options.get("stream", "TIDEWIRE")
        if not _NAME.fullmatch(stream):
            raise ConfigurationError(f"stream {stream!r} is no name; write letters, digits, - and _, at most 64")
        servers = _servers(parts)
        return cls(
            servers=servers,
            shown=",".join(server.rpartition("@")[2].rpartition("/")[2] for server in servers),
            stream=stream,
            replicas=_replicas(options.get("replicas", "1")),
            credentials=options.get("credentials", ""),
        )


def _replicas(text: str) -> int:
    if text not in ("1", "3", "5"):
        raise ConfigurationError(f"replicas={text[:20]!r} cannot be; write 1, 3 or 5")
    return int(text)


def _servers(parts: SplitResult) -> tuple[str, ...]:
    """Return one URL for each server; user and password are written once, before the first."""
    who, _, hosts = parts.netloc.rpartition("@")
    servers = []
    for host in hosts.split(","):
        server = f"{parts.scheme}://{who}@{host}" if who else f"{parts.scheme}://{host}"
        try:
            named, port = urlsplit(server).hostname, urlsplit(server).port
        except ValueError:
            named, port = None, None
        if not named:
            raise ConfigurationError(f"the broker's URL names no server; write {_EXAMPLE}")
        servers.append(server if port else f"{server}:4222")
    return tuple(servers)
