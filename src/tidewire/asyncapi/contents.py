"""The channels and calls of a document, as the types of clients and comparisons need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tidewire.errors import ConfigurationError

__all__ = ("CallContents", "ChannelContents", "Contents", "contents")


class ChannelContents(NamedTuple):
    """The channels of one pattern, with the schemas of their messages."""

    id: str
    address: str
    parameters: Mapping[str, str]
    published: list[Any]
    accepted: list[Any]


class CallContents(NamedTuple):
    """A call, with the schemas of its argument and its result."""

    name: str
    takes: Any
    returns: Any


class Contents(NamedTuple):
    """All channels and calls, and the schemas that they refer to."""

    channels: list[ChannelContents]
    calls: list[CallContents]
    schemas: Mapping[str, Any]


def contents(document: Mapping[str, Any]) -> Contents:
    """Return the contents of a document; raises ConfigurationError for one that this version does not write."""
    try:
        return _contents(document)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ConfigurationError(
            "this is no AsyncAPI document of tidewire; write one by `tidewire types app:app --json`"
        ) from None


def _contents(document: Mapping[str, Any]) -> Contents:
    components = document.get("components", {})
    messages = components.get("messages", {})

    def payloads(references: Any) -> list[Any]:
        return [messages[reference["$ref"].rpartition("/")[2]]["payload"] for reference in references]

    operations = document.get("operations", {})
    channels: list[ChannelContents] = []
    calls: list[CallContents] = []
    for id_, channel in document["channels"].items() if "channels" in document else ():
        if "x-tidewire-rpc" in channel:
            call = operations[id_]
            takes, returns = payloads(call["messages"])[0], payloads(call["reply"]["messages"])[0]
            calls.append(CallContents(channel["x-tidewire-rpc"], takes, returns))
            continue
        parameters = {name: value.get("description", "") for name, value in channel.get("parameters", {}).items()}
        published = payloads(operations[f"{id_}_published"]["messages"])
        accepted = payloads(operations[f"{id_}_accepted"]["messages"])
        channels.append(ChannelContents(id_, channel["address"], parameters, published, accepted))
    if not str(document["asyncapi"]).startswith("3."):
        raise KeyError("asyncapi")
    return Contents(channels, calls, components.get("schemas", {}))
