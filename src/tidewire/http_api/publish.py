"""Publishing for the HTTP API: payloads as they were written, tags, keys, and versions that only grow."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, VersionConflict
from tidewire.http_api import models as m
from tidewire.messages import Format, Position
from tidewire.protocols.meta import PublicationMeta
from tidewire.sessions.centrifuge.websocket_route import PROTOBUF
from tidewire.sessions.publication_versions import publish_version

__all__ = ("Publishing", "payload")


def payload(data: msgspec.Raw | None, encoded: str) -> bytes:
    """Return the data of a request, given as JSON or as base64; b"" for neither. Raises BadRequest."""
    if encoded:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("b64data and b64info are base64 (RFC 4648 section 4)") from None
    return b"" if data is None else bytes(data)


class Publishing:
    """Publishes for one node."""

    def __init__(self, node: Node, options: Callable[[str], ChannelOptions]) -> None:
        self._node = node
        self._options = options

    async def publish(self, channel: str, request: m.PublishRequest | m.BroadcastRequest) -> m.PublishResult:
        """Publish in one channel; raises BadRequest, UnknownChannel, PublishError, StoreUnavailable."""
        options = self._options(channel)
        data = payload(request.data, request.b64data)
        if not data:
            raise BadRequest("there is nothing to publish; write `data` or `b64data`")
        meta = PublicationMeta(
            None,
            dict(request.tags),
            request.version,
            request.version_epoch,
            skip_history=request.skip_history,
            but_not=request.but_not,
        )
        format_ = PROTOBUF.format_of(data) if request.b64data else Format.JSON
        shape = self._node.options.shape(channel)
        if shape is not None:
            data, format_ = shape.check(data, format_)
        is_ephemeral = options.ephemeral if request.ephemeral is None else request.ephemeral
        if request.skip_history and not request.version and request.ephemeral is None and not is_ephemeral:
            is_ephemeral = bool(self._node.may_pass(data, request.idempotency_key, None))
        if is_ephemeral:
            await self._node.publish(
                channel,
                data,
                format_,
                key=request.idempotency_key,
                meta=meta.encode(),
                ephemeral=True,
                sender=request.but_not,
            )
            return m.PublishResult()
        if not request.version:
            return await self._keep(channel, options, data, format_, meta, request.idempotency_key)
        try:
            position = await publish_version(
                self._node, channel, data, format_, meta, version=request.version, key=request.idempotency_key
            )
        except VersionConflict:
            return m.PublishResult()
        return _result(options, meta, position)

    async def _keep(
        self, channel: str, options: ChannelOptions, data: bytes, format_: Format, meta: PublicationMeta, key: str
    ) -> m.PublishResult:
        position = await self._node.publish(channel, data, format_, key=key, meta=meta.encode(), ephemeral=False)
        return _result(options, meta, position)


def _result(options: ChannelOptions, meta: PublicationMeta, position: Position) -> m.PublishResult:
    if not options.history_size or meta.skip_history:
        return m.PublishResult()
    return m.PublishResult(offset=position.offset, epoch=position.epoch)
