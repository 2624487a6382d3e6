"""The sizes of the steps in which history is read, so that about so many bytes are in memory as may be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tidewire.messages import Publication

__all__ = ("FIRST_STEP", "cost", "fitting", "step_after")

#: Publications of the first step of a read that is bounded in bytes, and of a later one at most.
FIRST_STEP, _LARGEST_STEP = 16, 1_024
#: Bytes for which a publication counts beside its data, so that small ones count too.
_PUBLICATION_COST = 64


def cost(publication: Publication) -> int:
    """Return the bytes for which a publication counts in a reply."""
    return len(publication.data) + _PUBLICATION_COST


def step_after(publications: Sequence[Publication], left: int) -> int:
    """Return how many publications the next step of a read asks for, of which so many bytes are left."""
    return max(1, min(_LARGEST_STEP, left // max(map(cost, publications), default=1)))


def fitting(publications: Sequence[Publication], most: int) -> int:
    """Return how many of the first publications fit; at least one, if there is any."""
    sizes = accumulate(map(cost, publications))
    return max(min(1, len(publications)), sum(1 for size in sizes if size <= most))
