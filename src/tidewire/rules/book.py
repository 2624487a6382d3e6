"""The rules of one hub: which function decides for a channel, answers a call, or recognises a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from tidewire.channel_options import ChannelOptions, MapOptions
from tidewire.channels import is_reserved
from tidewire.errors import ConfigurationError, UnknownChannel
from tidewire.messages import Format
from tidewire.protocols.message_shape import Shape
from tidewire.rules.base import Caller, ConnectAttempt, Identity, Intake, Poll
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.handlers import Bound
from tidewire.rules.options_by_name import OptionsByName
from tidewire.rules.parameters import NoMatch
from tidewire.rules.pattern import Pattern
from tidewire.rules.permissions import ALL, NOTHING, Permissions
from tidewire.rules.poll_function import PollFunction
from tidewire.rules.publish_handlers import Handler, MessageTypes
from tidewire.rules.rate_limits import RateLimit
from tidewire.rules.state_function import StateFunction
from tidewire.support.shown_value import shown

__all__ = ("Authenticate", "Rule", "RuleBook", "map_options", "ruled")

#: Channel names whose rule is remembered.
_REMEMBERED = 10_000

#: Returns the user of a token, or None for a token that is not valid.
Authenticate = Callable[[ConnectAttempt], Awaitable[Identity | str | None] | Identity | str | None]


def map_options(given: bool | MapOptions) -> MapOptions | None:
    """Return the `map` of a rule as an option of its channels; raises ConfigurationError for another value."""
    if not isinstance(given, bool | MapOptions):
        raise ConfigurationError(f"map={shown(given)} is none; write True, or MapOptions(…)")
    return MapOptions() if given is True else given or None


def ruled(options: ChannelOptions, *, recover: bool) -> ChannelOptions:
    """Return the options of channels that have a rule: it decides for clients, and `recover` holds for all of them."""
    is_recoverable = recover and options.history_size > 0
    return msgspec.structs.replace(
        options,
        subscribe=False,
        publish=False,
        force_join_leave=options.join_leave,
        recoverable=is_recoverable,
        force_recoverable=is_recoverable,
    )


class Rule:
    """A pattern of channel names, their options and types, and the functions that decide for them."""

    __slots__ = ("_bound", "_overrides", "function", "handler", "options", "pattern", "poll", "rate", "state", "types")

    def __init__(
        self,
        pattern: Pattern,
        options: ChannelOptions,
        function: Callable[..., Any],
        types: MessageTypes,
        rate: RateLimit | None,
        overrides: Overrides,
    ) -> None:
        self.pattern = pattern
        self.function = function
        self.options = options
        self.types = types
        self.rate = rate
        #: Takes the messages that clients publish.
        self.handler: Handler | None = None
        #: Returns the state of a channel.
        self.state: StateFunction | None = None
        #: Returns the values of keys.
        self.poll: PollFunction | None = None
        self._overrides = overrides
        self._bound = Bound(function, pattern.names, overrides=overrides)

    def handle_with(self, function: Callable[..., Any]) -> None:
        """Pass the messages of clients to a function; raises ConfigurationError if the rule has a handler already."""
        if self.handler is not None:
            raise ConfigurationError(
                f"{self.pattern.text!r} has a handler for messages of clients already; handle all in one function"
            )
        self.handler = Handler(function, self.pattern.text, self.pattern.names, self.types, self._overrides)

    def ask_for_state(self, function: Callable[..., Any]) -> None:
        """Take the state of a channel from a function; raises ConfigurationError if the rule has one already."""
        if self.state is not None:
            raise ConfigurationError(f"{self.pattern.text!r} has a function for its state already; write one")
        self.state = StateFunction(function, self.pattern.text, self.pattern.names, self._overrides)

    def poll_with(
        self, function: Callable[..., Any], *, every: float, versioned: bool, secret: str | None
    ) -> PollFunction:
        """Ask a function for the values of keys; raises ConfigurationError if the rule has one already."""
        if self.poll is not None:
            raise ConfigurationError(f"{self.pattern.text!r} has a function for its polled values already; write one")
        self.poll = PollFunction(
            function,
            self.pattern.text,
            self.pattern.names,
            self._overrides,
            every=every,
            versioned=versioned,
            secret=secret,
        )
        return self.poll

    @property
    def has_intake(self) -> bool:
        """Whether messages of clients are checked or handled."""
        return self.handler is not None or self.types.of_clients is not None or self.rate is not None

    async def take(
        self, channel: str, texts: dict[str, str], caller: Caller, data: bytes, format_: Format
    ) -> tuple[bytes, Format] | None:
        """Return the message to keep for a client's, None for none; raises CommandError, and as the handler does."""
        if self.rate is not None:
            self.rate.take(caller, channel)
        if self.handler is not None:
            return await self.handler.handle(caller, channel, texts, data, format_)
        shape = self.types.of_clients
        return (data, format_) if shape is None else shape.check(data, format_)

    async def decide(self, caller: Caller, channel: str, texts: dict[str, str]) -> Permissions:
        """Return the permissions of a caller; raises as the rule does, UnknownChannel for other names."""
        try:
            decision = await self._bound(caller, texts)
        except NoMatch:
            raise UnknownChannel(f"no rule is for channel {channel!r}") from None
        if isinstance(decision, bool):
            return ALL if decision else NOTHING
        if not isinstance(decision, Permissions):
            raise ConfigurationError(
                f"the rule for {self.pattern.text!r} returned {type(decision).__name__}; "
                "return True, False or Permissions(…)"
            )
        return decision


