"""The limits that an application gives its hubs, and those of the server that runs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.limits import Limits
from tidewire.support.shown_value import shown

__all__ = ("SERVER_LIMITS", "ServerLimits", "read_limits")

logger = logging.getLogger("tidewire")


def read_limits(given: Limits | Mapping[str, float] | None) -> Limits:
    """Return the limits that an application gives, also as a mapping of their names; raises ConfigurationError."""
    if given is None or isinstance(given, Limits):
        return given or Limits()
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"limits={shown(given)} are none; write Limits(rate=50.0)")
    unknown = [name for name in given if name not in Limits.__struct_fields__]
    if unknown:
        raise ConfigurationError(f"there is no limit {unknown[0]!r}; there are {', '.join(Limits.__struct_fields__)}")
    if wrong := [f"{name}={shown(value)}" for name, value in given.items() if not isinstance(value, int | float)]:
        raise ConfigurationError(f"limit {wrong[0]} is no number")
    return Limits(**dict[str, Any](given))


#: Limits that a server has once, even if its application has several hubs.
_OF_THE_SERVER = frozenset(
    {"arrivals", "body_rate", "body_seconds", "connections_per_address", "drain_seconds", "fragments", "header_bytes"}
    | {"header_seconds", "inbox_bytes", "message_seconds", "message_size", "ping_seconds", "pipelined"}
    | {"pong_seconds", "stalled_seconds"}
)


class ServerLimits:
    """The limits of a process in which our server runs an application: one truth for its links and its hubs.

    A limit that the server's settings give counts; any other is as the application's hub says.
    """

    def __init__(self) -> None:
        self._given: Mapping[str, float] | None = None
        self._of_hubs: dict[str, float] = {}
        self._links: Limits | None = None

    def begin(self, given: Mapping[str, float]) -> None:
        """Take the limits of the settings, before the application is loaded."""
        self._given, self._of_hubs, self._links = given, {}, None

    def end(self) -> None:
        """Forget everything: the server has ended, and hubs are an application's alone."""
        self._given, self._of_hubs, self._links = None, {}, None

    def of_hub(self, limits: Limits) -> Limits:
        """Return the limits of a hub that was given these; raises ConfigurationError where two hubs contradict."""
        if self._given is None:
            return limits
        for field in msgspec.structs.fields(Limits):
            name, value = field.name, getattr(limits, field.name)
            if value == field.default:
                continue
            given = self._given.get(name)
            if given is None:
                self._check(name, value)
            elif value != given:
                logger.warning("limit %s is %g by the server's settings, not %g as the hub says", name, given, value)
        return msgspec.structs.replace(limits, **dict[str, Any](self._given))

    def _check(self, name: str, value: float) -> None:
        """Take the limit that a hub gives; raise ConfigurationError if the server has another one already."""
        if name not in _OF_THE_SERVER:
            return
        if self._links is not None and value != (known := getattr(self._links, name)):
            raise ConfigurationError(
                f"limit {name}={value:g} of this hub comes too late: the server has {known:g}; "
                f"make the hub when its module is imported, or write --limit {name}={value:g}"
            )
        if self._of_hubs.setdefault(name, value) != value:
            raise ConfigurationError(
                f"limit {name} is {self._of_hubs[name]:g} in one hub and {value:g} in another, "
                f"and a server has one; write --limit {name}={value:g}"
            )

    def of_links(self, limits: Limits) -> Limits:
        """Return the limits of the server whose settings are these, when the application is loaded."""
        self._links = msgspec.structs.replace(limits, **dict[str, Any](self._of_hubs))
        return self._links


#: Those of this process.
SERVER_LIMITS = ServerLimits()
