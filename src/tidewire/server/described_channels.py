"""The channels in the AsyncAPI document of the server, and the permissions in those of each namespace."""

from __future__ import annotations

from tidewire.asyncapi.description import ChannelDescription, Description, identifier
from tidewire.channel_options import ChannelOptions
from tidewire.protocols.message_shape import Shape, members_of
from tidewire.rules.base import Action
from tidewire.server.chat_types import ACCEPTED, SHOWN
from tidewire.server.namespaces import ChannelTable, Namespace
from tidewire.server.page_authority import PLAYGROUND

__all__ = ("described",)

_WITHOUT = "Channels whose name has no namespace; `[channel.without_namespace]` in tidewire.toml has their permissions."
_NAMED = "`[[channel.namespaces]]` in tidewire.toml has their permissions."
_PLAYGROUND = "For the tutorial, and for experiments: everybody who can open this server's pages may do everything."


_CHAT = ChannelDescription(
    "chat",
    "/ws/auth",
    {},
    "the chat: rooms, private messages, history",
    "Each message has a type. A token is needed; `tidewire docs reference/chat-dialect` explains them.",
    ChannelOptions(),
    tuple(Shape(one) for one in members_of(SHOWN)),
    tuple(Shape(one) for one in members_of(ACCEPTED)),
    server="chat",
)


def described(table: ChannelTable) -> Description:
    """Describe the channels of all namespaces; their messages may be anything."""
    named = [(f"{namespace.name}:{{name}}", namespace) for namespace in table.namespaces]
    channels = (_channel(address, namespace) for address, namespace in (*named, ("{name}", table.without_namespace)))
    return Description((_CHAT, *channels), takes_tokens=True)


def _channel(address: str, namespace: Namespace) -> ChannelDescription:
    is_playground = namespace is PLAYGROUND
    text = _PLAYGROUND if is_playground else _WITHOUT if address == "{name}" else _NAMED
    connect = {"tidewire": PLAYGROUND.name, "name": "a reader of the channels"} if is_playground else {}
    return ChannelDescription(
        identifier(address), address, {"name": "str"}, _permissions(namespace), text, namespace.options, connect=connect
    )


def _permissions(namespace: Namespace) -> str:
    """Return the permissions of clients, in one line."""
    able: dict[str, list[str]] = {_subscribing(namespace): ["subscribe"]}
    for action in Action:
        able.setdefault(_who(namespace, action), []).append(action.value)
    return "; ".join(f"{', '.join(actions)}: {who}" for who, actions in able.items())


def _subscribing(namespace: Namespace) -> str:
    if not namespace.allow_subscribe_for_client:
        return "nobody without a token of the channel"
    return "everybody" if namespace.allow_subscribe_for_anonymous else "users"


def _who(namespace: Namespace, action: Action) -> str:
    if namespace.allows(action, is_anonymous=False, subscribed=False):
        return "everybody" if namespace.allows(action, is_anonymous=True, subscribed=False) else "users"
    if namespace.allows(action, is_anonymous=False, subscribed=True):
        is_open = namespace.allows(action, is_anonymous=True, subscribed=True)
        return "subscribers" if is_open else "subscribers with a name"
    return "nobody"
