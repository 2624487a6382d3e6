"""Every way in which tidewire itself ends a connection: close codes (RFC 6455 section 7.4) and their reasons.

The Centrifuge protocol has numbers of its own for them (protocols/centrifuge/codes.py).
"""

from __future__ import annotations

from tidewire.errors import ConfigurationError, Disconnect

__all__ = ("check_close_code", "close_reason", "may_return")

NORMAL = Disconnect(1000, "", reconnect=False)
GONE = Disconnect(1001, "going away")
POLICY = Disconnect(1008, "policy violation", reconnect=False)
EXPIRED = Disconnect(1008, "token expired; come back with another", reconnect=False)
REVOKED = Disconnect(1008, "the token was revoked; log in again", reconnect=False)
TOO_BIG = Disconnect(1009, "message too big", reconnect=False)
INTERNAL_ERROR = Disconnect(1011, "internal error")
SHUTDOWN = Disconnect(1012, "service restart")
TOO_MANY = Disconnect(1013, "Too many connections")
STORE_AWAY = Disconnect(1013, "the store is away; try again")
SLOW = Disconnect(4008, "slow: too much unsent; reconnect and recover")
INSUFFICIENT = Disconnect(4010, "insufficient state: reconnect and recover")
NO_PONG = Disconnect(4012, "no pong")
STALLED = Disconnect(4013, "stalled")
FORCED = Disconnect(4503, "disconnected by the application", reconnect=False)

#: Codes after which reconnecting does not help, those of the Centrifuge protocol included.
FINAL = frozenset({1000, 1002, 1003, 1007, 1008, 1009, 1010, *range(3500, 4000), *range(4500, 5000)})
#: Bytes of a close frame's reason (RFC 6455 section 5.5).
REASON_BYTES = 123


def may_return(code: int) -> bool:
    """Return whether a client may come back after a close code."""
    return code not in FINAL


def close_reason(text: str) -> str:
    """Return as much of a text as fits into a close frame."""
    return text.encode()[:REASON_BYTES].decode(errors="ignore")


def check_close_code(code: int) -> None:
    """Raise ConfigurationError for a close code that cannot be sent (RFC 6455 section 7.4)."""
    if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
        raise ConfigurationError(f"close code {code} cannot be sent; write 1000 to 1014 or 3000 to 4999")
