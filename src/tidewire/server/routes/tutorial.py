"""The tutorial's endpoints, each as short as the tutorial's own."""

from __future__ import annotations

from typing import Annotated, cast

import msgspec
from fastapi import APIRouter, Cookie, Depends, Query, WebSocket
from starlette.exceptions import WebSocketException

from tidewire.errors import BadRequest, CommandError, UnknownType
from tidewire.hub import Hub
from tidewire.messages import WireMessage
from tidewire.protocols.base import to_utf8
from tidewire.protocols.json import JSON
from tidewire.protocols.json_text import JsonDecoder
from tidewire.sessions.application import HubConnection

__all__ = ("router",)

router = APIRouter()


def _hub(websocket: WebSocket) -> Hub:
    """Return the server's hub: an endpoint without dependencies has a shorter way (`server/direct_sockets.py`)."""
    hub: Hub = websocket.app.state.hub
    return hub


@router.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Send back each message: text with a prefix, bytes unchanged."""
    async with _hub(websocket).connect(websocket) as connection:
        async for message in connection.iter_messages():
            if isinstance(message, str):
                await connection.send_text(f"Message text was: {message}")
            else:
                await connection.send_bytes(message)


async def get_cookie_or_token(
    session: Annotated[str | None, Cookie()] = None, token: Annotated[str | None, Query()] = None
) -> str:
    """Return the cookie `session` or the query's `token`; refuse the handshake when there is neither."""
    if session is None and token is None:
        raise WebSocketException(1008, "a cookie `session` or a query parameter `token` is needed")
    return session or token or ""


@router.websocket("/items/{item_id}/ws")
async def items(
    websocket: WebSocket,
    item_id: str,
    cookie_or_token: Annotated[str, Depends(get_cookie_or_token)],
    q: int | None = None,
) -> None:
    """Send the values that the dependencies found, for each text."""
    async with _hub(websocket).connect(websocket) as connection:
        async for data in connection.iter_text():
            await connection.send_text(f"Session cookie or query token value is: {cookie_or_token}")
            if q is not None:
                await connection.send_text(f"Query parameter q is: {q}")
            await connection.send_text(f"Message text was: {data}, for item ID: {item_id}")


@router.websocket("/ws/{client_id}")
async def chat_room(websocket: WebSocket, client_id: int) -> None:
    """Serve a chat room in plain text."""
    async with _hub(websocket).connect(websocket) as connection:
        await connection.subscribe("tutorial:chat", leave=f"Client #{client_id} left the chat")
        async for data in connection.iter_text():
            await connection.send_text(f"You wrote: {data}")
            await connection.submit("tutorial:chat", f"Client #{client_id} says: {data}")


class _Message(msgspec.Struct):
    """A message of a JSON client; `type` may name a ping."""

    type: str = "message"
    message: str | None = None
    msg: str | None = None


_EXPECTED = 'an object such as {"message": "hello"} or {"type": "ping"}'


@router.websocket("/ws/json/{client_id}")
async def chat_json(websocket: WebSocket, client_id: int) -> None:
    """Serve a chat room in JSON."""

    def system(content: str) -> dict[str, object]:
        return {"sender": "system", "content": f"Client #{client_id} {content}"}

    async with _hub(websocket).connect(websocket, protocol=JSON) as connection:
        await connection.subscribe(
            "tutorial:json", leave=system("has left the chat."), leave_on_error=system("disconnected due to an error.")
        )
        async for data in connection.iter_json(_Message):
            if await _is_said(connection, data):
                content = "Empty message" if data.message is None else data.message
                await connection.submit("tutorial:json", {"sender": client_id, "content": content})


@router.websocket("/ws/rooms/{room}/{client_id}")
async def rooms(websocket: WebSocket, room: str, client_id: str) -> None:
    """Serve rooms with join, message and leave events."""

    def event(kind: str, msg: str) -> dict[str, object]:
        return {"type": kind, "user": client_id, "msg": msg}

    channel = f"tutorial:room:{room}"
    decoder = JsonDecoder(_Message, expected=_EXPECTED, depth=_hub(websocket).limits.json_depth)
    async with _hub(websocket).connect(websocket, protocol=JSON) as connection:
        join, leave = event("join", f"{client_id} joined {room}"), event("leave", f"{client_id} left {room}")
        try:
            await connection.subscribe(channel, join=join, leave=leave)
        except BadRequest as error:
            raise WebSocketException(1008, str(error)[:120]) from None
        async for message in connection.iter_messages():
            data = _room_message(connection, decoder, message)
            if data is not None and await _is_said(connection, data):
                said = data.msg if data.msg is not None else data.message
                await connection.submit(channel, event("message", said or ""))


def _room_message(connection: HubConnection, decoder: JsonDecoder, message: str | bytes) -> _Message | None:
    """Decode JSON, or take plain text as it was typed."""
    if isinstance(message, str) and not message.lstrip().startswith(("{", "[")):
        return _Message(msg=message)
    try:
        return cast(_Message, decoder.decode(to_utf8(message) if isinstance(message, str) else message))
    except BadRequest as error:
        connection.tell(error)
        return None


async def _is_said(connection: HubConnection, data: _Message) -> bool:
    """Answer a ping or an unknown type; return True for a message to publish."""
    if data.type in ("message", "chat"):
        return True
    answer: CommandError | WireMessage | None = JSON.encode_pong()
    if data.type != "ping":
        answer = UnknownType(f"there is no type {data.type[:80]!r}; expected {_EXPECTED}")
    if isinstance(answer, WireMessage):
        await connection.send(answer)
    elif answer is not None:
        connection.tell(answer)
    return False
