"""Patterns of channel names with parameters: `room:{room}`."""

from __future__ import annotations

import re

from tidewire.channels import NAME_BYTES, check_channel
from tidewire.errors import BadRequest, ConfigurationError
from tidewire.support.shown_value import shown

__all__ = ("Pattern",)

_PARAMETER = re.compile(r"\{([a-zA-Z_]\w*)(:path)?\}")


class Pattern:
    """A channel name with parameters. `{room}` is one or more characters but ":", `{rest:path}` any.

    Raises ConfigurationError for a text that is no pattern.
    """

    __slots__ = ("_regex", "names", "rank", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        parts: list[str] = []
        names: list[str] = []
        end = literals = paths = 0
        for found in _PARAMETER.finditer(text):
            literals += found.start() - end
            parts += [re.escape(text[end : found.start()]), f"(?P<{found[1]}>{'.+' if found[2] else '[^:]+'})"]
            names.append(found[1])
            paths += found[2] is not None
            end = found.end()
        rest = text[end:]
        if not text or re.search(r"[{}]", _PARAMETER.sub("", text)):
            raise ConfigurationError(f"channel pattern {text!r} is none; write room:{{room}}, or {{rest:path}}")
        try:
            check_channel(_PARAMETER.sub("x", text), NAME_BYTES)
        except BadRequest as error:
            raise ConfigurationError(f"channel pattern {shown(text)} fits no channel: {error}") from None
        if len(set(names)) != len(names):
            raise ConfigurationError(f"channel pattern {text!r} has a parameter twice; give each a name of its own")
        self._regex = re.compile("".join(parts) + re.escape(rest), re.DOTALL)
        self.names = tuple(names)
        #: The smaller, the more special: an exact name, then without :path, then more of its own text.
        self.rank = (bool(names), bool(paths), -(literals + len(rest)), len(names))

    def match(self, channel: str) -> dict[str, str] | None:
        """Return the parameters of a name that fits, or None."""
        found = self._regex.fullmatch(channel)
        return None if found is None else found.groupdict()