class RuleBook:
    """All rules of one hub.

    The rule of a channel is the one with its exact name, else the one with the most specific pattern, else the first
    that was added. The options of a rule take precedence over those of `channels`.
    """

    __slots__ = ("_call_rates", "_calls", "_channels", "_found", "_rules", "authenticate", "overrides")

    def __init__(self, channels: OptionsByName) -> None:
        self._channels = channels
        self._rules: list[Rule] = []
        self._calls: dict[str, Bound] = {}
        self._call_rates: dict[str, RateLimit] = {}
        self._found: dict[str, tuple[Rule, dict[str, str]] | None] = {}
        #: The functions that stand in for dependencies of rules, handlers and calls, in tests.
        self.overrides = Overrides()
        #: Recognises the tokens that clients bring in the protocol.
        self.authenticate: Authenticate | None = None
        channels.prefer(self.options, self.pattern)
        channels.ask_states_by(self.state)

    def __len__(self) -> int:
        return len(self._rules)

    def add_channel(
        self,
        pattern: str,
        options: ChannelOptions,
        function: Callable[..., Any],
        types: MessageTypes | None = None,
        rate: RateLimit | None = None,
    ) -> Rule:
        """Add a rule; raises ConfigurationError for a pattern that has one, and for a function that cannot be one."""
        rule = Rule(Pattern(pattern), options, function, types or MessageTypes(), rate, self.overrides)
        if any(pattern == known.pattern.text for known in self._rules):
            raise ConfigurationError(f"there is a rule for {pattern!r} already; decide in one function")
        self._rules.append(rule)
        if rule.types.publishes is not None:
            self._channels.check_by(self.shape)
        self._rules.sort(key=lambda rule: rule.pattern.rank)  # stable: the first given stays first
        self._found.clear()
        self._channels.changed()
        return rule

    def find(self, channel: str) -> tuple[Rule, dict[str, str]] | None:
        """Return the rule of a channel, and the texts of its parameters."""
        if channel not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[channel] = self._find(channel)
        return self._found[channel]

    def _find(self, channel: str) -> tuple[Rule, dict[str, str]] | None:
        for rule in self._rules:
            if is_reserved(channel) and not is_reserved(rule.pattern.text):
                continue
            texts = rule.pattern.match(channel)
            if texts is not None:
                return rule, texts
        return None

    def shape(self, channel: str) -> Shape | None:
        """Return the type of the messages of a channel, if its rule declares one."""
        found = self.find(channel)
        return None if found is None else found[0].types.publishes

    def intake(self, channel: str) -> Intake | None:
        """Return the function that takes the messages of clients in a channel; None: they are kept as they are."""
        found = self.find(channel)
        if found is None or not found[0].has_intake:
            return None
        rule, texts = found
        return partial(rule.take, channel, texts)

    def state(self, channel: str) -> Callable[[], Awaitable[tuple[Any, bytes]]] | None:
        """Return the function that gets the state of a channel from the application, as a value and as JSON."""
        found = self.find(channel)
        if found is None or found[0].state is None:
            return None
        return partial(found[0].state.make, channel, found[1])

    def poll(self, channel: str) -> Poll | None:
        """Return the way to ask for the values of a channel's keys, if its rule has one."""
        found = self.find(channel)
        return None if found is None or found[0].poll is None else found[0].poll.of(channel, found[1])

    def options(self, channel: str) -> ChannelOptions | None:
        """Return the options of a channel that has a rule."""
        found = self.find(channel)
        return None if found is None else found[0].options

    def pattern(self, channel: str) -> str:
        """Return the pattern of a channel that has a rule."""
        found = self.find(channel)
        return "" if found is None else found[0].pattern.text

    def add_call(self, name: str, function: Callable[..., Any], rate: RateLimit | None = None) -> None:
        """Add the function that answers a call; raises ConfigurationError for a name that has one."""
        if name in self._calls:
            raise ConfigurationError(f"there is a function for the call {name!r} already; give this one another name")
        self._calls[name] = Bound(function, takes_data=True, overrides=self.overrides)
        if rate is not None:
            self._call_rates[name] = rate

    def call(self, name: str) -> Bound | None:
        """Return the function that answers a call."""
        return self._calls.get(name)

    def call_rate(self, name: str) -> RateLimit | None:
        """Return the rate of a call, if it has one."""
        return self._call_rates.get(name)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, the most special first."""
        return tuple(self._rules)

    @property
    def calls(self) -> Mapping[str, Bound]:
        """The functions that answer calls, by their names."""
        return self._calls

    @property
    def has_calls(self) -> bool:
        """Return whether any call is answered."""
        return bool(self._calls)

    def complete(self) -> None:
        """Complete all types of messages; raises ConfigurationError for one that names what is nowhere."""
        for rule in self._rules:
            reads = None if rule.handler is None else rule.handler.reads
            for shape in (rule.types.publishes, rule.types.accepts, reads):
                if shape is not None:
                    shape.complete()
        for call in self._calls.values():
            if call.data_type not in (None, Any):
                Shape(call.data_type).complete()

    def add_authentication(self, function: Authenticate) -> None:
        """Set the function that recognises tokens; raises ConfigurationError for what is no function."""
        if not callable(function):
            raise ConfigurationError(f"{shown(function)} recognises no tokens; write @hub.authenticate over a function")
        self.authenticate = function
