"""The AsyncAPI document of an application (https://www.asyncapi.com/docs/reference/specification/v3.0.0).

The application of the document is the server: it sends its publications, and receives those of clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tidewire.asyncapi.description import CallDescription, ChannelDescription, Description, identifier
from tidewire.asyncapi.samples import sample_of
from tidewire.asyncapi.schemas import Mode, Schemas
from tidewire.protocols.message_shape import Shape

__all__ = ("document",)

VERSION = "3.0.0"
_ANY = "AnyMessage"
#: By which messages without a name of their own are called.
_WAYS: Mapping[Mode, str] = {"serialization": "published", "validation": "accepted"}


def document(
    description: Description,
    *,
    title: str,
    version: str,
    summary: str = "",
    servers: Mapping[str, Any],
    security: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document, as values of JSON."""
    made = _Document(description)
    info = {"title": title, "version": version, "description": summary}
    parts: dict[str, Any] = {
        "asyncapi": VERSION,
        "info": {name: text for name, text in info.items() if text},
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": made.channels,
        "operations": made.operations,
        "components": {"messages": made.messages, "schemas": made.schemas.definitions, "securitySchemes": security},
    }
    parts["components"] = {name: part for name, part in parts["components"].items() if part}
    return {name: part for name, part in parts.items() if part}


class _Document:
    """The parts of a document while it is made."""

    def __init__(self, description: Description) -> None:
        self.schemas = Schemas(_wanted(description))
        self.messages: dict[str, Any] = {}
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        for channel in description.channels:
            self._add_channel(channel)
        for call in description.calls:
            self._add_call(call)

    def _add_channel(self, channel: ChannelDescription) -> None:
        published = [self._message(shape, "serialization", channel.id) for shape in channel.publishes]
        accepted = [self._message(shape, "validation", channel.id) for shape in channel.accepts]
        published, accepted = published or [self._any()], accepted or [self._any()]
        entry = {
            "address": channel.address,
            "title": channel.address,
            "summary": channel.summary,
            "description": channel.description,
            "parameters": {name: {"description": kind} for name, kind in channel.parameters.items()},
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*published, *accepted)},
            "x-tidewire": {
                "history": channel.options.history_size,
                "recovery": channel.options.recoverable,
                "presence": channel.options.presence,
                **({"connect": channel.connect} if channel.connect else {}),
            },
            "servers": [{"$ref": f"#/servers/{channel.server}"}] if channel.server else [],
        }
        self.channels[channel.id] = {name: part for name, part in entry.items() if part not in ("", {}, [])}
        self.operations[f"{channel.id}_published"] = _operation(
            "send", channel.id, published, f"Messages to subscribers of {channel.address}"
        )
        what = "is handled by the application" if channel.is_handled else "is published, where a rule allows it"
        self.operations[f"{channel.id}_accepted"] = _operation(
            "receive", channel.id, accepted, f"Messages that clients publish in {channel.address}: each {what}"
        )

    def _add_call(self, call: CallDescription) -> None:
        id_ = f"rpc_{identifier(call.name)}"
        takes = self._any() if call.takes is None else self._message(call.takes, "validation", id_)
        returns = self._any() if call.returns is None else self._message(call.returns, "serialization", f"{id_}_reply")
        entry = {
            "address": None,
            "title": f"call {call.name}",
            "summary": call.summary,
            "description": call.description,
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (takes, returns)},
            "x-tidewire-rpc": call.name,
        }
        self.channels[id_] = {name: part for name, part in entry.items() if part != ""}
        operation = _operation("receive", id_, [takes], f"The call {call.name!r} of a client")
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{id_}"},
            "messages": [{"$ref": f"#/channels/{id_}/messages/{returns}"}],
        }
        self.operations[id_] = operation

    def _message(self, shape: Shape, mode: Mode, place: str) -> str:
        """Add a message, and return its name."""
        schema = self.schemas.of(shape, mode)
        known = self.schemas.name_of(shape, mode)
        first = name = known or f"{identifier(place)}_{_WAYS[mode]}"
        number = 2
        while name in self.messages and self.messages[name]["payload"] != schema:
            name, number = f"{first}_{number}", number + 1  # another type without a name, in the same place
        if name not in self.messages:
            title = "null" if schema == {"type": "null"} else name
            message: dict[str, Any] = {"name": name, "title": title, "payload": schema}
            sample = sample_of(shape, schema, self.schemas.definitions, mode)
            if sample is not msgspec.UNSET:
                message["examples"] = [{"name": "example", "payload": sample}]
            self.messages[name] = message
        return name

    def _any(self) -> str:
        self.messages[_ANY] = {"name": _ANY, "title": "Any message", "payload": {}}
        return _ANY


def _operation(action: str, channel: str, messages: list[str], summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in dict.fromkeys(messages)],
    }


def _wanted(description: Description) -> Iterator[tuple[Shape, Mode]]:
    for channel in description.channels:
        yield from ((shape, "serialization") for shape in channel.publishes)
        yield from ((shape, "validation") for shape in channel.accepts)
        if channel.declared is not None:
            yield channel.declared, "validation"
    for call in description.calls:
        if call.takes is not None:
            yield call.takes, "validation"
        if call.returns is not None:
            yield call.returns, "serialization"
