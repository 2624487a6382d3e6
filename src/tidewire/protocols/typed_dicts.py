"""Turns TypedDicts of `typing`, which pydantic takes from Python 3.12 on only, into those of `typing_extensions`."""

from __future__ import annotations

import sys
import typing
from types import GenericAlias, UnionType
from typing import Any, get_args, get_origin, is_typeddict

import typing_extensions

__all__ = ("portable",)


def portable(type_: Any) -> Any:
    """Return a type in which every TypedDict is one that pydantic takes."""
    if sys.version_info >= (3, 12):
        return type_
    if is_typeddict(type_):
        return _of_extensions(type_) if type(type_).__module__ == "typing" else type_
    arguments = get_args(type_)
    changed = tuple(map(portable, arguments))
    if changed == arguments:
        return type_
    if isinstance(type_, UnionType):
        return typing.Union[changed]  # noqa: UP007
    if isinstance(type_, GenericAlias):
        return GenericAlias(get_origin(type_), changed)
    if get_origin(type_) is typing.Annotated:
        return typing.Annotated[(changed[0], *type_.__metadata__)]
    return type_.copy_with(changed)


def _of_extensions(type_: Any) -> Any:
    required = type_.__required_keys__
    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(type_, include_extras=True).items():
        plain = get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint
        fields[name] = portable(plain) if name in required else typing_extensions.NotRequired[portable(plain)]
    make: Any = typing_extensions.TypedDict
    made = make(type_.__name__, fields)
    made.__doc__, made.__module__ = type_.__doc__, type_.__module__
    return made
