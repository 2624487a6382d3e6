"""The decorators of an application's functions: rules of channels, answers to calls, authentication by tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tidewire.hub.core import HubCore
from tidewire.options import SlowPolicy
from tidewire.rules.book import Authenticate, rule_options
from tidewire.rules.channel_rule import ChannelRule
from tidewire.rules.handlers import MessageTypes

__all__ = ("Decorators",)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")


class Decorators(HubCore):
    """The functions by which an application decides."""

    def channel(
        self,
        pattern: str,
        *,
        publishes: Any = None,
        accepts: Any = None,
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
    ) -> Callable[[Callable[P, T]], ChannelRule[P, T]]:
        """Decide with a function what a user may do in the channels of a pattern, and set their options.

        `@hub.channel("room:{room}")` over `async def room(room: int, user: str) -> bool | Permissions`: the function is
        given the parameters of the pattern, converted to their types, the `user`, and the value that the connection's
        dependency returned where a parameter has its type. True allows everything, False nothing; it may raise
        PermissionDenied. The `ChannelRule` that the decorator returns is called like the function. The options hold for
        all other uses of these channels.

        `publishes` is the type of the messages in these channels, `accepts` of those that clients publish (by default
        the same): pydantic models, dataclasses, TypedDicts, msgspec structs, unions. A message of another type is
        refused with InvalidMessage; what is stored already is shown as it is.
        Raises ConfigurationError for a pattern that has a rule, and for what is no type.
        """
        options = rule_options(
            history=history,
            history_seconds=history_seconds,
            recover=recover,
            presence=presence,
            join_leave=join_leave,
            latest=latest,
            delta=delta,
            tags_filter=tags_filter,
            slow=slow,
            ephemeral=ephemeral,
        )

        types = MessageTypes(publishes, accepts)

        def add(function: Callable[P, T]) -> ChannelRule[P, T]:
            return ChannelRule(self._book.add_channel(pattern, options, function, types), function)

        return add

    def rpc(self, name: str) -> Callable[[F], F]:
        """Answer a call of clients with a function: `@hub.rpc("add")` over `async def add(data: Numbers, user: str)`.

        A parameter of a pydantic or msgspec type (or named `data`) is the client's argument; the return value is sent
        as JSON. Raises ConfigurationError for a name that has a function.
        """

        def add(function: F) -> F:
            self._book.add_call(name, function)
            return function

        return add

    def authenticate(self, function: Authenticate) -> Authenticate:
        """Recognise tokens with a function: it returns a user's name or an `Identity`, None for an invalid token.

        Clients that present a token in the protocol, as the Centrifuge SDKs do, are identified by it, not by the
        dependency of the route. The function may raise TokenExpired: then the client fetches another token.
        """
        self._book.add_authentication(function)
        return function
