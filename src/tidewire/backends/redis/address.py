"""The address of a Redis store: the parts of its URL, without ever showing the password."""

from __future__ import annotations

from enum import Enum
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import shown_url

__all__ = ("Address", "Host", "Kind", "parse_address")

Host = tuple[str, int]

#: Query parameters that are handed to the driver as they are.
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
_FORMS = "redis://host:6379/0, redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379"
_PORT, _SENTINEL_PORT = 6379, 26379


class Kind(Enum):
    """How the server that takes writes is found."""

    SINGLE = "redis"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    f"{scheme}{suffix}": (kind, scheme == "rediss")
    for scheme in ("redis", "rediss")
    for suffix, kind in (("", Kind.SINGLE), ("+sentinel", Kind.SENTINEL), ("+cluster", Kind.CLUSTER))
}
#: Schemes whose path is that of a unix socket.
_SOCKETS = ("unix", "redis+unix", "redis+socket")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a URL. `wait` is how many replicas must have a publication before it counts as kept."""

    kind: Kind
    hosts: tuple[Host, ...]
    tls: bool = False
    tls_options: tuple[tuple[str, str], ...] = ()
    db: int = 0
    #: The path of a unix socket; the host is not used then.
    socket: str = ""
    username: str | None = None
    password: str | None = None
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    wait: int = 0
    prefix: str = "tidewire"

    @property
    def shown(self) -> str:
        """For logs and errors: without user and password."""
        hosts = self.socket or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return {
            Kind.SINGLE: f"Redis at {hosts}",
            Kind.SENTINEL: f"Redis {self.service!r} of the Sentinels {hosts}",
            Kind.CLUSTER: f"Redis Cluster at {hosts}",
        }[self.kind]

    def __repr__(self) -> str:
        return f"<{self.shown}>"


def parse_address(url: str) -> Address:
    """Read a URL; raises ConfigurationError, which shows no part of it that may be a password."""
    parts = urlsplit(url)
    if parts.scheme in _SOCKETS:
        return _socket_address(parts)
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"broker URL: {parts.scheme}:// is no way to reach Redis; write {_FORMS}")
    kind, tls = _SCHEMES[parts.scheme]
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    query = _query(parts)
    service, db = _path(parts, kind)
    if tls and kind is Kind.SENTINEL and "ssl_check_hostname" not in query:
        query["ssl_check_hostname"] = "false"  # Sentinels name servers by address
    return Address(
        kind=kind,
        hosts=_hosts(hosts, _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT, is_one=kind is Kind.SINGLE),
        tls=tls,
        tls_options=tuple((name, query[name]) for name in sorted(_TLS_OPTIONS & query.keys())),
        db=db,
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        service=service,
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
        wait=_number(query.get("wait", "0"), "wait"),
        prefix=query.get("prefix", "tidewire"),
    )


def _socket_address(parts: SplitResult) -> Address:
    credentials, _, host = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    path = unquote(parts.path)
    if host or path in ("", "/"):
        raise ConfigurationError("broker URL names no socket; write unix:///run/redis/redis.sock?db=0")
    query = _query(parts)
    return Address(
        kind=Kind.SINGLE,
        hosts=(("localhost", _PORT),),
        socket=path,
        db=_number(query.get("db", "0"), "the database"),
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        wait=_number(query.get("wait", "0"), "wait"),
        prefix=query.get("prefix", "tidewire"),
    )


def _query(parts: SplitResult) -> dict[str, str]:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"wait", "prefix"}
    known |= {"db"} if parts.scheme in _SOCKETS else {*_TLS_OPTIONS, "sentinel_username", "sentinel_password"}
    for name in query:
        if name not in known:
            raise ConfigurationError(
                f"broker URL: {name!r} is not an option of Redis; there are {', '.join(sorted(known))}"
            )
    if not query.get("prefix", "x").isprintable() or any(c in query.get("prefix", "") for c in "{}"):
        raise ConfigurationError("broker URL: the prefix has characters that cannot be; write letters and digits")
    return query


def _path(parts: SplitResult, kind: Kind) -> tuple[str, int]:
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    service = ""
    if kind is Kind.SENTINEL:
        if not segments or (len(segments) == 1 and segments[0].isdecimal()):  # the number of a database alone
            raise ConfigurationError(f"broker URL names no Sentinel service; write {_FORMS}")
        if len(segments) == 2 and segments[0].isdecimal() and not segments[1].isdecimal():
            segments.reverse()  # as Celery and python-socketio write it
        service = segments.pop(0)
    if len(segments) > 1 or (segments and kind is Kind.CLUSTER and segments != ["0"]):
        raise ConfigurationError(f"broker URL: path {parts.path!r} is more than a database; write {_FORMS}")
    return service, _number(segments[0], "the database") if segments else 0


def _hosts(text: str, port: int, *, is_one: bool) -> tuple[Host, ...]:
    found = []
    for item in (text or "localhost").split(","):
        try:
            split = urlsplit(f"//{item}")
            found.append((split.hostname or "localhost", split.port or port))
        except ValueError:
            raise ConfigurationError(f"broker URL: it names no host:port; write {_FORMS}") from None
    if is_one and len(found) > 1:
        raise ConfigurationError(f"broker URL names several hosts; write {_FORMS}")
    return tuple(found)


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 10_000:
        raise ConfigurationError(f"broker URL: {what} is {shown_url(text)}; write a small number")
    return int(text)
