"""The recovery merge: a page of history, joined with the publications that were delivered meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from tidewire.messages import HistoryPage, Position, Publication

__all__ = ("Recovery", "merge")


class Recovery(msgspec.Struct, frozen=True):
    """The answer to a subscriber before it is live: `publications` up to `position`, and whether nothing is missing."""

    publications: tuple[Publication, ...]
    position: Position
    complete: bool


def merge(since: Position | None, page: HistoryPage, buffered: Sequence[Publication]) -> Recovery:
    """Join a page of history with the publications that came meanwhile: each offset once, in order, without a hole.

    `buffered` are those publications in the order of their offsets, from before the history was read on; those of
    another epoch than `page.top` end it, as does a hole. `complete` is never True when something between `since` and
    the position is not in `publications`.
    """
    top = page.top
    publications = list(page.publications)
    reached = since.offset if since is not None else top.offset
    if publications:
        reached = publications[-1].offset
    complete = page.complete and reached >= top.offset and _is_chain(publications)
    if since is not None:
        complete = complete and since.epoch == top.epoch and since.offset <= top.offset
    last = max(publications[-1].offset, top.offset) if publications else top.offset
    for publication in buffered:
        if publication.epoch != top.epoch:
            complete = False
            break
        if publication.offset <= last:
            continue
        if publication.previous > last:
            complete = False
            break
        publications.append(publication)
        last = publication.offset
    return Recovery(tuple(publications), Position(last, top.epoch), complete)


def _is_chain(publications: Sequence[Publication]) -> bool:
    return all(later.previous <= earlier.offset < later.offset for earlier, later in pairwise(publications))
