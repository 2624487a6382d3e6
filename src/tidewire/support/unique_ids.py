"""Names that no other process of any machine gives."""

from __future__ import annotations

import itertools
import os
import secrets

__all__ = ("unique_id",)

_numbers = itertools.count(1)
_prefix = ""


def unique_id() -> str:
    """Return a name that is not given again: a prefix of this process, and a number."""
    return f"{_prefix}-{next(_numbers):x}"


def _choose_prefix() -> None:
    global _prefix
    _prefix = secrets.token_hex(6)


_choose_prefix()
if hasattr(os, "register_at_fork"):  # a server may load the application first, and fork its workers then
    os.register_at_fork(after_in_child=_choose_prefix)
