"""The decorators of a hub: which function decides for a channel, answers a call, or knows whose token it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tidewire.options import ChannelOptions, ChannelRules, Limits, SlowPolicy
from tidewire.rules.book import Rule, RuleBook
from tidewire.rules.pattern import Pattern
from tidewire.rules.rule_authority import Authenticate, RuleAuthority

__all__ = ("Ruled",)

F = TypeVar("F", bound=Callable[..., Any])


class Ruled:
    """What a hub has of rules."""

    def __init__(self, rules: ChannelRules, limits: Limits) -> None:
        self._rules = rules
        self._book = RuleBook()
        self._rules.prefer(self._book.options)
        #: Decides for clients that choose their channels themselves: by the rules of `channel` and `rpc`.
        self.authority = RuleAuthority(self._book, rules, limits)

    def channel(
        self,
        pattern: str,
        *,
        history: int = 100,
        history_seconds: float = 86_400.0,
        recover: bool = True,
        presence: bool = False,
        join_leave: bool = False,
        latest: bool = False,
        delta: bool = False,
        tags_filter: bool = False,
        slow: SlowPolicy = SlowPolicy.DISCONNECT,
    ) -> Callable[[F], F]:
        """Decide with a function what a user may do in the channels of a pattern, and say what these offer.

        `@hub.channel("room:{room}")` over `async def room(room: int, user: str) -> bool | Permissions`: it is given the
        parameters of the pattern, converted to their types, the `user`, and what the connection's dependency returned
        where a parameter has that type. True allows all, False nothing; it may raise PermissionDenied. The options hold
        for everything else that uses these channels. Raises ConfigurationError for a pattern that is there.
        """
        options = ChannelOptions(
            history_size=history,
            history_seconds=history_seconds,
            slow=slow,
            # dialects that do not ask rules leave these channels alone
            subscribe=False,
            publish=False,
            presence=presence,
            join_leave=join_leave,
            force_join_leave=join_leave,
            positioned=True,
            recoverable=recover and history > 0,
            force_recoverable=recover and history > 0,
            latest=latest,
            delta=delta,
            tags_filter=tags_filter,
        )

        def add(function: F) -> F:
            self._book.add(Rule(Pattern(pattern), options, function))
            self._rules.changed()
            return function

        return add

    def rpc(self, name: str) -> Callable[[F], F]:
        """Answer a call of clients with a function: `@hub.rpc("add")` over `async def add(data: Numbers, user: str)`.

        A parameter of a pydantic or msgspec type (or called `data`) is what the client sent; what is returned goes back
        as JSON. Raises ConfigurationError for a name that is there.
        """

        def add(function: F) -> F:
            self._book.add_call(name, function)
            return function

        return add

    def authenticate(self, function: Authenticate) -> Authenticate:
        """Let a function say who brings a token: a user's name or an `Identity`; None for a token that is not good.

        Clients that present their token in the protocol, as the Centrifuge SDKs do, are asked for it here and not in
        the dependency of the route. It may raise TokenExpired: the client fetches another.
        """
        self.authority.authenticate = function
        return function
