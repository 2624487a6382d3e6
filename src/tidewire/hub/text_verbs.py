"""Text that grows in a channel: one writes it, and many read it, also by EventSource and Vercel's AI SDK."""

from __future__ import annotations

from asyncio import iscoroutine
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response

from tidewire.channels import open_channel
from tidewire.errors import BadRequest
from tidewire.hub.lifecycle import HubLifecycle
from tidewire.messages import Position
from tidewire.sessions.arguments import flag_from, position_from
from tidewire.sessions.text_responses import event_response, ui_response
from tidewire.sessions.text_streams import TextStream
from tidewire.support.shown_value import shown

__all__ = ("TextVerbs",)


class TextVerbs(HubLifecycle):
    """The verbs of text streams: answers of language models, reports, exports."""

    def stream(self, channel: str) -> TextStream:
        """Write a text into a channel as it is made: `async with hub.stream("chat:1") as out: await out.write(token)`.

        Pieces of 50 ms are published as one chunk; a late comer gets the text so far as one publication.
        There is one producer in a channel, on all nodes: entering raises AlreadyStreaming for a second one. `write`
        raises Stopped after `stop_stream`, which ends the block quietly. A producer that raises, or dies, ends the text
        as aborted, within 15 s. Raises CommandError, ConfigurationError for a channel without history.
        """
        return self._opened.streams.stream(open_channel(channel, self.limits.channel_name))

    async def stop_stream(self, channel: str) -> None:
        """Stop the text that is written in a channel, on any node; harmless when there is none.

        Raises as `publish`.
        """
        await self._opened.streams.stop(open_channel(channel, self.limits.channel_name))

    async def stream_events(self, channel: str, *, since: str | Position | None = None) -> Response:
        """Respond to a browser's EventSource with the texts of a channel; `since` is its Last-Event-ID.

        Each event is a chunk as JSON: `stream`, `at`, `text`, and in the last one `end`. Without `since` the newest
        text comes first, as one. Raises CommandError, StoreUnavailable.
        """
        name = open_channel(channel, self.limits.channel_name)
        return await event_response(self.node, name, position_from(since))

    async def stream_ui(
        self, channel: str, answer: Coroutine[Any, Any, Any] | None = None, *, ended: bool = False
    ) -> Response:
        """Respond to `useChat` of Vercel's AI SDK: with the text that the coroutine `answer` writes into the channel.

        The answer continues when the client disconnects. Without `answer`, respond with the text that is being written,
        for clients that resume, or with 204; `ended=True` responds also with the newest text that has ended. Raises
        CommandError, StoreUnavailable.
        """
        if answer is not None and not iscoroutine(answer):
            raise BadRequest(f"answer={shown(answer)} is no coroutine; call your function, as answer=write_answer(out)")
        try:
            name, with_ended = open_channel(channel, self.limits.channel_name), flag_from(ended, "ended")
        except BaseException:
            if answer is not None:
                answer.close()
            raise
        return await ui_response(self.node, name, answer, with_ended=with_ended)
