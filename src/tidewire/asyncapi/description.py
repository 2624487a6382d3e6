"""The description of an application's channels and calls: values, read from its rules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from tidewire.channel_options import ChannelOptions
from tidewire.protocols.message_shape import Shape, members_of
from tidewire.rules.book import Rule, RuleBook
from tidewire.rules.handlers import Bound
from tidewire.rules.parameters import hints_of
from tidewire.rules.pattern import Pattern

__all__ = ("CallDescription", "ChannelDescription", "Description", "describe", "identifier")


class ChannelDescription(NamedTuple):
    """The channels of one pattern; no types: messages may be anything."""

    id: str
    address: str
    parameters: dict[str, str]
    summary: str
    description: str
    options: ChannelOptions
    publishes: tuple[Shape, ...] = ()
    accepts: tuple[Shape, ...] = ()
    #: The accepted types, as they were declared.
    declared: Shape | None = None
    #: A message of a client becomes something else before it is kept.
    is_handled: bool = False
    #: The connect data of a client that may use the channels.
    connect: dict[str, Any] = {}
    #: The only server that has the channels; "": all that speak the Centrifuge protocol.
    server: str = ""


class CallDescription(NamedTuple):
    """A call that clients may make."""

    name: str
    summary: str
    description: str
    takes: Shape | None
    returns: Shape | None


class Description(NamedTuple):
    """All channels and calls of an application."""

    channels: tuple[ChannelDescription, ...]
    calls: tuple[CallDescription, ...] = ()
    #: Clients may bring a token in the protocol.
    takes_tokens: bool = False


def describe(book: RuleBook) -> Description:
    """Return the description of the rules of a hub."""
    channels = tuple(_channel(rule) for rule in book.rules)
    calls = tuple(_call(name, bound) for name, bound in book.calls.items())
    return Description(_with_own_ids(channels), calls, book.authenticate is not None)


def identifier(text: str) -> str:
    """Return a text as a key of a document: letters, digits and underscores."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "channel"


def _with_own_ids(channels: tuple[ChannelDescription, ...]) -> tuple[ChannelDescription, ...]:
    seen: set[str] = set()
    found: list[ChannelDescription] = []
    for channel in channels:
        id_ = channel.id if channel.id not in seen else identifier(channel.address)
        while id_ in seen:
            id_ += "_"
        seen.add(id_)
        found.append(channel._replace(id=id_))
    return tuple(found)


def _channel(rule: Rule) -> ChannelDescription:
    summary, description = _doc(rule.function)
    hints = hints_of(rule.function)
    handler = rule.handler
    accepts = rule.types.of_clients if handler is None else handler.reads
    publishes = rule.types.publishes or (None if handler is None else _returned(handler.function, _without_none))
    shown = _shapes(publishes)
    if handler is None and publishes is not None:  # an accepted message is published as it is
        shown += tuple(shape for shape in _shapes(accepts) if shape.type not in [known.type for known in shown])
    return ChannelDescription(
        identifier(getattr(rule.function, "__name__", "")) if rule.pattern.names else identifier(rule.pattern.text),
        _address(rule.pattern),
        {name: _name_of(hints.get(name, str)) for name in rule.pattern.names},
        summary,
        description,
        rule.options,
        shown,
        _shapes(accepts),
        accepts,
        handler is not None,
    )


def _address(pattern: Pattern) -> str:
    return pattern.text.replace(":path}", "}")


def _call(name: str, bound: Bound) -> CallDescription:
    summary, description = _doc(bound.function)
    takes = None if bound.data_type in (None, Any) else Shape(bound.data_type)
    return CallDescription(name, summary, description, takes, _returned(bound.function))


def _returned(function: Any, part: Callable[[Any], Any] = lambda type_: type_) -> Shape | None:
    """Return the type that a function says it returns, or a part of it; None for one that says nothing."""
    type_ = hints_of(function).get("return")
    inner = tuple(one for one in members_of(type_) if one is not None)
    if not inner or Any in inner or inner == (type(None),):
        return None
    try:
        shape = Shape(part(type_))
        shape.complete()
        return shape
    except Exception:
        return None  # it is told as anything


def _without_none(type_: Any) -> Any:
    arguments = [one for one in get_args(type_) if one is not type(None)]
    if get_origin(type_) is None or len(arguments) == len(get_args(type_)):
        return type_
    joined = arguments[0]
    for one in arguments[1:]:
        joined = joined | one
    return joined


def _shapes(shape: Shape | None) -> tuple[Shape, ...]:
    """Return a type for each message that a union holds."""
    if shape is None:
        return ()
    inner = tuple(_alternatives(shape.type))
    return (shape,) if len(inner) == 1 else tuple(Shape(one) for one in inner)


def _alternatives(type_: Any) -> Iterator[Any]:
    """Yield the types that a union holds, with their own annotations, or the type alone."""
    inner = get_args(type_)[0] if get_origin(type_) is Annotated else type_
    if get_origin(inner) in (Union, UnionType):
        for one in get_args(inner):
            yield from _alternatives(one)
    else:
        yield type_


def _doc(function: Any) -> tuple[str, str]:
    summary, _, description = (inspect.getdoc(function) or "").partition("\n")
    return summary, description.strip()


def _name_of(type_: Any) -> str:
    return str(getattr(type_, "__name__", type_))
