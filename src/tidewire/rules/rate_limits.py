"""Rates that an application sets, over all workers, and with the same bucket in routes: "5/s burst 10 per user"."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from tidewire.errors import ConfigurationError, RateLimited
from tidewire.rules.base import Caller
from tidewire.support.counters import count_limit
from tidewire.support.key_counts import Counts
from tidewire.support.networks import network_of
from tidewire.support.shown_value import shown

__all__ = ("RateLimit", "rate_of_key")

_TEXT = re.compile(
    r"(\d+(?:\.\d+)?)\s*/\s*(\d*)\s*(s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)\b(?:\s+burst\s+(\d+))?"
)
_PER = re.compile(r"\s+per\s+(user|channel|address|connection)\b")
#: Seconds by which a time is rounded.
_EXACT = 1e-6
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
#: The keys of these rates among all that is counted begin with this, and then say their rate and burst.
_PREFIX = "rule"
#: Characters of a rate, beyond which its numbers have no end.
_LONGEST = 100


class _Rate(NamedTuple):
    """So many a second, and so many at once, for each user, channel, address or connection."""

    rate: float
    burst: float
    per: tuple[str, ...]


class RateLimit:
    """Buckets for rules, calls and routes: "5/s burst 10 per user", "100/min per channel, 1/s per user".

    Without `per` it is for each user, without `burst` for as many as come in a second, at least one. Somebody without
    a name counts by the address. Raises ConfigurationError for a text that is no rate.
    """

    def __init__(self, text: str, name: str, counts: Callable[[], Counts]) -> None:
        self.text = text
        self.name = name
        self._counts = counts
        if not isinstance(text, str):
            raise ConfigurationError(f"rate={shown(text)} is none; write '5/s burst 10 per user'")
        self._rates = list(dict.fromkeys(_parsed(part.strip(), text) for part in text.split(",")))

    def take(self, caller: Caller, channel: str = "") -> None:
        """Take one from each bucket; raises RateLimited, which says after how many seconds there is another."""
        user = caller.identity.user or f"@{network_of(caller.address) or caller.client}"
        self._take(
            {"user": user, "channel": channel, "connection": caller.client, "address": network_of(caller.address)}
        )

    def _take(self, subjects: dict[str, str]) -> None:
        counts = self._counts()
        buckets = [
            (f"{_PREFIX} {rate:g} {burst:g} {self.name!r} {[(word, subjects[word]) for word in per]}", rate, burst)
            for rate, burst, per in self._rates
        ]
        # a client that is refused by one bucket takes nothing from the others
        if len(buckets) > 1 and (wait := max([counts.wait(*bucket) for bucket in buckets])) > _EXACT:
            raise self._limited(wait)
        for key, rate, burst in buckets:
            if not counts.take(key, 1, rate, burst):
                raise self._limited(counts.wait(key, rate, burst))

    def _limited(self, wait: float) -> RateLimited:
        count_limit("rate")
        wait = max(0.001, wait - _EXACT)
        after = math.ceil(wait * 1_000) / 1_000 if wait < 10 else float(math.ceil(wait))
        return RateLimited(f"more than {self.text!r} allows; try again in {after:g} s", retry_after=after)

    def route(self, user: Callable[..., Any] | None = None, channel: str = "") -> Callable[..., Awaitable[None]]:
        """Make a dependency of FastAPI that takes from the same buckets, and answers 429 with `Retry-After`.

        `user` is the dependency that returns the user's name, or an object that has a `name`, where the rate is for
        each user; `channel` the name of the path's parameter, where it is for each channel.
        """
        if user is None:

            async def anybody(connection: HTTPConnection) -> None:
                self._take_of(connection, "", channel)

            return anybody

        async def somebody(connection: HTTPConnection, who: Any = Depends(user)) -> None:
            self._take_of(connection, _name_of(who), channel)

        return somebody

    def _take_of(self, connection: HTTPConnection, user: str, channel: str) -> None:
        address = network_of(connection.client.host if connection.client is not None else "")
        subjects = {"user": user or f"@{address}", "connection": address, "address": address}
        try:
            self._take(subjects | {"channel": str(connection.path_params.get(channel, channel))})
        except RateLimited as error:
            detail = {"message": str(error), "retry_after": error.retry_after}
            headers = {"Retry-After": str(math.ceil(error.retry_after or 1.0))}
            raise HTTPException(429, detail, headers) from None


def rate_of_key(key: str) -> float | None:
    """Return the rate that a key says, if it is one of these."""
    prefix, _, rest = key.partition(" ")
    if prefix != _PREFIX:
        return None
    return float(rest.partition(" ")[0])


def _name_of(who: Any) -> str:
    """Return the name of a user; raises ConfigurationError for one without, whose text is another one each time."""
    name = getattr(who, "name", who)
    if name is None or isinstance(name, str | int | UUID):
        return str(name or "")
    raise ConfigurationError(
        f"limit.route(user=…) got {type(who).__name__}, which has no name; give a dependency that returns the name"
    )


def _parsed(part: str, text: str) -> _Rate:
    found = _TEXT.match(part)
    rest = "" if found is None else part[found.end() :]
    per = tuple(_PER.findall(rest))
    if found is None or len(part) > _LONGEST or _PER.sub("", rest).strip():
        raise ConfigurationError(
            f"rate={shown(text)} is none; write '5/s burst 10 per user', or per channel, address or connection"
        )
    number, count, unit, burst = found.groups()
    rate = float(number) / (_SECONDS[unit[0]] * int(count or 1)) if count != "0" else 0.0
    if rate <= 0 or burst == "0":
        raise ConfigurationError(f"rate={text!r} lets nothing through; write a number greater than 0")
    return _Rate(rate, float(burst or max(1, math.ceil(rate))), per or ("user",))
