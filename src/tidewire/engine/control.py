"""The messages of nodes to each other, beside publications."""

from __future__ import annotations

import msgspec

from tidewire.errors import Disconnect

__all__ = ("Control",)


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request of one node to all: to disconnect a user, or to push the publication's data to everybody.

    Another `verb` is done by the layer that taught it to its nodes (node.Node.verbs); the data says the rest.
    """

    user: str = ""
    disconnect: Disconnect | None = None
    everybody: bool = False
    verb: str = ""
