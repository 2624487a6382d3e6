"""tidewire: the realtime layer for FastAPI."""

from tidewire.endpoint import HubConnection
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConfigurationError,
    ConnectionClosed,
    Disconnect,
    LimitExceeded,
    NotAvailable,
    NotPublished,
    PermissionDenied,
    PublishError,
    PublishUnconfirmed,
    RateLimited,
    StoreUnavailable,
    TemporaryFailure,
    TidewireError,
    UnknownType,
)
from tidewire.fastapi import Hub, choose_subprotocol
from tidewire.messages import Dropped, Format, HistoryPage, Member, Position, Publication, Subscribed, WireMessage
from tidewire.options import ChannelOptions, Limits, SlowPolicy
from tidewire.protocols.base import Protocol
from tidewire.protocols.plain import PlainProtocol
from tidewire.publisher import Publisher
from tidewire.statistics import Statistics

__all__ = (
    "BadRequest",
    "ChannelOptions",
    "CommandError",
    "ConfigurationError",
    "ConnectionClosed",
    "Disconnect",
    "Dropped",
    "Format",
    "HistoryPage",
    "Hub",
    "HubConnection",
    "LimitExceeded",
    "Limits",
    "Member",
    "NotAvailable",
    "NotPublished",
    "PermissionDenied",
    "PlainProtocol",
    "Position",
    "Protocol",
    "Publication",
    "PublishError",
    "PublishUnconfirmed",
    "Publisher",
    "RateLimited",
    "SlowPolicy",
    "Statistics",
    "StoreUnavailable",
    "Subscribed",
    "TemporaryFailure",
    "TidewireError",
    "UnknownType",
    "WireMessage",
    "choose_subprotocol",
)
__version__ = "0.1.0"
