"""What is fuzzed: each target takes bytes, and returns, or raises an error that it documents."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable, Iterator, Sequence

import httpx
from fastapi import FastAPI
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate

from tidewire import CommandError, Hub, RateLimited, Rejected
from tidewire.http_api.calls import METHODS
from tidewire.links.reader import Control, Fault, FrameParser
from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.fastq import read_batches
from tidewire.protocols.base import Protocol
from tidewire.protocols.centrifuge.encoding import CentrifugeJson, CentrifugeProtobuf
from tidewire.protocols.chat import CHAT
from tidewire.protocols.json import JSON

__all__ = ("SEEDS", "TARGETS", "Target")

Target = Callable[[bytes], object]
#: Bytes of a message, and fragments, that the parser of frames may keep.
_MAX_SIZE, _MAX_FRAGMENTS = 5_000, 20


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data in pieces that depend on it alone."""
    choice = random.Random(data)
    while data:
        size = choice.choice((1, 2, 7, 100, len(data)))
        yield data[:size]
        data = data[size:]


def _events(pieces: Sequence[bytes], *, deflate: bool) -> list[object]:
    extensions: list[Extension] = [PerMessageDeflate(True, True, 15, 15)] if deflate else []
    parser, events = FrameParser(_MAX_SIZE, _MAX_FRAGMENTS, extensions), list[object]()
    try:
        for piece in pieces:
            parser.feed(piece)
            while (event := parser.next_event()) is not None:
                assert isinstance(event, str | bytes | Control)
                assert isinstance(event, Control) or len(event) <= _MAX_SIZE
                events.append(event)
            assert parser.unread <= _MAX_SIZE + 14, "a frame that is too big is not waited for"
    except Fault as fault:
        events.append(fault.disconnect.code)
    return events


def frames(data: bytes) -> None:
    """Read frames; how the bytes arrive makes no difference."""
    deflate = bool(data) and data[0] & 1 == 1
    whole, split = (_events(pieces, deflate=deflate) for pieces in ([data], list(_pieces(data))))
    assert whole == split


def _protocol(protocol: Protocol[object]) -> Target:
    refusal = RateLimited("too many messages")

    def decode(data: bytes) -> None:
        messages: list[str | bytes] = [data, data.decode(errors="replace"), data.decode(errors="surrogatepass")] if (
            _is_utf8_but_for_surrogates(data)
        ) else [data, data.decode(errors="replace")]  # fmt: skip
        for message in messages:
            protocol.encode_refusal(refusal, message)
            try:
                protocol.decode(message)
            except CommandError as error:
                protocol.encode_error(error)
            except Rejected as rejected:
                code, reason = protocol.close_code(rejected.disconnect)
                assert 1000 <= code < 5000
                assert len(reason.encode()) <= 123

    return decode


def _is_utf8_but_for_surrogates(data: bytes) -> bool:
    try:
        data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


class _Api:
    """The HTTP API of a hub in this process; made with the first call, since it belongs to an event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    def __call__(self, data: bytes) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(self._open())
        self._loop.run_until_complete(self._post(data))

    async def _open(self) -> None:
        hub = Hub("memory://")
        await hub.__aenter__()
        app = FastAPI()
        app.include_router(hub.api_router(insecure=True))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1")

    async def _post(self, data: bytes) -> None:
        assert self._client is not None
        choice = random.Random(data)
        path = choice.choice(["/api", "/api/batch", *(f"/api/{method}" for method in METHODS)])
        answer = await self._client.post(path, content=data, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 404, 413, 422), (path, answer.status_code, answer.text)
        assert "Traceback" not in answer.text


def fastq(data: bytes) -> None:
    """Read a FASTQ file; how its bytes are split makes no difference to the reads, nor to whether it is broken."""
    found = []
    for pieces in ([data], list(_pieces(data))):
        try:
            found.append([read for batch in read_batches(pieces) for read in zip(batch.bases, batch.qualities)])  # noqa: B905
        except BrokenFastq:
            found.append([])  # which of two faults is named first may depend on the pieces
    assert found[0] == found[1]


TARGETS: dict[str, Target] = {
    "frames": frames,
    "chat": _protocol(CHAT),
    "json": _protocol(JSON),
    "centrifuge-json": _protocol(CentrifugeJson()),
    "centrifuge-protobuf": _protocol(CentrifugeProtobuf()),
    "http-api": _Api(),
    "fastq": fastq,
}
_MASK = b"\x00\x00\x00\x00"
#: Inputs from which others are made.
SEEDS: dict[str, list[bytes]] = {
    "frames": [
        b"\x81\x85" + _MASK + b"hello",
        b"\x01\x82" + _MASK + b"he\x80\x83" + _MASK + b"llo",
        b"\x89\x80" + _MASK + b"\x88\x82" + _MASK + b"\x03\xe8",
        b"\x82\xfe\x01\x00" + _MASK + bytes(256),
        b"\x82\xff" + (10_000).to_bytes(8, "big") + _MASK,
        b"\xc1\x87" + _MASK + b"\xf2\x48\xcd\xc9\xc9\x07\x00",
    ],
    "chat": [
        b'{"type": "chat", "message": "hello", "id": "1"}',
        b'{"type": "private_chat", "target_user": "bob", "message": "hi"}',
        b'{"type": "ping"}',
        b'{"type": "auth", "token": "x"}',
        b"/pm bob hello",
    ],
    "json": [b'{"a": [1, 2.5, null, true, "\xc3\xbc\\ud83d\\ude00"]}', b"[[[]]]", b'"text"'],
    "centrifuge-json": [
        b'{"id":1,"connect":{"token":"x","subs":{"a":{"recover":true,"epoch":"e","offset":3}}}}',
        b'{"id":2,"subscribe":{"channel":"a","recover":true,"offset":1,"epoch":"e"}}\n{"id":3,"publish":{"channel":"a","data":{}}}',
        b'{"id":4,"history":{"channel":"a","limit":5,"since":{"offset":1,"epoch":"e"},"reverse":true}}',
        b'{"id":5,"rpc":{"method":"m","data":[1]}}',
        b"{}",
    ],
    "centrifuge-protobuf": [
        b"\x05\x08\x01\x22\x01\x00",
        b"\x0a\x08\x02\x2a\x06\x0a\x04room",
        b"\x0e\x08\x03\x3a\x0a\x0a\x01a\x12\x05hello",
        b"\x02\x08\x04",
    ],
    "http-api": [
        b'{"channel": "a", "data": {"x": 1}}',
        b'{"channels": ["a", "b"], "data": 1, "idempotency_key": "k"}',
        b'{"commands": [{"publish": {"channel": "a", "data": 1}}, {"presence": {"channel": "a"}}]}',
        b'{"user": "ann", "channel": "a"}',
        b"{}",
    ],
    "fastq": [
        b"@a\nACGT\n+\nIIII\n@b\nAC\n+b\nII\n",
        b"@a\r\nACGT\r\n+\r\nIIII\r\n",
        b">fasta\nACGT\n",
        gzip.compress(b"@a\nACGT\n+\nIIII\n", mtime=0),
    ],
}
