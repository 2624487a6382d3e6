"""Facts beside a publication's data and in a member's entry: tags, versions, and the publisher.

Written by sessions and by the HTTP API, read by both; a store keeps it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import Raw, Struct

from tidewire.channels import is_of_map
from tidewire.errors import BadRequest
from tidewire.messages import Member, Publication
from tidewire.protocols.centrifuge.messages import EMPTY, ClientInfo, raw
from tidewire.support.shown_value import shown

__all__ = (
    "BUT_NOT",
    "CHANGE",
    "PublicationMeta",
    "announcement_meta",
    "but_not",
    "client_info",
    "is_history",
    "member_info",
    "meta_of",
    "tags_from",
    "trace_of",
    "user_of",
    "with_channel_info",
    "with_trace",
)


class PublicationMeta(Struct, frozen=True, omit_defaults=True):
    """The publisher (None: the application), the tags, and the version that later publications must exceed.

    A publication with `skip_history` is pushed to current subscribers only, and not shown in history. It is not pushed
    to the connection `but_not`.
    """

    info: ClientInfo | None = None
    tags: dict[str, str] = {}
    version: int = 0
    version_epoch: str = ""
    skip_history: bool = False
    but_not: str = ""
    #: The source of the publication, where several may publish the same version.
    claim: str = ""
    #: The span of its publish, for the nodes that deliver it; it is not shown to clients.
    trace: str = ""
    #: It is a change of a map. Only the map's verbs and announcements of its members set this, never a client or a
    #: caller.
    change: bool = False

    def encode(self) -> bytes:
        """Return the bytes for `Publication.meta`; b"" if all fields have their defaults."""
        return b"" if self == _NOTHING else msgspec.json.encode(self)


_NOTHING = PublicationMeta()
#: Is in the `meta` of a publication that a connection does not get: a look at it costs less than a call.
BUT_NOT = b'"but_not"'
#: The `meta` of a change of a map without other facts.
CHANGE = PublicationMeta(change=True).encode()


def announcement_meta(channel: str) -> bytes:
    """Return the `meta` of announcements about a channel's members."""
    return CHANGE if is_of_map(channel) else b""


def tags_from(tags: object) -> dict[str, str]:
    """Return the tags that an application gives; raises BadRequest unless keys and values are texts."""
    if tags is None:
        return {}
    if isinstance(tags, Mapping) and all(isinstance(one, str) for pair in tags.items() for one in pair):
        found = dict(tags)
        if "".join((*found, *found.values())).isascii() or _is_unicode(found):
            return found
    raise BadRequest(f"tags={shown(tags)} are none; write texts by texts, as tags={{'kind': 'news'}}")


def _is_unicode(texts: Mapping[str, str]) -> bool:
    try:
        msgspec.json.encode(texts)
    except UnicodeEncodeError:
        return False
    return True


class _Infos(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    conn_info: Raw = EMPTY
    chan_info: Raw = EMPTY


def is_history(publication: Publication) -> bool:
    """Return whether history shows a publication."""
    return b'"skip_history"' not in publication.meta or not meta_of(publication.meta).skip_history


def but_not(publication: Publication) -> str:
    """Return the connection that does not get a publication; "" if all do."""
    return _but_not(publication.meta)


@lru_cache(maxsize=256)
def _but_not(meta: bytes) -> str:
    return meta_of(meta).but_not if BUT_NOT in meta else ""


def trace_of(publication: Publication) -> str:
    """Return the span of a publication's publish, "" for none."""
    return meta_of(publication.meta).trace if b'"trace"' in publication.meta else ""


def with_trace(meta: bytes, span: str) -> bytes:
    """Return a publication's `meta` with the span of its publish, a text without quotes."""
    return b'%b"trace":"%b"}' % (b"{" if len(meta) < 3 else meta[:-1] + b",", span.encode())


@lru_cache(maxsize=256)
def meta_of(meta: bytes) -> PublicationMeta:
    """Return the values in a publication's `meta`; the defaults for one that tidewire has not written."""
    if not meta:
        return _NOTHING
    try:
        return msgspec.json.decode(meta, type=PublicationMeta)
    except msgspec.MsgspecError:
        return _NOTHING


def member_info(conn_info: bytes = b"", chan_info: bytes = b"") -> bytes:
    """Return the bytes for `Member.info`, from the tokens of the connection and of its subscription."""
    if not conn_info and not chan_info:
        return b""
    return msgspec.json.encode(_Infos(raw(conn_info), raw(chan_info)))


def with_channel_info(info: bytes, chan_info: bytes) -> bytes:
    """Return a member's info with another info of its subscription."""
    try:
        infos = msgspec.json.decode(info, type=_Infos) if info else _Infos()
    except msgspec.MsgspecError:
        infos = _Infos(conn_info=raw(info))
    return member_info(bytes(infos.conn_info), chan_info)


def user_of(member: Member) -> str:
    """Return the user of a member; "" for one that has none, and the name of its connection instead."""
    return "" if member.user == member.connection else member.user


def client_info(member: Member) -> ClientInfo:
    """Return a member as the protocol shows it; one without a user is recognised by the name of its connection."""
    try:
        infos = msgspec.json.decode(member.info, type=_Infos) if member.info else _Infos()
    except msgspec.MsgspecError:
        infos = _Infos(conn_info=raw(member.info))
    return ClientInfo(user_of(member), member.connection, infos.conn_info, infos.chan_info)
