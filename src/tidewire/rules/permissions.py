"""The permissions of a user in a channel, as a rule returns them."""

from __future__ import annotations

from typing import Any

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.errors import NotAvailable, PermissionDenied
from tidewire.rules.base import Action

__all__ = ("ALL", "NOTHING", "Permissions", "check_allowed")


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """The permissions of a user in a channel; by default, to read. A rule's True allows everything, False nothing.

    `info` shows in presence, joins and publications, `data` goes back in the reply to the subscribe: any value that
    JSON can express. `expires_at`, in seconds since 1970, is when the client asks again.
    """

    subscribe: bool = True
    publish: bool = False
    history: bool = True
    presence: bool = True
    info: Any = None
    data: Any = None
    expires_at: float | None = None

    def allows(self, action: Action) -> bool:
        """Return whether the user may do it."""
        allowed: bool = self.publish if action is Action.REMOVE else getattr(self, action.value)
        return allowed


ALL = Permissions(publish=True)
NOTHING = Permissions(subscribe=False, history=False, presence=False)


def check_allowed(allowed: bool, action: Action, channel: str, options: ChannelOptions) -> None:
    """Raise NotAvailable for an action that the channel does not offer, PermissionDenied for a forbidden one."""
    if action is Action.HISTORY and not options.history_size:
        raise NotAvailable(f"channel {channel!r} has no history")
    if action is Action.PRESENCE and not options.presence:
        raise NotAvailable(f"channel {channel!r} has no presence")
    if not allowed:
        raise PermissionDenied(f"this client may not {_DOING[action]} {channel!r}")


_DOING = {
    Action.PUBLISH: "publish in",
    Action.REMOVE: "remove entries of",
    Action.HISTORY: "read the history of",
    Action.PRESENCE: "see the members of",
}
