"""What is wrong with a file of reads."""

from __future__ import annotations

from tidewire.errors import TidewireError

__all__ = ("BrokenFastq",)


class BrokenFastq(TidewireError):
    """Raised for a file that is no FASTQ file or a damaged one; says where and what was expected."""
