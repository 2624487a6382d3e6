"""The decorators of an application's functions: rules of channels, answers to calls, authentication by tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from tidewire.channel_options import ChannelOptions, MapOptions, SlowPolicy
from tidewire.errors import ConfigurationError
from tidewire.events.event_handlers import DeadEvent
from tidewire.hub.lifecycle import HubLifecycle
from tidewire.rules.book import Authenticate, map_options, ruled
from tidewire.rules.channel_rule import ChannelRule
from tidewire.rules.publish_handlers import MessageTypes
from tidewire.rules.rate_limits import RateLimit
from tidewire.support.shown_value import kind_of, shown

__all__ = ("Decorators",)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")


class Decorators(HubLifecycle):
    """The functions by which an application decides."""

    def channel(
        self,
        pattern: str,
        *,
        publishes: Any = None,
        accepts: Any = None,
        rate: RateLimit | str | None = None,
        history: int = 100,
        history_seconds: float = 86_400.0,
        recover: bool = True,
        presence: bool = False,
        join_leave: bool = False,
        latest: bool = False,
        delta: bool = False,
        tags_filter: bool = False,
        slow: SlowPolicy = SlowPolicy.DISCONNECT,
        ephemeral: bool = False,
        map: bool | MapOptions = False,
        clients_map: str = "",
        users_map: str = "",
    ) -> Callable[[Callable[P, T]], ChannelRule[P, T]]:
        """Decide by a function on the permissions of users in the channels of a pattern, and set their options.

        `@hub.channel("room:{room}")` over `async def room(room: int, user: str) -> bool | Permissions`: the function is
        given the parameters of the pattern, converted to their types, the `user`, and the value that the connection's
        dependency returned where a parameter has its type. True allows everything, False nothing; it may raise
        PermissionDenied. The `ChannelRule` that the decorator returns is called like the function. The options hold for
        all other uses of these channels.

        `publishes` is the type of the messages in these channels, `accepts` of those that clients publish (by default
        the same): pydantic models, dataclasses, TypedDicts, msgspec structs, unions. A message of another type is
        refused with InvalidMessage; stored messages are shown as they are. `rate` bounds how often clients publish:
        "5/s burst 10 per user", per channel, per address.
        Raises ConfigurationError for a pattern that has a rule already, and for a type that is none.
        """
        options = ChannelOptions(
            history_size=history,
            history_seconds=history_seconds,
            slow=slow,
            presence=presence,
            join_leave=join_leave,
            latest=latest,
            delta=delta,
            tags_filter=tags_filter,
            ephemeral=ephemeral,
            map=map_options(map),
            clients_map=clients_map,
            users_map=users_map,
        )
        options = ruled(options, recover=recover)
        _check_text(pattern, "the pattern of a channel's rule", "room:{room}")
        for name in (clients_map, users_map):
            _check_text(name, "the prefix of a map of clients or users", "who:")
        types = MessageTypes(publishes, accepts)
        limit = self._limit(rate, pattern)

        def add(function: Callable[P, T]) -> ChannelRule[P, T]:
            return ChannelRule(self._book.add_channel(pattern, options, function, types, limit), function)

        return add

    def rate(self, text: str, *, name: str = "") -> RateLimit:
        """Make a rate for rules, calls and routes together: `hub.rate("5/s burst 10 per user")`.

        It is exact over all workers of a machine, and holds over nodes within a lease. Give it to `channel` and `rpc`
        as `rate=`, and to a route as `Depends(limit.route(user=current_user))`. Rates of one `name` share a bucket.
        Raises ConfigurationError for a text that is no rate.
        """
        self._made_rates += 1
        return RateLimit(text, name or f"rate {self._made_rates}", lambda: self.node.registry.counts)

    def _limit(self, rate: RateLimit | str | None, name: str) -> RateLimit | None:
        if rate is not None and not isinstance(rate, str | RateLimit):
            raise ConfigurationError(f"rate={shown(rate)} is none; write '5/s burst 10 per user'")
        if isinstance(rate, str):
            return RateLimit(rate, name, lambda: self.node.registry.counts)
        return rate

    def rpc(self, name: str, *, rate: RateLimit | str | None = None) -> Callable[[F], F]:
        """Answer a call of clients with a function: `@hub.rpc("add")` over `async def add(data: Numbers, user: str)`.

        A parameter of a pydantic or msgspec type (or named `data`) is the client's argument; the return value is sent
        as JSON. `rate` bounds how often it is called, as that of `channel`. Raises ConfigurationError for a name that
        has a function.
        """
        _check_text(name, "the name of a call", "add")
        limit = self._limit(rate, f"call {name}")

        def add(function: F) -> F:
            self._book.add_call(name, function, limit)
            return function

        return add

    def on(self, event: str, pattern: str = "") -> Callable[[F], F]:
        """Call a function for an event: `@hub.on("joined", "room:{room}")` over `def joined(room: int, user: str)`.

        The events are joined and left (the first connection of a user in a channel, and the last), occupied and vacated
        (a channel), connected and disconnected (a user; no pattern). One of all workers calls the function, at least
        once for each `event: Event`, in order by user and channel. When a worker is killed, another one reports the
        ends of its members; a user that is back within `grace_seconds` causes no event. A function that raises is
        called again, with pauses; after the last attempt the event is dead, and `dead_events` lists it. Raises
        ConfigurationError for an unknown event, and for a function that cannot take it.
        """

        _check_text(event, "the event", "joined")
        _check_text(pattern, "the pattern of an event", "room:{room}")

        def add(function: F) -> F:
            if not callable(function):
                raise ConfigurationError(
                    f"{shown(function)} handles no event; write @hub.on({event!r}) over a function"
                )
            self._events.add(event, pattern, function)
            return function

        return add

    def webhook(self, url: str, *, secret: str, events: Sequence[str], allow_private: bool = False) -> None:
        """Send events to a URL: `events=["connected", "joined room:{room}"]`, in batches, signed with a secret.

        A batch that is not answered with 2xx within ten seconds is sent again, with pauses, for a day. Unless
        `allow_private`, nothing is sent to a private address. Raises ConfigurationError for arguments that cannot work.
        """
        _check_text(url, "the URL of a webhook", "https://example.org/events", kind_of)
        if secret is not None:
            _check_text(secret, "the secret of a webhook", "a long random text", kind_of)
        self._events.add_webhook(url, secret, events, allow_private=allow_private)

    async def dead_events(self) -> list[DeadEvent]:
        """Return the events whose handler has raised at every attempt; raises StoreUnavailable."""
        return await self._events.dead(self.node)

    async def repeat_event(self, id: str) -> None:
        """Call each handler that has refused an event again, in this process; those that handle it are done with it.

        Raises the error of the first that refuses it still, whose notes name the others, and ConfigurationError.
        """
        await self._events.repeat(self.node, id)

    def authenticate(self, function: Authenticate) -> Authenticate:
        """Recognise tokens with a function: it returns a user's name or an `Identity`, None for an invalid token.

        Clients that present a token in the protocol, as the Centrifuge SDKs do, are identified by it, not by the
        dependency of the route. The function may raise TokenExpired: then the client fetches another token.
        """
        self._book.add_authentication(function)
        return function


def _check_text(value: object, what: str, example: str, show: Callable[[object], str] = shown) -> None:
    if inspect.isfunction(value):
        raise ConfigurationError(f"{what} is missing: the decorator takes it in parentheses, as ({example!r})")
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is {show(value)}; write text, as {example!r}")
