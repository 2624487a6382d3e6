"""Changes between two documents that would break clients that are deployed: they know the older one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tidewire.asyncapi.contents import ChannelContents, Contents, contents
from tidewire.asyncapi.narrowing import Narrowing

__all__ = ("breaking_changes",)


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the changes that would break clients, as sentences; raises ConfigurationError for no document."""
    before, after = contents(old), contents(new)
    return list(dict.fromkeys([*_channels(before, after), *_calls(before, after)]))


def _channels(before: Contents, after: Contents) -> Iterator[str]:
    now = {_names(channel): channel for channel in after.channels}
    for channel in before.channels:
        found = now.get(_names(channel))
        if found is None:
            yield f"channel {channel.address}: there is no such channel any more"
        else:
            yield from _parameters(channel, found)
            yield from _channel(channel, found, before, after)


def _names(channel: ChannelContents) -> str:
    """Return what the names of a pattern's channels have in common; how its parameters are called is in none."""
    return re.sub(r"\{\w+\}", "{}", channel.address)


def _parameters(old: ChannelContents, new: ChannelContents) -> Iterator[str]:
    for (name, was), (_, now) in zip(old.parameters.items(), new.parameters.items(), strict=False):
        if now not in (was, "str") and (was, now) != ("int", "float"):
            yield f"channel {old.address}, parameter {name}: it must be {now}, and was {was}"


def _channel(old: ChannelContents, new: ChannelContents, before: Contents, after: Contents) -> Iterator[str]:
    where = f"channel {old.address}"
    if old.published != [{}]:
        # subscribers read new messages by the old types, and ignore what these do not have
        reading = Narrowing(after.schemas, before.schemas, is_reading=True)
        known: dict[str, list[Any]] = {}
        for schema in old.published:
            known.setdefault(_name(schema), []).append(schema)
        for schema in new.published:
            if _name(schema) in known:
                of_name = {"anyOf": known[_name(schema)]}
                yield from reading.problems(schema, of_name, f"{where}, published {_name(schema)}")
            elif schema == {}:
                yield f"{where}: anything may be published, which clients do not know"
        gone = [name for name in known if name not in map(_name, new.published) and new.published != [{}]]
        yield from (f"{where}: {name} is not published any more" for name in gone)
    sending = Narrowing(before.schemas, after.schemas)
    for schema in old.accepted:
        best = [list(sending.problems(schema, one, f"{where}, accepted {_name(schema)}")) for one in new.accepted]
        yield from min(best, key=len)


def _calls(before: Contents, after: Contents) -> Iterator[str]:
    now = {call.name: call for call in after.calls}
    for call in before.calls:
        found = now.get(call.name)
        if found is None:
            yield f"call {call.name}: there is no such call any more"
            continue
        yield from Narrowing(before.schemas, after.schemas).problems(call.takes, found.takes, f"call {call.name}, data")
        reading = Narrowing(after.schemas, before.schemas, is_reading=True)
        yield from reading.problems(found.returns, call.returns, f"call {call.name}, result")


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2] or "message"
