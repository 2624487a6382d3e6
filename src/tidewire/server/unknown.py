"""Names in a configuration that are no settings, all of them at once, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tidewire.server.settings_help import hint_for

__all__ = ("mend_for", "unknown_settings")


def unknown_settings(values: Mapping[str, Any], known: Collection[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each name of a file that is no setting, and how to mend it.

    `known` are the dotted names of all settings; what stands in a list of tables has the number 0.
    """
    for name, value in values.items():
        where = path + name
        numbered = _numbered(where)
        if isinstance(value, Mapping) and any(one.startswith(f"{numbered}.") for one in known):
            yield from unknown_settings(value, known, f"{where}.")
        elif isinstance(value, list) and any(one.startswith(f"{numbered}.0.") for one in known):
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from unknown_settings(item, known, f"{where}.{number}.")
        elif numbered not in known or (isinstance(value, Mapping) and hint_for(f"{numbered}.")):
            yield from _mended(where, value, known)


def _numbered(where: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".0", where)


def _mended(where: str, value: object, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield a name, or what its table holds where that is not all mended in the same way."""
    hint = hint_for(where)
    hints = {leaf: hint_for(leaf) for leaf in _leaves(where, value)}
    if all(one == hint for one in hints.values()):
        yield where, mend_for(where, known)
    else:
        yield from ((leaf, one or mend_for(where, known)) for leaf, one in hints.items())


def _leaves(where: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{where}.{name}", inner)
    else:
        yield where


def mend_for(where: str, known: Collection[str]) -> str:
    """Return what to do about a name that is no setting: what replaces it, or the nearest name."""
    if hint := hint_for(where):
        return hint
    table, dot, name = where.rpartition(".")
    prefix = _numbered(table + dot)
    beside = {one[len(prefix) :].partition(".")[0] for one in known if one.startswith(prefix)}
    for near in difflib.get_close_matches(name, beside, 1, 0.6):
        return f"did you mean {table}{dot}{near}?"
    for elsewhere in sorted(one for one in known if one.endswith(f".{name}") and ".0." not in one):
        return f"did you mean {elsewhere}?"
    return "`tidewire serve --print-config` lists all settings"
