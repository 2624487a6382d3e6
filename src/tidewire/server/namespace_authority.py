"""Permissions of clients of the server, by accounts, tokens and namespaces."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.errors import (
    BadRequest,
    ConfigurationError,
    PermissionDenied,
    Rejected,
    UnknownChannel,
)
from tidewire.protocols.centrifuge.codes import BAD_COMMAND, INVALID_TOKEN, NOT_PERMITTED
from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity
from tidewire.rules.permissions import check_allowed
from tidewire.server.client_settings import ClientTable, PersonalTable
from tidewire.server.login_sessions import is_set_apart
from tidewire.server.namespaces import Namespace, Namespaces, bare_name, is_private, limited_to
from tidewire.support.log_limit import LogLimit
from tidewire.tokens.client_tokens import BadToken, ClientTokens, ConnectionClaims, raw_bytes

__all__ = ("AccountTokens", "NamespaceAuthority")

logger = logging.getLogger("tidewire")
#: Limits the log lines about refused tokens, which any client can cause.
_refused = LogLimit()


class AccountTokens(Protocol):
    """Verifies the tokens that the server's own login issues."""

    async def identify(self, token: str) -> Identity | None:
        """Return the identity in a token, or None if it is not one of ours; raises TokenExpired, TemporaryFailure."""


