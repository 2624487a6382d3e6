"""tidewire: the realtime layer for FastAPI. A name is imported when it is first used."""

from typing import TYPE_CHECKING

from tidewire.support.first_use import imported_at_first_use

if TYPE_CHECKING:
    from tidewire.channel_options import ChannelOptions, MapKind, MapOptions, SlowPolicy
    from tidewire.engine.statistics import Statistics
    from tidewire.errors import (
        AlreadyStreaming,
        BadRequest,
        CommandError,
        ConfigurationError,
        ConnectionClosed,
        CutOff,
        Disconnect,
        EntryChanged,
        InvalidMessage,
        LimitExceeded,
        NotAvailable,
        NotPublished,
        PermissionDenied,
        Problem,
        PublishError,
        PublishUnconfirmed,
        RateLimited,
        Refused,
        Rejected,
        StateFailed,
        Stopped,
        StoreUnavailable,
        TemporaryFailure,
        TidewireError,
        TokenExpired,
        UnknownChannel,
        UnknownType,
        VersionConflict,
    )
    from tidewire.events.event_handlers import DeadEvent
    from tidewire.events.event_kinds import Event
    from tidewire.history.shared_states import State
    from tidewire.hub import Hub
    from tidewire.limits import Limits
    from tidewire.messages import Dropped, Format, HistoryPage, Member, Position, Publication, Subscribed, WireMessage
    from tidewire.protocols.base import Protocol
    from tidewire.protocols.map_changes import Entry
    from tidewire.protocols.plain import PlainProtocol
    from tidewire.protocols.recoverable import RECOVERABLE, RecoverableProtocol
    from tidewire.publisher import Publisher
    from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity
    from tidewire.rules.permissions import Permissions
    from tidewire.sessions.accept import choose_subprotocol
    from tidewire.sessions.application import HubConnection
    from tidewire.sessions.listening import Publications
    from tidewire.sessions.maps import Entries
    from tidewire.sessions.text_streams import TextStream
    from tidewire.tokens.jwt_identity import JwtIdentity
    from tidewire.tokens.tickets import Tickets

__all__ = (
    "RECOVERABLE",
    "Action",
    "AlreadyStreaming",
    "Authority",
    "BadRequest",
    "Caller",
    "ChannelOptions",
    "CommandError",
    "ConfigurationError",
    "ConnectAttempt",
    "ConnectionClosed",
    "CutOff",
    "DeadEvent",
    "Disconnect",
    "Dropped",
    "Entries",
    "Entry",
    "EntryChanged",
    "Event",
    "Format",
    "Grant",
    "HistoryPage",
    "Hub",
    "HubConnection",
    "Identity",
    "InvalidMessage",
    "JwtIdentity",
    "LimitExceeded",
    "Limits",
    "MapKind",
    "MapOptions",
    "Member",
    "NotAvailable",
    "NotPublished",
    "PermissionDenied",
    "Permissions",
    "PlainProtocol",
    "Position",
    "Problem",
    "Protocol",
    "Publication",
    "Publications",
    "PublishError",
    "PublishUnconfirmed",
    "Publisher",
    "RateLimited",
    "RecoverableProtocol",
    "Refused",
    "Rejected",
    "SlowPolicy",
    "State",
    "StateFailed",
    "Statistics",
    "Stopped",
    "StoreUnavailable",
    "Subscribed",
    "TemporaryFailure",
    "TextStream",
    "Tickets",
    "TidewireError",
    "TokenExpired",
    "UnknownChannel",
    "UnknownType",
    "VersionConflict",
    "WireMessage",
    "choose_subprotocol",
)
__version__ = "0.1.0"

#: Where each of these names is defined; the errors are in tidewire.errors.
_HOMES = {
    "tidewire.channel_options": ("ChannelOptions", "MapKind", "MapOptions", "SlowPolicy"),
    "tidewire.engine.statistics": ("Statistics",),
    "tidewire.history.shared_states": ("State",),
    "tidewire.events.event_kinds": ("Event",),
    "tidewire.events.event_handlers": ("DeadEvent",),
    "tidewire.hub": ("Hub",),
    "tidewire.limits": ("Limits",),
    "tidewire.messages": (
        "Dropped",
        "Format",
        "HistoryPage",
        "Member",
        "Position",
        "Publication",
        "Subscribed",
        "WireMessage",
    ),
    "tidewire.protocols.base": ("Protocol",),
    "tidewire.protocols.map_changes": ("Entry",),
    "tidewire.protocols.plain": ("PlainProtocol",),
    "tidewire.protocols.recoverable": ("RECOVERABLE", "RecoverableProtocol"),
    "tidewire.publisher": ("Publisher",),
    "tidewire.rules.base": (
        "Action",
        "Authority",
        "Caller",
        "ConnectAttempt",
        "Grant",
        "Identity",
    ),
    "tidewire.rules.permissions": ("Permissions",),
    "tidewire.sessions.accept": ("choose_subprotocol",),
    "tidewire.sessions.application": ("HubConnection",),
    "tidewire.sessions.listening": ("Publications",),
    "tidewire.sessions.maps": ("Entries",),
    "tidewire.sessions.text_streams": ("TextStream",),
    "tidewire.tokens.jwt_identity": ("JwtIdentity",),
    "tidewire.tokens.tickets": ("Tickets",),
}
if not TYPE_CHECKING:  # a checker reads the imports above, and reports a name that is not there
    __getattr__ = imported_at_first_use(__name__, _HOMES, others="tidewire.errors")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
