"""The authenticated chat, and the choice of a subprotocol."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, WebSocket

from tidewire.hub import Hub
from tidewire.messages import MAX_OFFSET
from tidewire.protocols.chat import CHAT, LOBBY, Error
from tidewire.server.chat_session import ChatSession, claimed
from tidewire.server.connection_login import Doorkeeper
from tidewire.server.rooms import RoomDirectory
from tidewire.sessions.accept import choose_subprotocol
from tidewire.sessions.application import HubConnection

__all__ = ("router",)

router = APIRouter()

#: The subprotocols of `/ws/subprotocol`.
SUBPROTOCOLS = ("chat", "notifications")


@router.websocket("/ws/auth", name="tidewire:chat")
async def chat(
    websocket: WebSocket,
    room: str = LOBBY,
    since: Annotated[int | None, Query(ge=0)] = None,
    epoch: str = "",
    inbox: str | None = None,
    inbox_epoch: str = "",
) -> None:
    """Serve the chat dialect to an authenticated user."""
    hub, directory, door = _services(websocket)
    await door.read_handshake(websocket)
    dialect = websocket.app.state.dialect
    async with hub.connect(websocket, user=door.user, protocol=dialect, token=door.token) as connection:
        await door.admit(connection)
        session = ChatSession(hub, directory, connection, door)
        position = None if since is None else claimed(since, epoch)
        seen = claimed(_offset(inbox), inbox_epoch) if inbox and inbox.isdecimal() else None
        await session.run(room, position, seen, wants_inbox=inbox is not None)


@router.websocket("/ws/subprotocol")
async def subprotocol(websocket: WebSocket) -> None:
    """Serve the first subprotocol that the client asks for and the server has."""
    hub, directory, door = _services(websocket)
    await door.read_handshake(websocket)
    dialect = websocket.app.state.dialect
    chosen = choose_subprotocol([name for name in websocket.scope.get("subprotocols", ()) if name], SUBPROTOCOLS)
    async with hub.connect(
        websocket, user=door.user, protocol=dialect, subprotocol=chosen, token=door.token
    ) as connection:
        if chosen is None:
            offer = f"no subprotocol was chosen; this endpoint offers: {', '.join(SUBPROTOCOLS)}"
            await connection.send(CHAT.encode(Error("bad_request", offer)))
            await connection.close(1008, "no subprotocol chosen")
            return
        await door.admit(connection)
        if chosen == "chat":
            await ChatSession(hub, directory, connection, door).run(LOBBY, None, None, wants_inbox=False)
        else:
            await _notifications(connection)


async def _notifications(connection: HubConnection) -> None:
    """Push the user's private messages only; ignore messages of the client."""
    await connection.wait_closed()


def _offset(digits: str) -> int:
    # a long text of digits takes long to convert, and no offset has as many
    return int(digits) if len(digits) < 20 else MAX_OFFSET


def _services(websocket: WebSocket) -> tuple[Hub, RoomDirectory, Doorkeeper]:
    state = websocket.app.state
    return state.hub, state.rooms, Doorkeeper(state.hub, state.tokens, state.accounts)
