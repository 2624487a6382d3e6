"""What our own pages may do over `/connection/…`: a page names itself when it connects, and may do that and no more.

So a page needs nothing from the configuration, and gives nobody what the configuration does not.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tidewire.errors import PermissionDenied, Rejected
from tidewire.options import ChannelOptions
from tidewire.pipelines.notices import list_channel
from tidewire.protocols.centrifuge.codes import BAD_COMMAND, INVALID_TOKEN
from tidewire.rules.base import Action, Caller, ConnectAttempt, Grant, Identity
from tidewire.server.namespace_authority import AccountTokens, ClientTable, NamespaceAuthority
from tidewire.server.namespaces import ChannelTable, NamedNamespace, Namespaces

__all__ = ("LOCAL", "PLAYGROUND", "PageAuthority", "with_playground")

#: The context of a connection that is this machine's own (loopback.is_local).
LOCAL = "local"
#: Where visitors of the tutorial try channels out: whoever may see the page may do everything in a channel that it
#: follows, and connections are told of each other.
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
#: A list of runs is recovered from its notices; where these are not enough, it is fetched anew.
_LIST = Grant(ChannelOptions())


class Asked(msgspec.Struct, frozen=True):
    """What a page of ours says when it connects: which one it is, and on the playground the visitor's name."""

    tidewire: str = ""
    name: Annotated[str, msgspec.Meta(max_length=40)] = ""


class Visit(msgspec.Struct, frozen=True):
    """The context of a connection that a page has opened: how the channels begin that it may use, "" for none."""

    prefix: str = ""


_decode = msgspec.json.Decoder(Asked).decode
_NOTHING = Asked()


def with_playground(table: ChannelTable) -> ChannelTable:
    """Return the namespaces with the playground; one of that name stays as it is, and strangers stay out of it."""
    if any(namespace.name == PLAYGROUND.name for namespace in table.namespaces):
        return table
    return table.model_copy(update={"namespaces": [*table.namespaces, PLAYGROUND]})


class PageAuthority(NamespaceAuthority):
    """Lets our own pages in beside everybody else; `logins` tells whose token of the login a page shows.

    `pipelines`: the list of runs may be followed, by each user their own, from this machine all. `playground`:
    strangers may use the playground.
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
        page = _asked(attempt.data)
        if page.tidewire == "pipelines" and self._has_pipelines:
            return await self._list_viewer(attempt.token, identity)
        if page.tidewire == "playground" and self._has_playground:
            return Identity(info=msgspec.json.encode({"name": page.name}), context=Visit(f"{PLAYGROUND.name}:"))
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
        channel = list_channel(viewer.user)
        return Identity(viewer.user, expires_at=viewer.expires_at, subscriptions={channel: _LIST}, context=Visit())

    async def _login(self, token: str) -> Identity:
        found = await self._logins.identify(token)
        if found is None:
            raise Rejected(INVALID_TOKEN)
        return found

    async def refresh(self, caller: Caller, token: str) -> Identity:
        if not isinstance(caller.identity.context, Visit):
            return await super().refresh(caller, token)
        again = await self._login(token)
        if again.user != caller.identity.user:
            raise Rejected(INVALID_TOKEN)
        return msgspec.structs.replace(caller.identity, expires_at=again.expires_at)

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        _check(caller, channel)
        return await super().subscribe(caller, channel, token, data)

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        _check(caller, channel)
        await super().allow(caller, channel, action, subscribed=subscribed)


def _asked(data: bytes) -> Asked:
    """Return what a page of ours says; what an application's client says instead is no concern of ours."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NOTHING


def _check(caller: Caller, channel: str) -> None:
    visit = caller.identity.context
    if isinstance(visit, Visit) and not (visit.prefix and channel.startswith(visit.prefix)):
        raise PermissionDenied(f"a page of the server may not use {channel!r}; connect without its name")
