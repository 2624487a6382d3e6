"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

__all__ = ("imported_at_first_use",)


def imported_at_first_use(
    package: str, homes: Mapping[str, Sequence[str]], others: str = ""
) -> Callable[[str], object]:
    """Make the `__getattr__` of a package (PEP 562): `homes` are the modules that define its names.

    A name of its `__all__` that none of them has is defined in the module `others`.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> object:
        home = home_of.get(name) or (others if name in sys.modules[package].__all__ else "")
        if not home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(home), name)
        setattr(sys.modules[package], name, found)
        return found

    return find
