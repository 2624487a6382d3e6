"""How a client of a test connects: its path, its user, and the values that it gives the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

__all__ = ("Opening", "opening", "with_params")


class Opening(msgspec.Struct, frozen=True):
    """One way to connect, which `back` uses again."""

    name: str
    path: str
    user: str = ""
    #: The value that the application's own dependency would return, for rules that ask for its type.
    context: Any = None
    headers: Mapping[str, str] = {}
    subprotocols: tuple[str, ...] = ()
    #: The number of the worker; None for the next in turn.
    worker: int | None = None
    #: The test gave it neither a name nor a user: it gets the name of the user that the endpoint finds.
    is_nameless: bool = False


def with_params(path: str, params: Mapping[str, Any] | None) -> str:
    """Return a path with query parameters, which replace those of the same names."""
    if not params:
        return path
    bare, _, query = path.partition("?")
    return f"{bare}?{urlencode([*((k, v) for k, v in parse_qsl(query) if k not in params), *params.items()])}"


def opening(
    name: str,
    path: str,
    *,
    user: str,
    params: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    cookies: Mapping[str, str] | None,
    subprotocols: tuple[str, ...] = (),
    context: Any = None,
    worker: int | None = None,
    is_nameless: bool = False,
) -> Opening:
    """Return how a client connects, with query parameters in its path and cookies in its headers."""
    path = with_params(path, params)
    sent = dict(headers or {})
    if cookies:
        sent["Cookie"] = "; ".join(f"{key}={value}" for key, value in cookies.items())
    return Opening(name, path, user, context, sent, subprotocols, worker, is_nameless)
