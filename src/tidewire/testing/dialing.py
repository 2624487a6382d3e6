"""How a client of a test connects: its path, its user, and what it shows the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

__all__ = ("Opening", "opening")


class Opening(msgspec.Struct, frozen=True):
    """One way to connect, which `back` takes again."""

    name: str
    path: str
    user: str = ""
    #: The value that the application's own dependency would return, for rules that ask for its type.
    context: Any = None
    headers: Mapping[str, str] = {}
    subprotocols: tuple[str, ...] = ()
    #: The number of the worker; None for the next in turn.
    worker: int | None = None


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
) -> Opening:
    """Return how a client connects, with query parameters and cookies where they travel."""
    if params:
        path = f"{path}{'&' if '?' in path else '?'}{urlencode(params)}"
    sent = dict(headers or {})
    if cookies:
        sent["Cookie"] = "; ".join(f"{key}={value}" for key, value in cookies.items())
    return Opening(name, path, user, context, sent, subprotocols, worker)
