"""The latest refusals and their reasons: counted by kind, kept for people who ask, and logged a few times a minute."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import MutableMapping
from typing import Any

import msgspec

from tidewire.support.log_limit import LogLimit
from tidewire.support.per_loop import PerLoop

__all__ = ("Refusal", "Refusals", "is_noted", "kind_of", "mark_noted", "note_handshake", "note_refusal")

logger = logging.getLogger("tidewire")

#: Refusals that are kept, and the characters of each of their texts.
_KEPT, _TEXT = 200, 200
#: Kinds that are counted apart; any kind beyond them counts as "other".
_KINDS = 100
#: The extension of an ASGI scope whose handshake was refused; copies of the scope share it.
_NOTED = "tidewire.refused"


class Refusal(msgspec.Struct, frozen=True):
    """One refusal: when (seconds since 1970), its kind, the reason for people, and whose request it was."""

    time: float
    kind: str
    why: str
    user: str = ""
    address: str = ""
    connection: str = ""
    channel: str = ""


class Refusals(PerLoop):
    """The refusals of one event loop."""

    __slots__ = ("_log", "counts", "latest")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._log = LogLimit()
        self.counts: Counter[str] = Counter()
        self.latest: deque[Refusal] = deque(maxlen=_KEPT)

    def note(self, refusal: Refusal) -> None:
        """Count and keep a refusal; log it unless one of its kind was logged in the last minute."""
        kind = refusal.kind if refusal.kind in self.counts or len(self.counts) < _KINDS else "other"
        self.counts[kind] += 1
        self.latest.append(refusal)
        more = self._log.due(kind)
        if more is not None:
            logger.info(
                "refused (%s): %s; user %r from %s%s", kind, refusal.why, refusal.user, refusal.address or "-", more
            )


def kind_of(error: BaseException) -> str:
    """Return the kind of a refusal by an exception: "permission_denied" for PermissionDenied."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def note_refusal(
    kind: str, why: str, *, user: str = "", address: str = "", connection: str = "", channel: str = ""
) -> None:
    """Note a refusal on the running event loop."""
    why, user, channel = (text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…" for text in (why, user, channel))
    refusal = Refusal(time.time(), kind, why, user, address, connection, channel)
    Refusals.of(asyncio.get_running_loop()).note(refusal)


def note_handshake(scope: MutableMapping[str, Any], kind: str, why: str, *, user: str = "") -> None:
    """Note that a handshake is refused, once: code that answers it later finds that the reason is known."""
    if not is_noted(scope):
        mark_noted(scope)
        client = scope.get("client")
        note_refusal(kind, why, user=user, address=client[0] if client else "")


def mark_noted(scope: MutableMapping[str, Any]) -> None:
    """Take the refusal of this handshake as noted."""
    scope.setdefault("extensions", {})[_NOTED] = {}


def is_noted(scope: MutableMapping[str, Any]) -> bool:
    """Return whether the refusal of this handshake was noted."""
    return _NOTED in (scope.get("extensions") or ())
