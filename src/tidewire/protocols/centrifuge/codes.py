"""The numbers of the Centrifuge protocol: for errors, and for the ends of connections and of subscriptions."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from tidewire import errors
from tidewire.errors import Disconnect, InvalidMessage, RateLimited, Refused, TidewireError, VersionConflict
from tidewire.protocols import close_codes

__all__ = ("Malformed", "MalformedFrame", "Unsubscription", "WireError", "disconnect_for", "disconnect_of", "error_of")


class WireError(NamedTuple):
    """The answer to a command that failed; the client repeats the command by itself if the error is temporary."""

    code: int
    message: str
    temporary: bool = False


INTERNAL = WireError(100, "internal server error", temporary=True)
UNAUTHORIZED = WireError(101, "unauthorized")
UNKNOWN_CHANNEL = WireError(102, "unknown channel")
PERMISSION_DENIED = WireError(103, "permission denied")
METHOD_NOT_FOUND = WireError(104, "method not found")
ALREADY_SUBSCRIBED = WireError(105, "already subscribed")
LIMIT_EXCEEDED = WireError(106, "limit exceeded")
BAD_REQUEST = WireError(107, "bad request")
NOT_AVAILABLE = WireError(108, "not available")
TOKEN_EXPIRED = WireError(109, "token expired")
EXPIRED = WireError(110, "expired")
TOO_MANY_REQUESTS = WireError(111, "too many requests", temporary=True)
UNRECOVERABLE = WireError(112, "unrecoverable position")
CONFLICT = WireError(113, "concurrent pagination", temporary=True)

#: The most special class first.
_ERRORS: tuple[tuple[type[TidewireError], WireError], ...] = (
    (errors.AlreadySubscribed, ALREADY_SUBSCRIBED),
    (errors.BadRequest, BAD_REQUEST),
    (errors.UnknownType, METHOD_NOT_FOUND),
    (errors.PermissionDenied, PERMISSION_DENIED),
    (errors.NotAvailable, NOT_AVAILABLE),
    (errors.UnknownChannel, UNKNOWN_CHANNEL),
    (errors.TokenExpired, TOKEN_EXPIRED),
    (errors.Unrecoverable, UNRECOVERABLE),
    (errors.LimitExceeded, LIMIT_EXCEEDED),
    (errors.RateLimited, TOO_MANY_REQUESTS),
)


def error_of(error: TidewireError) -> WireError:
    """Return an error as a client gets it; an error that the client cannot mend is the server's, and temporary."""
    if isinstance(error, InvalidMessage):
        # the text is the body that FastAPI answers with 422
        return WireError(BAD_REQUEST.code, msgspec.json.encode({"detail": error.problems}).decode())
    if isinstance(error, RateLimited) and error.retry_after is not None:
        text = msgspec.json.encode({"detail": str(error), "retry_after": error.retry_after}).decode()
        return WireError(TOO_MANY_REQUESTS.code, text, temporary=True)
    if isinstance(error, VersionConflict):
        return WireError(409, str(error))
    if isinstance(error, Refused):
        return WireError(error.number, str(error), error.temporary)
    return next((code for class_, code in _ERRORS if isinstance(error, class_)), INTERNAL)


#: The code for an end without a code of its own: the connection is closed as it is.
NO_CODE = 3000
SHUTDOWN = Disconnect(3001, "shutdown")
SERVER_ERROR = Disconnect(3004, "internal server error")
CONNECTION_EXPIRED = Disconnect(3005, "connection expired")
SUBSCRIPTION_EXPIRED = Disconnect(3006, "subscription expired")
SLOW = Disconnect(3008, "slow")
WRITE_ERROR = Disconnect(3009, "write error")
INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
FORCE_RECONNECT = Disconnect(3011, "force reconnect")
NO_PONG = Disconnect(3012, "no pong")
TOO_MANY_COMMANDS = Disconnect(3013, "too many requests")
STATE_INVALIDATED = Disconnect(3014, "state invalidated")
INVALID_TOKEN = Disconnect(3500, "invalid token", reconnect=False)
BAD_COMMAND = Disconnect(3501, "bad request", reconnect=False)
STALE = Disconnect(3502, "stale", reconnect=False)
FORCE_DISCONNECT = Disconnect(3503, "force disconnect", reconnect=False)
CHANNEL_LIMIT = Disconnect(3505, "channel limit", reconnect=False)
INAPPROPRIATE_PROTOCOL = Disconnect(3506, "inappropriate protocol", reconnect=False)
NOT_PERMITTED = Disconnect(3507, "permission denied", reconnect=False)
NOT_OFFERED = Disconnect(3508, "not available", reconnect=False)
TOO_MANY_ERRORS = Disconnect(3509, "too many errors", reconnect=False)

