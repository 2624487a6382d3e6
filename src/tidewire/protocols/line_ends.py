"""Lines of streams: JSON without what some readers take for the end of a line."""

from __future__ import annotations

import re

__all__ = ("one_line",)

#: U+2028, U+2029 and U+0085: a line ends there for `str.splitlines` of Python, and so for many readers of streams.
_LINE_ENDS = re.compile(b"\xe2\x80[\xa8\xa9]|\xc2\x85")


def one_line(text: bytes) -> bytes:
    """Return JSON with the line ends within its strings escaped, for a stream whose messages are lines."""
    if b"\xe2\x80" in text or b"\xc2\x85" in text:
        return _LINE_ENDS.sub(lambda end: b"\\u%04x" % ord(end[0].decode()), text)
    return text
