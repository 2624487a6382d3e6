"""Values that a client returns, and the exceptions that stand for the server's error codes; pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tidewire.client.client_frames import Unreadable, read_json
from tidewire.errors import (
    AlreadySubscribed,
    BadRequest,
    CommandError,
    InvalidMessage,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    Problem,
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
from tidewire.protocols.centrifuge.messages import EMPTY, ClientInfo, Error, Publication, Reply, raw
from tidewire.protocols.payload import encode_json

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

logger = logging.getLogger("tidewire.client")

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
    """One publication. `data` is decoded JSON; `position` is None where the channel keeps no history.

    Data that cannot be decoded is None, and `problem` explains why; the client logs it with channel and position. In a
    map it is the new value of a `key`, or says that its entry was `removed`.
    """

    channel: str
    data: Any
    position: Position | None = None
    publisher: ChannelMember | None = None
    tags: Mapping[str, str] = {}
    problem: str = ""
    key: str = ""
    removed: bool = False


class ChannelHistory(msgspec.Struct, frozen=True):
    """A part of a channel's history, and the channel's position."""

    publications: tuple[ChannelPublication, ...]
    position: Position


def encoded(data: Any) -> Raw:
    """Return data as JSON, pydantic models too; None is no data. Raises BadRequest."""
    if data is None:
        return EMPTY
    return raw(encode_json(data))


def decoded(data: Raw) -> Any:
    """Return the value of JSON data; no data is None. Raises Unreadable."""
    return read_json(bytes(data)) if bytes(data) else None


def _info(data: Raw) -> Any:
    try:
        return decoded(data)
    except Unreadable as error:
        logger.warning("the info of a member cannot be read, and is left out: %s", error)
        return None


def member_from(info: ClientInfo) -> ChannelMember:
    """Return a member as an application reads it."""
    return ChannelMember(info.client, info.user, _info(info.conn_info), _info(info.chan_info))


def publication_from(channel: str, publication: Publication, epoch: str) -> ChannelPublication:
    """Return a publication as an application reads it."""
    name = publication.channel or channel
    data, problem = None, ""
    try:
        data = decoded(publication.data)
    except Unreadable as error:
        problem = str(error)
        logger.warning("publication %d of %r cannot be read: %s", publication.offset, name, problem)
    return ChannelPublication(
        name,
        data,
        Position(publication.offset, epoch) if publication.offset else None,
        member_from(publication.info) if publication.info is not None else None,
        publication.tags,
        problem,
        publication.key,
        publication.removed,
    )


def error_from(reply: Reply) -> CommandError:
    """Return the exception that stands for the error of a reply, or for a reply that lacks its result."""
    error = reply.error or Error(codes.INTERNAL.code, "an answer without a result", True)
    if error.code == codes.BAD_REQUEST.code and (problems := _problems(error.message)):
        return InvalidMessage("; ".join(f"{'.'.join(map(str, one.loc))}: {one.msg}" for one in problems), problems)
    if error.code == codes.TOO_MANY_REQUESTS.code:
        return _rate_limited(error.message)
    if 400 <= error.code <= 1999:
        return Refused(error.code, error.message, temporary=error.temporary)
    if error.temporary and error.code not in _ERRORS:
        return TemporaryFailure(error.message)
    return _ERRORS.get(error.code, CommandError)(error.message)


class _Invalid(msgspec.Struct, frozen=True):
    """The problems of a message that is not of its channel's type, read from the text of an error."""

    detail: tuple[Problem, ...]


def _problems(text: str) -> tuple[Problem, ...]:
    try:
        return msgspec.json.decode(text, type=_Invalid).detail
    except msgspec.MsgspecError:
        return ()


class _TooMany(msgspec.Struct, frozen=True):
    """The rate that an application has set, read from the text of an error."""

    detail: str
    retry_after: float


def _rate_limited(text: str) -> RateLimited:
    try:
        found = msgspec.json.decode(text, type=_TooMany)
    except msgspec.MsgspecError:
        return RateLimited(text)
    return RateLimited(found.detail, retry_after=found.retry_after)
