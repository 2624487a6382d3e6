"""The latest refusals and their reasons: counted by kind, kept for people who ask, and logged a few times a minute."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, deque

import msgspec

from tidewire.support.log_limit import LogLimit
from tidewire.support.per_loop import PerLoop

__all__ = ("Refusal", "Refusals", "kind_of", "note_refusal")

logger = logging.getLogger("tidewire")

#: Refusals that are kept, and the characters of each of their texts.
_KEPT, _TEXT = 200, 200
#: Kinds that are counted apart; any kind beyond them counts as "other".
_KINDS = 100


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


def kind_of(error: Exception) -> str:
    """Return the kind of a refusal by an exception: "permission_denied" for PermissionDenied."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def note_refusal(
    kind: str, why: str, *, user: str = "", address: str = "", connection: str = "", channel: str = ""
) -> None:
    """Note a refusal on the running event loop."""
    refusal = Refusal(time.time(), kind, why[:_TEXT], user[:_TEXT], address, connection, channel[:_TEXT])
    Refusals.of(asyncio.get_running_loop()).note(refusal)
