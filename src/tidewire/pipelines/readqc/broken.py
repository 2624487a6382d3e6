"""The error of a broken file of reads."""

from __future__ import annotations

from tidewire.errors import TidewireError

__all__ = ("BrokenFastq",)


class BrokenFastq(TidewireError):
    """Raised for a file that is not FASTQ or is damaged, with the place and the expected content."""
