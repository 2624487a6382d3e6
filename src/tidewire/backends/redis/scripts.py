"""The Lua scripts, which lie beside this file; each is sent once per connection and then called by its hash."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import msgspec

__all__ = ("Script", "script")


class Script(msgspec.Struct, frozen=True):
    """A script's text, and the hash by which the server knows it."""

    text: bytes
    sha: str


@cache
def script(name: str, prelude: str = "") -> Script:
    """Return a script, behind the functions that it shares with others."""
    folder = files("tidewire.backends.redis").joinpath("scripts")
    parts = [folder.joinpath(f"{part}.lua").read_bytes() for part in (prelude, name) if part]
    text = b"\n".join(parts)
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
