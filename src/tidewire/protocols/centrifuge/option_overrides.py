"""Options of a channel that differ for one subscription: by its token, or by a call of the HTTP API."""

from __future__ import annotations

import msgspec

from tidewire.channel_options import ChannelOptions

__all__ = ("Override", "Switch")


class Switch(msgspec.Struct, frozen=True):
    """One overridden option."""

    value: bool


class Override(msgspec.Struct, frozen=True):
    """Options that a token or a call of the HTTP API sets for one subscription."""

    presence: Switch | None = None
    join_leave: Switch | None = None
    force_push_join_leave: Switch | None = None
    force_recovery: Switch | None = None
    force_positioning: Switch | None = None

    def applied(self, options: ChannelOptions) -> ChannelOptions:
        """Return the options with the overrides applied; recovery without history stays off."""
        changes: dict[str, bool] = {}
        if self.presence is not None:
            changes["presence"] = self.presence.value
        if self.join_leave is not None:
            changes["join_leave"] = self.join_leave.value
        if self.force_push_join_leave is not None:
            changes["force_join_leave"] = self.force_push_join_leave.value
            changes["join_leave"] = changes.get("join_leave", options.join_leave) or self.force_push_join_leave.value
        if self.force_positioning is not None:
            changes["force_positioned"] = self.force_positioning.value
            changes["positioned"] = options.positioned or self.force_positioning.value
        if self.force_recovery is not None:
            forced = self.force_recovery.value and options.history_size > 0
            changes["force_recoverable"] = forced
            changes["recoverable"] = options.recoverable or forced
            changes["positioned"] = changes.get("positioned", options.positioned) or forced
        return msgspec.structs.replace(options, **changes)
