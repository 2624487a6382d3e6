"""When a client reconnects, and when it does not; pure."""

from __future__ import annotations

import random
from collections.abc import Collection

from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidStatus

from tidewire.errors import ConnectionClosed, Disconnect

__all__ = ("check_may_return", "delay", "retry_after")

#: Seconds before a further attempt: a random time up to the first, which doubles each time up to the second (full
#: jitter).
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 20.0
#: HTTP statuses below 500 after which reconnecting helps.
_TRY_AGAIN = frozenset({408, 425, 429})


def delay(attempt: int) -> float:
    """Return the seconds before attempt number `attempt` (0: the first after a loss)."""
    return random.uniform(0, min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(attempt, 10)))


def retry_after(error: InvalidStatus) -> float | None:
    """Return the seconds of `Retry-After` if the server sent it. Raises ConnectionClosed for a final refusal."""
    status = error.response.status_code
    if status < 500 and status not in _TRY_AGAIN:
        reason = f"refused with HTTP {status}; check the address and the token"
        raise ConnectionClosed(Disconnect(1008, reason, reconnect=False)) from None
    asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), 300.0) * random.uniform(1, 1.5) if asked.isdecimal() else None


def check_may_return(error: SocketClosed, final: Collection[int]) -> None:
    """Raise ConnectionClosed when the server closed with a code that forbids reconnecting."""
    close = error.rcvd
    if close is None or not error.rcvd_then_sent:
        return
    if close.code in final:
        raise ConnectionClosed(Disconnect(close.code, close.reason, reconnect=False)) from None
