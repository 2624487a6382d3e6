"""The authority of a hub: its rules decide, and where there are none, the options of its channels."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from tidewire.channel_options import ChannelOptions
from tidewire.channels import open_channel
from tidewire.errors import BadRequest, ConfigurationError, PermissionDenied, Rejected, UnknownChannel, UnknownType
from tidewire.limits import Limits
from tidewire.protocols.centrifuge.codes import INVALID_TOKEN
from tidewire.protocols.message_shape import Shape
from tidewire.protocols.payload import encode_json
from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity, Intake
from tidewire.rules.book import RuleBook
from tidewire.rules.options_by_name import OptionsByName
from tidewire.rules.permissions import ALL, Permissions, check_allowed

__all__ = ("Decision", "RuleAuthority")

#: Decisions that are remembered; some are of connections that have ended.
_REMEMBERED = 100_000


class Decision(msgspec.Struct, frozen=True):
    """The decision of a rule for a client in a channel: permissions or an error; `rule` is its pattern, or ""."""

    caller: Caller
    channel: str
    rule: str
    permissions: Permissions | None = None
    error: Exception | None = None


class RuleAuthority(Authority):
    """Decides by a rule book. A decision holds for as long as the connection is subscribed to the channel."""

    def __init__(self, book: RuleBook, options: OptionsByName, limits: Limits) -> None:
        self._book = book
        #: The options of channels that have no rule, and the patterns of all.
        self.options_by_name = options
        self._limits = limits
        self._decisions: OrderedDict[tuple[str, str], Permissions] = OrderedDict()
        #: Called with each decision, while a test asks which rule decided.
        self.on_decision: Callable[[Decision], None] | None = None

    # Connections.

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        if not attempt.token:
            return identity or Identity()
        return await self._bearer(attempt)

    async def refresh(self, caller: Caller, token: str) -> Identity:
        identity = await self._bearer(ConnectAttempt(token=token))
        if identity.user != caller.identity.user:
            raise Rejected(INVALID_TOKEN)
        if identity.context is None:
            identity = msgspec.structs.replace(identity, context=caller.identity.context)
        return identity

    async def _bearer(self, attempt: ConnectAttempt) -> Identity:
        if self._book.authenticate is None:
            raise Rejected(INVALID_TOKEN)
        try:
            found = self._book.authenticate(attempt)
            if inspect.isawaitable(found):
                found = await found
        except HTTPException as error:
            raise Rejected(INVALID_TOKEN) from error
        if found is None:
            raise Rejected(INVALID_TOKEN)
        return Identity(found) if isinstance(found, str) else found

    # Channels.

    def options(self, channel: str) -> ChannelOptions:
        name = open_channel(channel, self._limits.channel_name)
        options = self._book.options(name)
        if options is not None:
            return options
        if len(self._book) and not self.options_by_name.names(name):
            raise UnknownChannel(f"no rule is for channel {name!r}; write one with @hub.channel")
        return self.options_by_name.of(name)

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        options = self.options(channel)
        permissions = await self._decide(caller, channel, options)
        if not permissions.subscribe:
            raise PermissionDenied(f"this client may not subscribe to {channel!r}")
        self._decisions[caller.client, channel] = permissions
        if len(self._decisions) > _REMEMBERED:
            self._decisions.popitem(last=False)
        return Grant(
            options,
            info=_encoded(permissions.info, f"the rule for {channel!r}"),
            data=_encoded(permissions.data, f"the rule for {channel!r}"),
            expires_at=permissions.expires_at,
            channel=channel,
            sees_joins=permissions.presence,
            poll=self._book.poll(channel),
        )

    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        return await self.subscribe(caller, channel, token, b"")

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        options = self.options(channel)
        permissions = self._decisions.get((caller.client, channel)) if subscribed else None
        if permissions is None:
            permissions = await self._decide(caller, channel, options)
        check_allowed(permissions.allows(action), action, channel, options)

    async def _decide(self, caller: Caller, channel: str, options: ChannelOptions) -> Permissions:
        if self.on_decision is None:
            return await self._judge(caller, channel, options)
        found = self._book.find(channel)
        rule = "" if found is None else found[0].pattern.text
        try:
            permissions = await self._judge(caller, channel, options)
        except Exception as error:
            self.on_decision(Decision(caller, channel, rule, error=error))
            raise
        self.on_decision(Decision(caller, channel, rule, permissions))
        return permissions

    async def _judge(self, caller: Caller, channel: str, options: ChannelOptions) -> Permissions:
        found = self._book.find(channel)
        if found is None:
            return msgspec.structs.replace(ALL, subscribe=options.subscribe, publish=options.publish)
        rule, texts = found
        try:
            return await rule.decide(caller, channel, texts)
        except HTTPException as error:
            raise PermissionDenied(str(error.detail)) from error

    def has_rule(self, channel: str) -> bool:
        """Return whether a rule decides for a channel."""
        return self._book.find(channel) is not None

    def shape(self, channel: str) -> Shape | None:
        """Return the type of the messages of a channel, if its rule declares one."""
        return self._book.shape(channel)

    def intake(self, channel: str) -> Intake | None:
        return self._book.intake(channel)

    # Calls.

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        bound = self._book.call(method)
        if bound is not None:
            rate = self._book.call_rate(method)
            if rate is not None:
                rate.take(caller)
            try:
                returned = await bound(caller, {}, data)
            except HTTPException as error:
                raise PermissionDenied(str(error.detail)) from error
            return _encoded(returned, f"the function for the call {method!r}") or b"null"
        if not self._book.has_calls:
            return await super().rpc(caller, method, data)
        raise UnknownType(f"no function answers {method!r}; register one with @hub.rpc({method!r})")


def _encoded(value: Any, who: str) -> bytes:
    """Return the result of a function of the application as JSON, b"" for None.

    Raises ConfigurationError, which is the application's to mend and not the client's, for a value that JSON has not.
    """
    if value is None:
        return b""
    try:
        return encode_json(value)
    except BadRequest as error:
        raise ConfigurationError(f"{who} returned a value that cannot be sent: {error}") from error
