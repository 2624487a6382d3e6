"""Which host a request is for, and redirects that do not repeat it; no I/O (RFC 9112 section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ("BadHost", "is_host", "origin_form", "relative_redirects", "set_host")

#: A name, an IPv4 or a bracketed IPv6 address, and a port (RFC 3986 section 3.2, without a user).
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(:[0-9]*)?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]


class BadHost(Exception):
    """Raised for a request whose host is missing, told twice, or none; the text is the answer's."""


def is_host(value: bytes) -> bool:
    """Return whether a Host header names a host."""
    return _HOST.fullmatch(value) is not None


def set_host(target: bytes, headers: list[tuple[bytes, bytes]], version: str) -> None:
    """Judge the Host header of a request, and replace it by the host of its target where that has one. Raises BadHost.

    HTTP/1.1 wants exactly one, HTTP/1.0 at most one. The names of headers are in lower case.
    """
    places = [place for place, (name, _) in enumerate(headers) if name == b"host"]
    if len(places) > 1 or (not places and version != "1.0"):
        raise BadHost("expected exactly one Host header")
    absolute = _ABSOLUTE.match(target)
    host = absolute.group(1) if absolute is not None else headers[places[0]][1].strip(b" \t") if places else None
    for judged in (host, *(headers[place][1].strip(b" \t") for place in places)):
        if judged is not None and _HOST.fullmatch(judged) is None:
            raise BadHost(f"{judged.decode('latin-1')[:100]!a} is no host; write it as example.org or example.org:8000")
    if absolute is not None and places:
        headers[places[0]] = (b"host", absolute.group(1))


def origin_form(target: bytes) -> bytes:
    """Return the path and query of a request's target, which may name a host too."""
    absolute = _ABSOLUTE.match(target)
    return target if absolute is None else target[absolute.end() :].partition(b"#")[0] or b"/"


def relative_redirects(scope: Event, send: Send) -> Send:
    """Return a `send` that takes the host of the request out of redirects to itself: any client can make it up.

    A client resolves the rest against the address that it has asked, so it comes to the same place.
    """

    def send_relative(event: Event) -> Awaitable[None]:
        if event["type"] == "http.response.start" and 300 <= event["status"] < 400:
            event = {**event, "headers": [_relative(scope, name, value) for name, value in event.get("headers", ())]}
        return send(event)

    return send_relative


def _relative(scope: Event, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() != b"location":
        return name, value
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    own = scope["scheme"].encode() + b"://" + host
    rest = value.removeprefix(own)
    if rest == value or rest[:1] not in (b"", b"/", b"?", b"#"):
        return name, value
    # Two slashes in front would be read as another host.
    return name, (b"/." if rest[1:2] in (b"/", b"\\") else b"" if rest[:1] == b"/" else b"/") + rest
