"""Text streams as responses: for a browser's EventSource, and as the UI messages of Vercel's AI SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tidewire.engine.node import Node
from tidewire.errors import CutOff, NotPublished
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.protocols.line_ends import one_line
from tidewire.protocols.text_chunks import ABORTED, STOPPED, Chunk, chunk_of, units
from tidewire.sessions.listening import Publications

__all__ = ("event_response", "ui_response")

#: Publications among which the newest text is looked for.
_LOOK_BACK = 20
#: Seconds of silence after which a proxy is shown that the response goes on.
_SILENCE = 15.0
#: Seconds in which the beginning of an answer may still come that has failed, or that left its text to another process.
_FAILED, _LEFT = 1.0, 30.0
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
#: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
_UI_HEADERS = _HEADERS | {"x-vercel-ai-ui-message-stream": "v1"}
_PING = b":\n\n"
_UI_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


async def _newest(node: Node, channel: str) -> tuple[Publication | None, Position]:
    """Return the newest text of a channel as one publication, and the position up to which that is so."""
    asked = HistoryRequest(channel, node.options.of(channel).retention, limit=_LOOK_BACK, reverse=True)
    page = await node.history.read(asked)
    newest, chunk = _newest_in(page)
    if chunk is not None and chunk.at != 0:  # it has begun before many other publications
        page = await node.history.read(msgspec.structs.replace(asked, limit=None), most=node.limits.reply_bytes)
        newest, _ = _newest_in(page)
    return newest, page.top


def _newest_in(page: HistoryPage) -> tuple[Publication | None, Chunk | None]:
    chunks = ((one, chunk_of(one)) for one in page.publications)
    return next((found for found in chunks if found[1] is not None), (None, None))


async def _chunks(publications: Publications) -> AsyncIterator[tuple[Chunk, Position] | None]:
    """Iterate over chunks as they come, with None in each long silence, until the server ends or this is too slow."""
    while True:
        try:
            async with asyncio.timeout(_SILENCE):
                publication = await anext(publications)
        except TimeoutError:
            yield None
            continue
        except (StopAsyncIteration, CutOff):  # the client comes back with the position that it has
            return
        chunk = chunk_of(publication)
        if chunk is not None:
            yield chunk, publication.position


async def event_response(node: Node, channel: str, since: Position | None) -> Response:
    """Respond with the chunks of a channel as server-sent events; their ids are positions.

    Without `since`, the newest text comes first, whole, ended or not.
    """
    newest: Publication | None = None
    if since is None:
        newest, since = await _newest(node, channel)
    publications = Publications(node, channel, since, _LOOK_BACK)
    await publications.__aenter__()  # so that a failure comes before the response begins

    async def body() -> AsyncIterator[bytes]:
        yield _PING
        if newest is not None:
            yield b"id: %b\ndata: %b\n\n" % (str(newest.position).encode(), one_line(newest.data))
        async for one in _chunks(publications):
            if one is None:
                yield _PING
            else:
                yield b"id: %b\ndata: %b\n\n" % (str(one[1]).encode(), one_line(one[0].encode()))

    return _Events(publications, body(), _HEADERS)


async def ui_response(
    node: Node, channel: str, answer: Coroutine[Any, Any, Any] | None, *, with_ended: bool
) -> Response:
    """Respond with one text as a UI message stream; without an `answer`, with the newest one, or 204.

    A text that has ended is a response only where this is asked for. The answer goes on when the client has gone.
    """
    try:
        newest, top = await _newest(node, channel)
        first = None if newest is None else chunk_of(newest)
        if answer is None and (first is None or (first.end and not with_ended)):
            return Response(status_code=204)
        publications = Publications(node, channel, top, 0)
        await publications.__aenter__()
    except BaseException:
        if answer is not None:
            answer.close()
        raise
    task: asyncio.Task[Any] | None = None
    if answer is not None:
        task = node.tasks.spawn(answer)
        if task is None:
            await publications.__aexit__(None, None, None)
            raise NotPublished("the application is ending; ask again")
    return _Events(publications, _ui_parts(publications, first, task), _UI_HEADERS)


class _Events(StreamingResponse):
    """Server-sent events from a channel; its reader ends with the response, which may have no time to begin."""

    def __init__(self, publications: Publications, parts: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(parts, media_type="text/event-stream", headers=headers)
        self._publications = publications

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._publications.__aexit__(None, None, None)


def _part(**fields: str) -> bytes:
    return b"data: %b\n\n" % one_line(_encode(fields))


async def _ui_parts(
    publications: Publications, newest: Chunk | None, answer: asyncio.Task[Any] | None
) -> AsyncIterator[bytes]:
    stream, sent, length = "", "", 0
    async for chunk in _texts(publications, newest, answer):
        if chunk is None:
            yield _PING
            continue
        if not stream:
            stream = chunk.stream
            yield _part(type="start", messageId=stream) + _part(type="text-start", id=stream)
        if chunk.at is not None and chunk.at > length:  # a hole: what is lost is there for the next response
            break
        delta = chunk.text[len(sent) :] if chunk.at == 0 else chunk.text
        sent, length = sent + delta, length + units(delta)
        if delta:
            yield _part(type="text-delta", id=stream, delta=delta)
        if chunk.end:
            yield _part(type="text-end", id=stream) + _ui_end(chunk.end)
            return
    has_failed = not stream and answer is not None and answer.done()
    yield _ui_error("there is no answer" if has_failed else "the connection ended before the answer") + _UI_DONE


def _ui_error(text: str) -> bytes:
    return _part(type="error", errorText=text)


def _ui_end(end: str) -> bytes:
    """Return the parts that say how a text has ended."""
    if end == STOPPED:
        return _part(type="abort") + _UI_DONE
    return (_ui_error("the answer was cut off") if end == ABORTED else _part(type="finish")) + _UI_DONE


async def _texts(
    publications: Publications, newest: Chunk | None, answer: asyncio.Task[Any] | None
) -> AsyncIterator[Chunk | None]:
    """Iterate over the chunks of one stream: the one that `newest` is of, or that of the `answer`, which comes next.

    It ends early where the answer ends before it has begun a stream.
    """
    earlier = newest.stream if newest is not None else ""
    stream = earlier if answer is None else ""
    if newest is not None and answer is None:
        yield newest

    def answered(done: asyncio.Task[Any]) -> None:
        if not stream:
            has_failed = done.cancelled() or done.exception() is not None
            seconds = _FAILED if has_failed else _LEFT
            done.get_loop().call_later(seconds, lambda: None if stream else publications.end())

    if answer is not None:
        answer.add_done_callback(answered)
    async for one in _chunks(publications):
        if one is None:
            yield None
        elif one[0].stream == stream or (not stream and one[0].at == 0 and one[0].stream != earlier):
            stream = one[0].stream
            yield one[0]
