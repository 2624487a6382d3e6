"""Compression of publications and replies: each by itself, so that one is compressed once for all clients."""

from __future__ import annotations

import zlib

__all__ = ("deflated",)

#: The four bytes that end every flushed deflate block and are left off the wire (RFC 7692 section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


def deflated(data: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(level=1, wbits=-12, memLevel=5)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)