#: The names of the server's own reasons in this protocol; other codes are sent as they are.
_DISCONNECTS = {
    close_codes.SHUTDOWN: SHUTDOWN,
    close_codes.SLOW: SLOW,
    close_codes.INSUFFICIENT: INSUFFICIENT_STATE,
    close_codes.NO_PONG: NO_PONG,
    close_codes.STALLED: WRITE_ERROR,
    close_codes.FORCED: FORCE_DISCONNECT,
    close_codes.REVOKED: INVALID_TOKEN,
    close_codes.INTERNAL_ERROR: SERVER_ERROR,
    close_codes.STORE_AWAY: SERVER_ERROR,
    close_codes.POLICY: TOO_MANY_COMMANDS,
}


def disconnect_of(disconnect: Disconnect) -> Disconnect:
    """Return the code and reason that tell a client of the end of its connection.

    A reason must not be JSON, because old clients take that for an order.
    """
    ending = _DISCONNECTS.get(disconnect, disconnect)
    if ending.reason[:1] in '{["-0123456789' or ending.reason in ("true", "false", "null"):
        return Disconnect(ending.code, f"({ending.reason})" if ending.reason else "", ending.reconnect)
    return ending


_ENDS = {TOKEN_EXPIRED: CONNECTION_EXPIRED, EXPIRED: CONNECTION_EXPIRED, PERMISSION_DENIED: NOT_PERMITTED}
_ENDS |= {TOO_MANY_REQUESTS: TOO_MANY_COMMANDS, BAD_REQUEST: BAD_COMMAND, LIMIT_EXCEEDED: CHANNEL_LIMIT}
_ENDS |= {NOT_AVAILABLE: NOT_OFFERED, UNKNOWN_CHANNEL: BAD_COMMAND, UNRECOVERABLE: INSUFFICIENT_STATE}


def disconnect_for(error: WireError) -> Disconnect:
    """Return the end of a connection that can only listen, in the place of an error that answers a command.

    Its client comes back only if the error is temporary; after any other it would be refused again.
    """
    return _ENDS.get(error, SERVER_ERROR if error.temporary else NOT_PERMITTED)


class Unsubscription(NamedTuple):
    """Why a subscription ends; from 2500 on the client subscribes again by itself."""

    code: int
    reason: str


SERVER_UNSUBSCRIBE = Unsubscription(2000, "server unsubscribe")
INSUFFICIENT = Unsubscription(2500, "insufficient state")
EXPIRED_SUBSCRIPTION = Unsubscription(2501, "subscription expired")
INVALIDATED = Unsubscription(2502, "state invalidated")


class Malformed(Enum):
    """Every way in which a client breaks the protocol; `DISCONNECTS` has the code for each."""

    EMPTY_FRAME = "the frame holds nothing"
    BLANK_LINE = "the frame has a blank line"
    NOT_TEXT = "the frame is no UTF-8"
    NOT_JSON = "the frame is no JSON"
    WRONG_SHAPE = "a field has the wrong type"
    TOO_DEEP = "the frame is nested too deep"
    TEXT_FRAME = "Protobuf came in a text frame"
    BAD_VARINT = "a number is longer than any can be"
    TRUNCATED = "a length reaches behind the end of the frame"
    BAD_TAG = "a field has no number, or a wire type that does not exist"
    NO_ID = "a command has no id"
    NO_METHOD = "a command has no method that the server knows"
    NOT_CONNECTED = "the first command is not connect"
    CONNECTED_TWICE = "a second connect"
    CONNECT_FAILED = "a command after a connect that failed"
    NO_CHANNEL = "the channel has no name"
    UNKNOWN_DELTA = "the type of delta does not exist"
    UNASKED_PONG = "a pong that answers no ping"
    NO_CONNECT = "no connect came in time"
    NOBODY_LISTENS = "a message that nobody takes"


DISCONNECTS: dict[Malformed, Disconnect] = {
    **dict.fromkeys(Malformed, BAD_COMMAND),
    Malformed.NO_CONNECT: STALE,
    Malformed.NOBODY_LISTENS: NOT_OFFERED,
}


class MalformedFrame(errors.Rejected):
    """Raised for a frame that breaks the protocol; the connection ends with the code of `DISCONNECTS`."""

    def __init__(self, kind: Malformed) -> None:
        super().__init__(DISCONNECTS[kind])
        self.kind = kind
