"""Versions of a channel's newest publication: published only where nobody else was faster, on any node."""

from __future__ import annotations

import secrets

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError, PublishUnconfirmed, VersionConflict
from tidewire.messages import MAX_OFFSET, Format, Position
from tidewire.protocols.meta import PublicationMeta, meta_of

__all__ = ("check_version", "publish_version")

#: Publications among which the newest with a version is looked for.
_LOOK_BACK = 100


def check_version(version: object) -> None:
    """Raise ConfigurationError for a value that is no version."""
    is_number = isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= MAX_OFFSET
    if not is_number and not isinstance(version, Position):
        raise ConfigurationError(f"version={version!r} is none; write a number from 1 on, or a Position")


async def publish_version(
    node: Node,
    channel: str,
    data: bytes,
    format_: Format,
    meta: PublicationMeta,
    *,
    version: int | Position,
    key: str = "",
) -> Position:
    """Publish if a version is newer than the channel's newest one, or if the channel still is at a position.

    Of all publishers behind the same predecessor the store keeps one: they share a key, and the claim in that
    publication says whose it is. Raises VersionConflict for all others, and as `Node.publish` and `Broker.history`.
    """
    claim = key or secrets.token_hex(8)
    if isinstance(version, int):
        meta = msgspec.structs.replace(meta, version=version)
    encoded = msgspec.structs.replace(meta, claim=claim).encode()
    while True:
        before = await _predecessor(node, channel, meta, version, claim)
        if isinstance(before, Position):
            return before
        position = await node.publish(channel, data, format_, key=before, meta=encoded, ephemeral=False)
        if await _claim_at(node, channel, position) == claim:
            return position
        if isinstance(version, Position):
            raise VersionConflict(f"{channel!r} is not at {version} any more: another publication was faster", position)


async def _predecessor(
    node: Node, channel: str, meta: PublicationMeta, version: int | Position, claim: str
) -> str | Position:
    """Return the key for all that publish behind the same one, or the position of the publication of this claim.

    Raises VersionConflict.
    """
    if isinstance(version, Position):
        return await _at_position(node, channel, version, claim)
    for limit in (1, _LOOK_BACK):
        page = await node.broker.history(channel, limit=limit, reverse=True)
        for publication in page.publications:
            found = meta_of(publication.meta)
            if not found.version or found.version_epoch != meta.version_epoch:
                continue
            if found.claim == claim and found.version == version:
                return publication.position
            if version <= found.version:
                raise VersionConflict(
                    f"{channel!r} has version {found.version} already, and {version} is no newer one", found.version
                )
            return f"version:{found.version}:{meta.version_epoch}"
        if len(page.publications) < limit:
            break
    return f"version:0:{meta.version_epoch}"


async def _at_position(node: Node, channel: str, at: Position, claim: str) -> str | Position:
    """Return the key for all that publish at a position, or the position that this claim has got there."""
    top = (await node.broker.history(channel, limit=0)).top
    if top == at:
        return f"at:{top}"
    page = await node.broker.history(channel, since=at, limit=1)
    for publication in page.publications:  # by this same call, which is repeated
        if publication.previous == at.offset and meta_of(publication.meta).claim == claim:
            return publication.position
    raise VersionConflict(f"{channel!r} is at {top}, and not at {at} any more", top)


async def _claim_at(node: Node, channel: str, position: Position) -> str:
    """Return the claim of the publication at a position."""
    page = await node.broker.history(channel, since=Position(position.offset - 1, position.epoch), limit=1)
    for publication in page.publications:
        if publication.position == position:
            return meta_of(publication.meta).claim
    raise PublishUnconfirmed(f"the publication in {channel!r} at {position} cannot be read; look, and try again")
