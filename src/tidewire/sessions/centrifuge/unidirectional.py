"""Clients that only listen: one connect request, then bare pushes.

Each event of an event stream names the position of every channel of the client: a browser's EventSource sends the last
one back when it reconnects, and so goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

import msgspec

from tidewire.errors import BadRequest, LimitExceeded, Rejected
from tidewire.messages import MAX_OFFSET, Position, Publication, WireMessage
from tidewire.protocols.centrifuge.encoding import CentrifugeJson
from tidewire.protocols.centrifuge.messages import Command, ConnectRequest, Push, SubscribeRequest
from tidewire.protocols.centrifuge.protobuf import decode_message, encode_delimited
from tidewire.protocols.json_text import decode_leniently

__all__ = ("EventProtocol", "connect_frame", "parse_positions", "parse_request")

#: Bytes of an event's id at most: a request's headers have to hold it.
_ID_BYTES = 8_192


class EventProtocol(CentrifugeJson):
    """Bare pushes as fields of server-sent events, for one connection: `id: …` and `data: …`.

    The id is a query string (WHATWG URL section 5.2) of channels and their positions: `room%3A1=epoch:offset&…`.
    """

    def __init__(self, positions: Mapping[str, Position], *, json_depth: int) -> None:
        super().__init__(one_way=True, json_depth=json_depth)
        #: The part of the id that each channel is.
        self._places = {channel: shown_positions({channel: place}) for channel, place in positions.items()}

    def encode_push(self, push: Push) -> WireMessage:
        if push.connect is not None:
            for channel, result in push.connect.subs.items():
                offset = result.publications[-1].offset if result.publications else result.offset
                self._move(channel, offset, result.epoch)
        elif push.subscribe is not None:
            self._move(push.channel, push.subscribe.offset, push.subscribe.epoch)
        elif push.unsubscribe is not None:
            self._places.pop(push.channel, None)
        return self._event(super().encode_push(push))

    def encode_pub(self, publication: Publication, data: bytes, *, offset: bool, delta: bool = False) -> WireMessage:
        message = super().encode_pub(publication, data, offset=offset, delta=delta)
        if not message.data.startswith(b"{"):
            return message  # a message outside of channels, which was a push
        if offset:
            self._move(publication.channel, publication.offset, publication.epoch)
        return self._event(message)

    def encode_publications(self, publications: Sequence[Publication]) -> list[WireMessage]:
        return [self.encode_pub(one, self.data_of(one), offset=True) for one in publications]

    def _move(self, channel: str, offset: int, epoch: str) -> None:
        if epoch:
            self._places[channel] = shown_positions({channel: Position(offset, epoch)})

    def _event(self, message: WireMessage) -> WireMessage:
        # an empty id would make the browser forget the last one
        place = b"id: %b\n" % "&".join(self._places.values()).encode() if self._places else b""
        return WireMessage(b"%bdata: %b" % (place, message.data))


def shown_positions(positions: Mapping[str, Position]) -> str:
    """Return positions as the id of an event."""
    return urlencode({channel: f"{place.epoch}:{place.offset}" for channel, place in positions.items()}, safe=":")


def parse_positions(text: str) -> dict[str, Position]:
    """Return the positions of an event's id; there are none in the id of another stream.

    An EventSource that was refused for its last id would never ask again.
    """
    found: dict[str, Position] = {}
    for channel, place in parse_qsl(text[:_ID_BYTES], keep_blank_values=True):
        epoch, _, digits = place.rpartition(":")
        if epoch and digits.isascii() and digits.isdecimal() and len(digits) < 17:
            found[channel] = Position(min(int(digits), MAX_OFFSET), epoch)
    return found


def parse_request(data: bytes, *, binary: bool = False, depth: int, last_event_id: str = "") -> ConnectRequest:
    """Return a connect request, which goes on where the last event was; raises BadRequest.

    Raises LimitExceeded for more channels than an event's id can hold.
    """
    try:
        if binary:
            request = decode_message(ConnectRequest, data, depth=depth)
        else:
            request = decode_leniently(_decode, data or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, Rejected, RecursionError):
        raise BadRequest('the connect request cannot be read; send an object as {"subs": {"room:1": {}}}') from None
    places = parse_positions(last_event_id)
    subs = {
        channel: _recovering(places[channel]) if channel in places else asked for channel, asked in request.subs.items()
    }
    subs |= {channel: _recovering(place) for channel, place in places.items() if channel not in subs}
    size = sum([len(urlencode({channel: ""})) + 40 for channel in subs])
    if size > _ID_BYTES:
        raise LimitExceeded(f"the positions of {len(subs)} channels are too long for one stream; open several")
    return msgspec.structs.replace(request, subs=subs)


_decode = msgspec.json.Decoder(ConnectRequest).decode


def _recovering(place: Position) -> SubscribeRequest:
    return SubscribeRequest(recover=True, epoch=place.epoch, offset=place.offset)


def connect_frame(request: ConnectRequest, *, binary: bool = False) -> str | bytes:
    """Return the frame that a speaking client would send for this request."""
    command = Command(id=1, connect=request)
    if binary:
        return encode_delimited(command)
    # a payload may have line feeds between its tokens, and they separate commands
    return msgspec.json.encode(command).translate(None, b"\r\n").decode()
