"""A rule as the application holds it: its function, to which more functions of the same channels are added."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Generic, ParamSpec, TypeVar

from tidewire.channels import check_text
from tidewire.errors import ConfigurationError
from tidewire.protocols.centrifuge.key_signatures import sign_keys
from tidewire.rules.book import Rule

__all__ = ("ChannelRule",)

P = ParamSpec("P")
T = TypeVar("T")
Q = ParamSpec("Q")
R = TypeVar("R")


class ChannelRule(Generic[P, T]):
    """The rule of a pattern of channels, as `Hub.channel` returns it; calling it calls its function."""

    __wrapped__: Callable[P, T]

    def __init__(self, rule: Rule, function: Callable[P, T]) -> None:
        functools.update_wrapper(self, function)
        self._rule = rule

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function of the rule."""
        return self.__wrapped__(*args, **kwargs)

    def on_publish(self, handler: Callable[Q, R]) -> Callable[Q, R]:
        """Give each message that a client publishes to a function, before it is kept, in the client's order.

        `@room.on_publish` over `async def said(room: int, user: User, message: Say) -> Said | None`: its result is
        published, None publishes nothing, and an exception refuses the message. The function takes the parameters of a
        rule, and the message as `message`, `data` or by its type. Publications of the application pass no handler.
        Raises ConfigurationError for a second function, and for one that cannot be a handler.
        """
        self._rule.handle_with(handler)
        return handler

    def state(self, function: Callable[Q, R]) -> Callable[Q, R]:
        """Join state of your application with the channel: `@orders.state` over `async def current(shop: int) -> …`.

        A subscriber is given the function's result, as JSON, with the position before the call, and then every
        publication after that position; so is a client whose gap cannot be filled. Concurrent subscribers share one
        call. The function takes parameters of the pattern and dependencies, and returns a value that JSON can express.
        Raises ConfigurationError for a second function, and for one that asks for the user.
        """
        self._rule.ask_for_state(function)
        return function

    def poll(
        self, *, every: float, versioned: bool = False, secret: str | None = None
    ) -> Callable[[Callable[Q, R]], Callable[Q, R]]:
        """Ask a function for the values of keys, again and again, while clients track some of them.

        `@prices.poll(every=1.0)` over `async def current(market: str, keys: list[str]) -> dict[str, Price]`: each node
        calls it once for all clients that track keys, and pushes to each client those of its keys that have changed. A
        key that is missing in the result has no value: clients that had one are notified that it is removed. With
        `versioned`, the function returns pairs `(version, value)`, and a value counts as changed when its version is
        higher. With a `secret`, a client may track only keys that `sign` has signed, otherwise any. The function takes
        `keys`, parameters of the pattern, and dependencies. Raises ConfigurationError for a second function, and for
        one that asks for the user.
        """

        def add(function: Callable[Q, R]) -> Callable[Q, R]:
            self._rule.poll_with(function, every=every, versioned=versioned, secret=secret)
            return function

        return add

    def sign(self, channel: str, keys: Sequence[str], user: str = "", *, seconds: float = 3_600.0) -> str:
        """Return the signature with which a user tracks polled keys of a channel, in this order, for so many seconds.

        Give it to the client with its keys, from a route that knows which keys the user may see. `user` is the one of
        its connection. Raises ConfigurationError where `poll` was given no secret, and for a channel of another rule;
        BadRequest for a key that nobody can track.
        """
        poll = self._rule.poll
        if poll is None or not poll.secret:
            raise ConfigurationError(f"keys of {self.pattern!r} are not signed; write poll(…, secret=…)")
        if isinstance(keys, str) or self._rule.pattern.match(channel) is None:
            raise ConfigurationError(
                f"no list of keys of {self.pattern!r}: {keys!r:.60} of the channel {channel!r:.60}"
            )
        # keys are joined by NUL: one that has it would be signed as two
        checked = [check_text(key, "key") for key in keys]
        return sign_keys(poll.secret, channel, checked, user, seconds=seconds)

    @property
    def pattern(self) -> str:
        """The pattern of the channels' names."""
        return self._rule.pattern.text
