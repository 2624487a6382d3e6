"""The recoverable protocol: publications as JSON with their positions, from which a client that was cut goes on."""

from __future__ import annotations

from typing import Any

import msgspec

from tidewire.errors import CommandError
from tidewire.messages import Dropped, Format, Position, Publication, Subscribed, WireMessage
from tidewire.protocols.payload import encode_json
from tidewire.protocols.plain import PlainProtocol

__all__ = ("RECOVERABLE", "RecoverableProtocol")

_encode = msgspec.json.Encoder().encode


class RecoverableProtocol(PlainProtocol):
    """Publications as `{"channel": …, "data": …, "position": …}`; a client's own messages are plain text and bytes.

    A subscribe is answered with `{"channel": …, "recovered": …, "position": …}`, then the missed publications, or the
    history where `recovered` is false. A client keeps the newest `position` and sends it when it comes back, for
    `subscribe(…, since=position)`. The answer has the position before the publications that come after it, so that a
    client that is cut off between the two misses none. The answer has the channel's `state`, if there is one. A
    publication that is not kept has no position. Bytes are a string in base64.
    """

    def encode_publication(self, publication: Publication) -> WireMessage:
        is_json = publication.format is Format.JSON
        data = msgspec.Raw(publication.data) if is_json else publication.json()
        position = {"position": str(publication.position)} if publication.epoch else {}
        return _message(channel=publication.channel, data=data, **position)

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        first = reply.publications[0] if reply.publications else None
        before = reply.position if first is None else Position(first.previous, first.epoch)
        state = {} if reply.state is None else {"state": msgspec.Raw(encode_json(reply.state))}
        answer = _message(channel=reply.channel, recovered=bool(reply.recovered), position=str(before), **state)
        return [answer, *self.encode_publications(reply.publications)]

    def encode_error(self, error: CommandError) -> WireMessage:
        return _message(error=error.code, detail=str(error))

    def encode_dropped(self, push: Dropped) -> WireMessage:
        return _message(channel=push.channel, dropped=push.count)


def _message(**fields: Any) -> WireMessage:
    return WireMessage(_encode(fields))


#: The instance that connections share.
RECOVERABLE = RecoverableProtocol()
