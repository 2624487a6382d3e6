"""How much of a channel its readers are shown: a store's `reading` applies it, its `housekeeping` removes the rest.

An application gives it by ChannelOptions; a publisher with every publication, so that the store knows it.
"""

from __future__ import annotations

import msgspec

__all__ = ("Retention",)


class Retention(msgspec.Struct, frozen=True, gc=False):
    """How much history a channel shows: at most `size` publications, none older than `age` seconds."""

    size: int = 100
    age: float = 86_400.0
