"""Python clients: `Client` of the Centrifuge protocol, for any channel; `ChatClient` of the server's chat."""

from tidewire.client.chat_client import ChatClient
from tidewire.client.chat_messages import (
    ChatMessage,
    History,
    Inbox,
    Message,
    Online,
    PrivateMessage,
    System,
    Trouble,
)
from tidewire.client.client import Client
from tidewire.client.client_subscription import Subscription
from tidewire.client.map_subscription import MapSubscription
from tidewire.client.typed_channel import TypedChannel, TypedPublication, given
from tidewire.client.values import ChannelHistory, ChannelMember, ChannelPublication

__all__ = (
    "ChannelHistory",
    "ChannelMember",
    "ChannelPublication",
    "ChatClient",
    "ChatMessage",
    "Client",
    "History",
    "Inbox",
    "MapSubscription",
    "Message",
    "Online",
    "PrivateMessage",
    "Subscription",
    "System",
    "Trouble",
    "TypedChannel",
    "TypedPublication",
    "given",
)
