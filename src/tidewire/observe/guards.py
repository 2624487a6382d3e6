"""Access to the view of a system: by a key, by the application's own dependency, or from this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from tidewire.errors import ConfigurationError
from tidewire.sessions.header_keys import check_key, is_key
from tidewire.sessions.origins import Origins
from tidewire.support.local_host import is_loopback
from tidewire.support.shown_value import shown

__all__ = ("comes_from_this_machine", "guard", "has_key")

#: Headers that a proxy adds (RFC 7239, RFC 9110 section 7.6.3).
_PROXIED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
#: An address in brackets or a name, and a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::\d*)?")


def guard(*, user: Callable[..., Any] | None, origins: Origins, key: str = "", closed: str = "") -> Any:
    """Make the dependency of routes that not everybody may use; it refuses with 401 or 403.

    `user` is a dependency of the application that returns a value for callers with access, and raises for others;
    without it the `key` is required; without either, only requests from this machine have access, and `closed` tells
    others how to configure it. Raises ConfigurationError for a `user` that cannot be
    called, and a key that no header can hold.
    """

    check_key(key)

    def refuse_other_sites(connection: HTTPConnection) -> None:
        if not origins.allows(connection) or _is_part_of_another_site(connection):
            raise HTTPException(403, "a page of another site may not use this")

    if user is not None:
        if not callable(user):
            raise ConfigurationError(f"user={shown(user)} is no dependency; write the function, as user=may_administer")

        def by_user(connection: HTTPConnection, found: Any = Depends(user)) -> None:
            refuse_other_sites(connection)
            if found is None or found is False:
                raise HTTPException(403, "you may not see this")

        return Depends(by_user)

    def by_key(connection: HTTPConnection) -> None:
        refuse_other_sites(connection)
        if key and not has_key(connection, key):
            raise HTTPException(401, "the key is missing or wrong")
        if not key and not comes_from_this_machine(connection):
            raise HTTPException(403, closed)

    return Depends(by_key)


def _is_part_of_another_site(connection: HTTPConnection) -> bool:
    """Return whether a page of another site asks without an Origin header, as for a picture; links do not count."""
    headers = connection.headers
    is_other = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return is_other and "origin" not in headers and headers.get("sec-fetch-mode") != "navigate"


def has_key(connection: HTTPConnection, key: str) -> bool:
    """Return whether a request presents the key: X-API-Key, or Authorization with ApiKey or Bearer."""
    headers = connection.headers
    scheme, _, authorization = headers.get("authorization", "").partition(" ")
    given = (headers.get("x-api-key"), authorization.strip(" \t") if scheme.lower() in ("apikey", "bearer") else None)
    return any(one is not None and is_key(one, key) for one in given)


def comes_from_this_machine(connection: HTTPConnection) -> bool:
    """Return whether a connection comes from this machine, by a loopback name and not through a proxy.

    Browsers and tools speak HTTP/1.1; a request with 1.0 comes from a proxy that adds no headers.
    """
    raw = connection.scope["headers"]
    if not _PROXIED.isdisjoint([name for name, _ in raw]) or connection.scope.get("http_version") == "1.0":
        return False
    address = connection.client
    client = address.host if address else ""
    hosts = [value.decode("latin-1") for name, value in raw if name == b"host"]
    if len(hosts) > 1 or (client and not is_loopback(client)):
        return False
    named = _HOST.fullmatch(hosts[0].lower()) if hosts and hosts[0] else None
    return is_loopback(named[1] or named[2]) if named else not any(hosts)
