"""Permissions of the server's own pages over `/connection/…`.

A page names itself when it connects, and may use the channels of that page and no others. So a page needs nothing from
the configuration, and gives nobody permissions that the configuration withholds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.errors import PermissionDenied, Rejected
from tidewire.pipelines.notices import list_channel
from tidewire.protocols.centrifuge.codes import BAD_COMMAND, INVALID_TOKEN
from tidewire.rules.base import Action, Caller, ConnectAttempt, Grant, Identity
from tidewire.server.client_settings import ClientTable
from tidewire.server.namespace_authority import AccountTokens, NamespaceAuthority
from tidewire.server.namespaces import ChannelTable, NamedNamespace, Namespaces

__all__ = ("LOCAL", "PLAYGROUND", "PageAuthority", "with_playground")

#: The context of a connection from this machine (loopback.is_local).
LOCAL = "local"
#: The channels in which readers of the tutorial try things: everybody who can open the page may do everything in a
#: channel after subscribing to it, and joins and leaves are pushed.
PLAYGROUND = NamedNamespace(
    name="playground",
    history_size=100,
    history_ttl=3_600,
    force_recovery=True,
    presence=True,
    join_leave=True,
    force_push_join_leave=True,
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_publish_for_subscriber=True,
    allow_publish_for_anonymous=True,
    allow_history_for_subscriber=True,
    allow_history_for_anonymous=True,
    allow_presence_for_subscriber=True,
    allow_presence_for_anonymous=True,
    channel_regex="^[a-z0-9-]{1,40}$",
)
#: A list of runs is recovered from its notices; if they do not reach back far enough, the page fetches the list again.
_LIST = Grant(ChannelOptions())


class PageHello(msgspec.Struct, frozen=True):
    """The connect data of one of our pages: which page it is, and on the playground the name to show to others."""

    tidewire: str = ""
    name: Annotated[str, msgspec.Meta(max_length=40)] = ""


class PageContext(msgspec.Struct, frozen=True):
    """The context of a connection of a page: the prefix of the channels that it may use, "" for none."""

    prefix: str = ""


_decode = msgspec.json.Decoder(PageHello).decode
_NO_PAGE = PageHello()


def with_playground(table: ChannelTable) -> ChannelTable:
    """Return the namespaces with the playground; no configuration has one of that name."""
    return table.model_copy(update={"namespaces": [*table.namespaces, PLAYGROUND]})


class PageAuthority(NamespaceAuthority):
    """Admits the server's own pages beside all other clients.

    `logins` verifies the login token that a page presents. With `pipelines`, users may subscribe to the list of their
    own runs, and connections from this machine to the list of all. With `playground`, anonymous clients may use the
    playground.
    """

    def __init__(
        self,
        client: ClientTable,
        namespaces: Namespaces,
        *,
        accounts: AccountTokens | None,
        logins: AccountTokens,
        pipelines: bool,
        playground: bool,
    ) -> None:
        super().__init__(client, namespaces, accounts=accounts)
        self._logins = logins
        self._has_pipelines = pipelines
        self._has_playground = playground

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        page = _hello(attempt.data)
        if page.tidewire == "pipelines" and self._has_pipelines:
            return await self._list_viewer(attempt.token, identity)
        if page.tidewire == "playground" and self._has_playground:
            info = msgspec.json.encode({"name": page.name})
            return Identity(info=info, context=PageContext(f"{PLAYGROUND.name}:"))
        return await super().connect(attempt, identity if identity is not None and identity.user else None)

    async def _list_viewer(self, token: str, identity: Identity | None) -> Identity:
        if identity is not None and identity.context == LOCAL:
            viewer = Identity()
        elif token:
            viewer = await self._login(token)
        elif identity is not None and identity.user:
            viewer = identity
        else:
            raise Rejected(BAD_COMMAND)
        subscriptions = {list_channel(viewer.user): _LIST}
        return msgspec.structs.replace(viewer, subscriptions=subscriptions, context=PageContext())

    async def _login(self, token: str) -> Identity:
        found = await self._logins.identify(token)
        if found is None:
            raise Rejected(INVALID_TOKEN)
        return found

    async def refresh(self, caller: Caller, token: str) -> Identity:
        if not isinstance(caller.identity.context, PageContext):
            return await super().refresh(caller, token)
        again = await self._login(token)
        if again.user != caller.identity.user:
            raise Rejected(INVALID_TOKEN)
        return msgspec.structs.replace(caller.identity, expires_at=again.expires_at, token=again.token)

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        _check(caller, channel)
        return await super().subscribe(caller, channel, token, data)

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        _check(caller, channel)
        await super().allow(caller, channel, action, subscribed=subscribed)


def _hello(data: bytes) -> PageHello:
    """Return the connect data if it is that of a page of the server; other clients may send anything."""
    if not data:
        return _NO_PAGE
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NO_PAGE


def _check(caller: Caller, channel: str) -> None:
    page = caller.identity.context
    if isinstance(page, PageContext) and not (page.prefix and channel.startswith(page.prefix)):
        raise PermissionDenied(f"a page of the server may not use {channel!r}; connect without naming a page")
