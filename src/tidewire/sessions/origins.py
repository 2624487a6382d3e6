"""Which pages may use this site: one judgement of Origin, Host and fetch metadata for WebSockets and HTTP routes."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.support.log_limit import LogLimit
from tidewire.support.shown_value import shown

if TYPE_CHECKING:  # the settings judge origins, and commands that read them start without starlette
    from starlette.datastructures import Headers
    from starlette.requests import HTTPConnection
    from starlette.types import Scope

__all__ = ("Origins",)

logger = logging.getLogger("tidewire")
#: Any page may ask as often as it likes.
_refused = LogLimit()

#: An origin as browsers serialise it (RFC 6454 section 6.2), and as people write it.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\]+)(?::(\d{1,5}|\*))?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\,]+)(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OF_PAGES = {"ws": "http", "wss": "https"}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})
#: Headers that say which page asks. Without them a program does, or a browser without one: a plain link.
_BY_PAGES = frozenset({b"origin", b"sec-fetch-site"})
#: Letters that the two versions of IDNA encode differently: browsers use the newer one, Python has the older one.
_AMBIGUOUS = re.compile("[\u00df\u03c2\u200c\u200d]")


class _Origin(msgspec.Struct, frozen=True):
    """A scheme, a host and a port: None is the default one of an unknown scheme, 0 is any."""

    scheme: str
    host: str
    port: int | None


class Origins:
    """The origins whose pages may use this site, beside the site's own.

    Each is "https://app.example.org", "http://localhost:*" (with any port), "https://*.example.org" (any host below) or
    "*" (any page). Capitals, a default port, a slash at the end and international names are read as browsers read them.
    With `loopback_only`, requests must name a loopback host, or the host of an allowed origin: a foreign name may lead
    to this machine, too (DNS rebinding). Raises ConfigurationError for an origin that no page can have.
    """

    __slots__ = ("_exact", "_is_loopback_only", "_patterns", "allows_any")

    def __init__(self, allowed: Iterable[str] = (), *, loopback_only: bool = False) -> None:
        if isinstance(allowed, str):
            raise ConfigurationError(f"origins={allowed!r} is a text; write a list: origins=[{allowed!r}]")
        given = tuple(allowed)
        #: Every page may come, so no page may bring its cookies along.
        self.allows_any = "*" in given
        origins = [_configured(text) for text in given if text != "*"]
        self._exact = frozenset(origin for origin in origins if origin.port != 0 and "*" not in origin.host)
        self._patterns = tuple(origin for origin in origins if origin not in self._exact)
        self._is_loopback_only = loopback_only

    def allows(self, connection: HTTPConnection) -> bool:
        """Return whether a request or handshake may go on; a refusal is logged, a few times a minute at most."""
        raw = connection.scope["headers"]
        is_page = not _BY_PAGES.isdisjoint(dict(raw))
        if not is_page and not self._is_loopback_only:
            return True
        hosts = [value.decode("latin-1") for name, value in raw if name == b"host"]
        reason = self._wrong_host(hosts)
        if reason is None and is_page:
            reason = self._wrong_page(connection.headers, hosts, connection.scope)
        if reason is None:
            return True
        more = _refused.due(reason)
        if more is not None:
            logger.warning("%s%s", reason, more)
        return False

    def _wrong_host(self, hosts: list[str]) -> str | None:
        if not self._is_loopback_only:
            return None
        found = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if found is not None and (_is_loopback(found[1]) or any(_fits(found[1], own.host) for own in self._all())):
            return None
        shown = ", ".join(hosts)[:200]
        return (
            f"host {shown!r} is no name of this server, which listens on loopback alone; "
            "allow its pages, or listen on another address"
        )

    def _wrong_page(self, headers: Headers, hosts: list[str], scope: Scope) -> str | None:
        if self.allows_any:
            return None
        origins = headers.getlist("origin")
        if not origins:
            sites = headers.getlist("sec-fetch-site")
            site = sites[0] if sites else "none"
            if scope.get("method") in _SAFE_METHODS or site in _OWN_SITE:
                return None  # no page, or a plain link
            return f"a page of another site ({site[:50]!r}) may not change anything here"
        origin = _parse(origins[0]) if len(origins) == 1 else None
        if origin is not None and (self._names(origin) or (len(hosts) == 1 and _is_own(origin, hosts[0], scope))):
            return None
        shown = ", ".join(origins)[:200]
        return f"origin {shown!r} may not connect; add it with Hub(origins=[…]) or the setting `allowed_origins`"

    def _names(self, origin: _Origin) -> bool:
        return origin in self._exact or any(
            origin.scheme == known.scheme and known.port in (0, origin.port) and _fits(origin.host, known.host)
            for known in self._patterns
        )

    def _all(self) -> tuple[_Origin, ...]:
        return (*self._exact, *self._patterns)


def _parse(text: str) -> _Origin | None:
    """Return an origin as a browser sends it; None for "null" and for anything else."""
    found = _ORIGIN.fullmatch(text)
    if found is None or found[3] == "*" or "*" in found[2]:
        return None
    port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(found[1])
    return None if port is not None and not 0 < port < 65_536 else _Origin(found[1], found[2], port)


def _is_own(origin: _Origin, host: str, scope: Scope) -> bool:
    """Return whether a page is of the site that the Host header names; a proxy may have ended its TLS.

    A page without TLS is of another site than a request with it, because anybody in between may have written that page.
    """
    if origin.scheme == "http" and scope.get("scheme") in ("https", "wss"):
        return False
    found = _HOST.fullmatch(host.lower())
    if found is None or origin.scheme not in _DEFAULT_PORTS or origin.host != found[1]:
        return False
    return origin.port == (int(found[2]) if found[2] else _DEFAULT_PORTS[origin.scheme])


def _configured(text: str) -> _Origin:
    """Read an origin that an application allows."""
    if not isinstance(text, str) or text == "null" or text.startswith("file:"):
        raise ConfigurationError(
            f"allowed origin {shown(text)} would let every page in: any site can make a frame whose origin is null; "
            'write "*" if that is meant'
        )
    scheme, separator, rest = text.removesuffix("/").partition("://")
    scheme = scheme.lower()
    if not separator or scheme in _OF_PAGES:
        mended = f"{_OF_PAGES.get(scheme, 'https')}://{rest or scheme}"
        raise ConfigurationError(f"allowed origin {text!r} is no page's; write it as {mended}")
    found = _ORIGIN.fullmatch(f"{scheme}://{rest.lower()}")
    if found is None:
        raise ConfigurationError(f"allowed origin {text!r} is none; write scheme, host and port: https://example.org")
    if found[3] == "*":
        port: int | None = 0
    else:
        port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(scheme)
        if port is not None and not 0 < port < 65_536:
            raise ConfigurationError(f"allowed origin {text!r} has a port that is none; write 1 to 65535, or *")
    return _Origin(scheme, _host_as_sent(found[2], text), port)


def _host_as_sent(host: str, text: str) -> str:
    """Return a host as browsers send it: addresses in their short form, international names in ASCII."""
    wildcard, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        if name.startswith("["):
            return f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        if re.fullmatch(r"[0-9.]+", name):
            return str(ipaddress.IPv4Address(name))
        if name.isascii():
            encoded = name
        elif _AMBIGUOUS.search(name):
            raise ConfigurationError(f"allowed origin {text!r} can be read in two ways; write its ASCII form (xn--…)")
        else:
            encoded = name.encode("idna").decode()
    except (ValueError, UnicodeError):
        raise ConfigurationError(
            f"allowed origin {text!r} has a host that is none; write https://example.org"
        ) from None
    if "*" in encoded and (wildcard or encoded != "*"):
        raise ConfigurationError(f"allowed origin {text!r} has its * where none can be; write https://*.example.org")
    return wildcard + encoded


def _fits(host: str, pattern: str) -> bool:
    """Return whether a host is the one meant, or one below it for "*.example.org"."""
    if pattern.startswith("*"):
        return pattern == "*" or (host.endswith(pattern[1:]) and len(host) > len(pattern) - 1)
    return host == pattern


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    name = host.strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
