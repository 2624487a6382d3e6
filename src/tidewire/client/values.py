"""Values that a client returns, and the exceptions that stand for the server's error codes; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tidewire.errors import (
    AlreadySubscribed,
    BadRequest,
    CommandError,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    RateLimited,
    Refused,
    TemporaryFailure,
    TokenExpired,
    UnknownChannel,
    UnknownType,
    Unrecoverable,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge.messages import EMPTY, ClientInfo, Error, Publication, raw

__all__ = (
    "ChannelHistory",
    "ChannelMember",
    "ChannelPublication",
    "decoded",
    "encoded",
    "error_from",
    "member_from",
    "publication_from",
)

_ERRORS: dict[int, type[CommandError]] = {
    codes.UNAUTHORIZED.code: PermissionDenied,
    codes.UNKNOWN_CHANNEL.code: UnknownChannel,
    codes.PERMISSION_DENIED.code: PermissionDenied,
    codes.METHOD_NOT_FOUND.code: UnknownType,
    codes.ALREADY_SUBSCRIBED.code: AlreadySubscribed,
    codes.LIMIT_EXCEEDED.code: LimitExceeded,
    codes.BAD_REQUEST.code: BadRequest,
    codes.NOT_AVAILABLE.code: NotAvailable,
    codes.TOKEN_EXPIRED.code: TokenExpired,
    codes.EXPIRED.code: TokenExpired,
    codes.TOO_MANY_REQUESTS.code: RateLimited,
    codes.UNRECOVERABLE.code: Unrecoverable,
}


class ChannelMember(msgspec.Struct, frozen=True):
    """One connection, as presence and publications show it; the two infos come from its tokens."""

    client: str
    user: str
    connection_info: Any = None
    channel_info: Any = None


class ChannelPublication(msgspec.Struct, frozen=True):
    """One publication. `data` is decoded JSON; `position` is None where the channel keeps no history."""

    channel: str
    data: Any
    position: Position | None = None
    publisher: ChannelMember | None = None
    tags: Mapping[str, str] = {}


class ChannelHistory(msgspec.Struct, frozen=True):
    """A part of a channel's history, and the channel's position."""

    publications: tuple[ChannelPublication, ...]
    position: Position


def encoded(data: Any) -> Raw:
    """Return data as JSON; None is no data. Raises BadRequest."""
    if data is None:
        return EMPTY
    try:
        return raw(msgspec.json.encode(data))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise BadRequest(f"the data cannot be written as JSON: {error}") from None


def decoded(data: Raw) -> Any:
    """Return the value of JSON data; no data is None."""
    return msgspec.json.decode(data) if bytes(data) else None


def member_from(info: ClientInfo) -> ChannelMember:
    """Return a member as an application reads it."""
    return ChannelMember(info.client, info.user, decoded(info.conn_info), decoded(info.chan_info))


def publication_from(channel: str, publication: Publication, epoch: str) -> ChannelPublication:
    """Return a publication as an application reads it."""
    return ChannelPublication(
        publication.channel or channel,
        decoded(publication.data),
        Position(publication.offset, epoch) if publication.offset else None,
        member_from(publication.info) if publication.info is not None else None,
        publication.tags,
    )


def error_from(error: Error) -> CommandError:
    """Return the exception that stands for an error of the server."""
    if 400 <= error.code <= 1999:
        return Refused(error.code, error.message, temporary=error.temporary)
    if error.temporary and error.code not in _ERRORS:
        return TemporaryFailure(error.message)
    return _ERRORS.get(error.code, CommandError)(error.message)