class NamespaceAuthority(Authority):
    """Admits clients with a token of the application or of the server's login; namespaces decide on their permissions.

    Raises ConfigurationError for keys and names that cannot work.
    """

    def __init__(self, client: ClientTable, namespaces: Namespaces, *, accounts: AccountTokens | None = None) -> None:
        self._client = client
        self._namespaces = namespaces
        self._accounts = accounts
        #: By the namespace, which lives as long as this, and whether they are for anonymous clients.
        self._grants: dict[tuple[int, bool], Grant] = {}
        self._connections = ClientTokens(client.token)
        separate = client.subscription_token
        self._subscriptions = (
            ClientTokens(separate, setting="client.subscription_token") if separate.enabled else self._connections
        )
        self._personal = self._personal_prefix(client.subscribe_to_user_personal_channel)

    def _personal_prefix(self, personal: PersonalTable) -> str | None:
        if not personal.enabled:
            return None
        namespace = personal.personal_channel_namespace
        prefix = f"{namespace}:#" if namespace else "#"
        if self._namespaces.options(prefix) is None:
            raise ConfigurationError(
                f"personal_channel_namespace {namespace!r} is no namespace; add it to [[channel.namespaces]]"
            )
        return prefix

    # Connections.

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        if attempt.token:
            return self._with_personal(await self._bearer(attempt.token))
        if identity is not None:
            return self._with_personal(identity)
        if self._client.insecure or self._client.allow_anonymous_connect_without_token:
            return Identity()
        raise Rejected(BAD_COMMAND)

    async def refresh(self, caller: Caller, token: str) -> Identity:
        identity = self._with_personal(await self._bearer(token))
        if identity.user != caller.identity.user:
            raise self._invalid("it is another user's")
        return identity

    async def _bearer(self, token: str) -> Identity:
        if self._accounts is not None:
            own = await self._accounts.identify(token)
            if own is not None:
                return own
        try:
            claims = await self._connections.connection(token)
            if not claims.sub and self._client.disallow_anonymous_connection_tokens:
                raise Rejected(NOT_PERMITTED)
            if is_set_apart(claims.sub):
                raise BadToken("its user is an account of the server's own")
            return Identity(
                user=claims.sub,
                info=raw_bytes(claims.info, claims.b64info),
                expires_at=claims.expires_at,
                subscriptions=self._server_side(claims),
                token=claims.issued,
            )
        except BadToken as error:
            raise self._invalid(str(error)) from None

    def _server_side(self, claims: ConnectionClaims) -> Mapping[str, Grant]:
        if not claims.subs:
            return {channel: Grant(self.options(channel)) for channel in claims.channels}
        grants = {}
        for channel, given in claims.subs.items():
            options = self.options(channel)
            grants[channel] = Grant(
                options if given.override is None else given.override.applied(options),
                info=raw_bytes(given.info, given.b64info),
                data=raw_bytes(given.data, given.b64data),
            )
        return grants

    def _with_personal(self, identity: Identity) -> Identity:
        if self._personal is None or not identity.user:
            return identity
        channel = self._personal + identity.user
        try:
            grants = {**identity.subscriptions, channel: Grant(self.options(channel))}
        except (BadRequest, UnknownChannel):
            logger.warning("a user's name cannot be part of a channel's; it has no personal channel")
            return identity
        return msgspec.structs.replace(identity, subscriptions=grants)

    def _invalid(self, why: str) -> Rejected:
        more = _refused.due(why)
        if more is not None:
            logger.info("a token was refused: %s%s", why, more)
        return Rejected(INVALID_TOKEN)

    # Channels.

    def options(self, channel: str) -> ChannelOptions:
        return self._namespaces.find(channel)[1]

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        namespace, options = self._named(channel)
        if token:
            try:
                return await self._granted(caller, channel, token)
            except BadToken as error:
                raise PermissionDenied(str(error)) from None
        if not self._may_subscribe(namespace, channel, caller.identity.user):
            raise PermissionDenied(f"this client may not subscribe to {channel!r}")
        return self._grant(namespace, options, caller)

    def _named(self, channel: str) -> tuple[Namespace, ChannelOptions]:
        """Return the namespace and the options of a channel that a client names; raises BadRequest, UnknownChannel."""
        namespace, options = self._namespaces.find(channel)
        if not namespace.names(bare_name(channel)):
            raise BadRequest(f"channel {channel!r} does not match the channel_regex of its namespace")
        return namespace, options

    def _may_subscribe(self, namespace: Namespace, channel: str, user: str) -> bool:
        """Return whether a client may subscribe without a token."""
        is_limited = namespace.allow_user_limited_channels and "#" in channel
        if self._client.insecure or (is_limited and user and user in limited_to(channel)):
            return True
        is_open = not is_private(channel) and not is_limited and namespace.allow_subscribe_for_client
        return is_open and (bool(user) or namespace.allow_subscribe_for_anonymous)

    def _grant(self, namespace: Namespace, options: ChannelOptions, caller: Caller) -> Grant:
        """Return the grant of a client without a token: one for all, and one for all anonymous ones, of a namespace."""
        is_anonymous = not caller.identity.user
        grant = self._grants.get((id(namespace), is_anonymous))
        if grant is None:
            grant = self._grants[id(namespace), is_anonymous] = self._new_grant(namespace, options, is_anonymous)
        return grant

    def _new_grant(self, namespace: Namespace, options: ChannelOptions, is_anonymous: bool) -> Grant:
        def may(action: Action) -> bool:
            return self._client.insecure or namespace.allows(action, is_anonymous=is_anonymous, subscribed=True)

        granted = namespace.granted(options, reads_history=may(Action.HISTORY))
        return Grant(granted, sees_joins=namespace.force_push_join_leave or may(Action.PRESENCE))

    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        try:
            return await self._granted(caller, channel, token)
        except BadToken as error:
            raise self._invalid(str(error)) from None

    async def _granted(self, caller: Caller, channel: str, token: str) -> Grant:
        claims = await self._subscriptions.subscription(token)
        if claims.channel != (channel or claims.channel):
            raise self._invalid("it is for another channel")
        if claims.sub != caller.identity.user:
            raise self._invalid("it is another user's")
        if claims.client and claims.client != caller.client:
            raise self._invalid("it is another connection's")
        granted = self._grant(*self._namespaces.find(claims.channel), caller)
        options = granted.options
        return msgspec.structs.replace(
            granted,
            options=options if claims.override is None else claims.override.applied(options),
            info=raw_bytes(claims.info, claims.b64info),
            data=raw_bytes(claims.data, claims.b64data),
            expires_at=claims.expires_at,
            channel=claims.channel,
            token=claims.issued,
        )

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        namespace, options = self._named(channel)
        user = caller.identity.user
        is_open = subscribed or namespace.allow_without_subscribe or self._may_subscribe(namespace, channel, user)
        allowed = self._client.insecure or (
            is_open and namespace.allows(action, is_anonymous=not user, subscribed=subscribed)
        )
        check_allowed(allowed, action, channel, options)
