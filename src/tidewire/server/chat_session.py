"""One session of the chat: rooms, their members, private messages and history."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.channels import personal
from tidewire.errors import (
    BadRequest,
    CommandError,
    NotPublished,
    PermissionDenied,
    PublishError,
    StoreUnavailable,
    TidewireError,
)
from tidewire.hub import Hub
from tidewire.messages import MAX_OFFSET, HistoryRequest, Position, Publication, WireMessage
from tidewire.protocols.chat import (
    CHAT,
    LOBBY,
    Auth,
    Chat,
    ChatMessage,
    Earlier,
    EarlierMessages,
    Error,
    Inbox,
    Join,
    Leave,
    Left,
    Online,
    OnlineUsers,
    Ping,
    Pong,
    PrivateChat,
    PrivateChatMessage,
    RoomList,
    Rooms,
    System,
)
from tidewire.protocols.outages import sentence
from tidewire.server.accounts import display_name
from tidewire.server.connection_login import Doorkeeper
from tidewire.server.rooms import RoomDirectory
from tidewire.sessions.application import HubConnection
from tidewire.sessions.in_flight import InFlight

__all__ = ("CHANNELS", "ChatSession", "check_room", "claimed")

#: The newest messages that are sent after joining.
HISTORY = 100
#: Messages are kept; announcements of joins and leaves are not.
CHANNELS = {
    "room:*": ChannelOptions(history_size=1_000, history_seconds=30 * 86_400.0),
    "events:*": ChannelOptions(history_size=0),
    "$user:*": ChannelOptions(history_size=1_000, history_seconds=30 * 86_400.0),
}

_ROOM = re.compile(r"[\w.-](?:[\w. -]{0,62}[\w.-])?")


def check_room(name: str) -> str:
    """Return the name of a room if it is one; raises BadRequest."""
    if not _ROOM.fullmatch(name):
        raise BadRequest(f"room name {name[:80]!r} is not 1 to 64 letters, digits, '-', '_', '.', or spaces inside")
    return name


def claimed(offset: int, epoch: str) -> Position:
    """Return the position that a client claims; an offset that no store can hold counts as beyond the newest."""
    return Position(min(offset, MAX_OFFSET), epoch)


class ChatSession:
    """One authenticated connection that speaks the chat dialect."""

    def __init__(self, hub: Hub, directory: RoomDirectory, connection: HubConnection, door: Doorkeeper) -> None:
        self._hub = hub
        self._door = door
        self._directory = directory
        self._connection = connection
        self._user = connection.user
        self._name = display_name(connection.user)
        self._rooms: set[str] = set()

    async def run(self, room: str, since: Position | None, inbox: Position | None, *, wants_inbox: bool) -> None:
        """Join the first room, then handle commands until the client goes."""
        room = sys.intern(room)
        await self._answer(self._enter(room, since, inbox, wants_inbox=wants_inbox))
        node = self._hub.node
        publishes = InFlight(node, self._connection.connection, "publishes_in_flight", waits=node.broker.waits)
        async for command in self._connection.iter_commands():
            if isinstance(command, Chat):  # many clients wait for the store together
                await publishes.put(self._answer(self.chat(command), command))
                continue
            await publishes.wait()
            await self._answer(_HANDLERS[type(command)](self, command), command)
        await publishes.wait()

    async def _answer(self, work: Awaitable[None], command: Any = None) -> None:
        """Await the work of a command; send its error, if any, with the message's id and room."""
        try:
            await work
        except CommandError as error:
            await self._tell(error.code, error, command)
        except NotPublished as error:
            await self._tell("not_published", error, command)
        except PublishError as error:
            await self._tell("unconfirmed", error, command)
        except StoreUnavailable as error:
            await self._tell("unavailable", error, command)

    async def _tell(self, code: str, error: TidewireError, command: Any) -> None:
        id_, room = getattr(command, "id", None), getattr(command, "room", LOBBY)
        await self._connection.send(CHAT.encode(Error(code, sentence(error), id_, room)))

    # Rooms.

    async def _enter(self, room: str, since: Position | None, inbox: Position | None, *, wants_inbox: bool) -> None:
        await self._subscribe(room, since)
        if wants_inbox:
            await self._send_inbox(inbox)
        await self._join_events(room)

    async def _subscribe(self, room: str, since: Position | None) -> None:
        check_room(room)
        if room in self._rooms:
            raise BadRequest(f"you are in room {room!r} already")
        await self._directory.add(room, self._user)
        await self._connection.subscribe(f"room:{room}", since=since, history=HISTORY)
        self._rooms.add(room)

    async def _join_events(self, room: str) -> None:
        def event(what: str) -> System:
            return System(f"User '{self._name}' {what}", room=room)

        await self._connection.subscribe(
            f"events:{room}",
            join=event("has joined the chat."),
            leave=event("has left the chat."),
            leave_on_error=event("disconnected due to an error."),
            reply=False,
        )
        self._directory.changed()
        await self.online(Online(room))

    async def join(self, command: Join) -> None:
        """Join one more room."""
        since = None if command.since is None else claimed(command.since, command.epoch)
        await self._subscribe(command.room, since)
        try:
            await self._join_events(command.room)
        except (CommandError, StoreUnavailable):  # a room is joined whole or not at all
            self._rooms.discard(command.room)
            await self._connection.unsubscribe(f"room:{command.room}")
            raise

    async def leave(self, command: Leave) -> None:
        """Leave a room."""
        self._check_joined(command.room)
        self._rooms.discard(command.room)
        await self._connection.unsubscribe(f"room:{command.room}")
        await self._connection.unsubscribe(f"events:{command.room}")
        self._directory.changed()
        await self._connection.send(CHAT.encode(Left(command.room)))

    async def online(self, command: Online) -> None:
        """Send the members of a room."""
        self._check_joined(command.room)
        users = list(dict.fromkeys(map(display_name, await self._hub.users(f"events:{command.room}"))))
        await self._connection.send(CHAT.encode(OnlineUsers(users, command.room)))

    async def rooms(self, command: Rooms) -> None:
        """Send the list of rooms."""
        await self._connection.send(CHAT.encode(RoomList(await self._directory.entries())))

    def _check_joined(self, room: str) -> None:
        if room not in self._rooms:
            raise PermissionDenied(f"you are not in room {room[:80]!r}; join it first")

    async def earlier(self, command: Earlier) -> None:
        """Send the messages before one of them."""
        self._check_joined(command.room)
        await self._connection.send(await self._read_earlier(command))

    async def _read_earlier(self, command: Earlier) -> WireMessage:
        node, channel = self._hub.node, f"room:{command.room}"
        before = claimed(command.before, command.epoch)
        asked = HistoryRequest(channel, node.options.of(channel).retention, before, HISTORY + 1, reverse=True)
        page = await node.history.read(asked, most=node.limits.reply_bytes)
        shown = page.publications[:HISTORY] if page.top.epoch == command.epoch else ()
        messages = [CHAT.raw(publication) for publication in reversed(shown)]
        more = page.is_cut or len(page.publications) > HISTORY
        return CHAT.encode(EarlierMessages(messages, page.top.epoch, more, command.room))

    # Messages.

    async def chat(self, command: Chat) -> None:
        """Publish a message in a room; a repetition with the same id is kept once."""
        if not command.message.strip():
            return
        self._check_joined(command.room)
        message = ChatMessage(self._name, command.message, command.id, command.room)
        await self._hub.publish(f"room:{command.room}", message, key=self._key(command.id))

    async def private_chat(self, command: PrivateChat) -> None:
        """Send a message to all devices of one user."""
        if not command.message.strip():
            return
        target = command.target_user
        user, name = await self._door.find(target) or ("", "")
        if not (user and (command.keep or await self._hub.is_online(user))):
            content = f"User '{target}' not found among active connections."
        else:
            message = PrivateChatMessage(self._name, name, command.message, command.id)
            await self._hub.send_to_user(user, message, key=self._key(command.id))
            if command.keep and user != self._user:
                await self._hub.send_to_user(self._user, message, key=self._key(command.id))
            content = f"Private message sent to {target}."
        await self._connection.send(CHAT.encode(System(content, id=command.id)))

    def _key(self, id_: str | int | None) -> str:
        return "" if id_ is None else f"{self._user}:{id_}"

    async def _send_inbox(self, since: Position | None) -> None:
        """Send the user's private messages, in pages: each is read when the client has taken the one before."""
        at, has_more = since, True
        while has_more:
            message, at, has_more = await self._read_inbox(at, is_recovery=since is not None)
            sending = self._connection.send(message)
            del message  # while the client takes it, only one copy is in memory
            await sending

    async def _read_inbox(self, since: Position | None, *, is_recovery: bool) -> tuple[WireMessage, Position, bool]:
        """Return a page of the user's private messages, the position that it reaches, and whether there are more."""
        node, channel = self._hub.node, personal(self._user)
        asked = HistoryRequest(channel, node.options.of(channel).retention, since)
        page = await node.history.read(asked, most=node.limits.reply_bytes)
        at = page.publications[-1].position if page.is_cut else page.top
        messages = [CHAT.raw(publication) for publication in page.publications if _is_private(publication)]
        recovered = page.complete if is_recovery else msgspec.UNSET
        return CHAT.encode(Inbox(messages, at.offset, at.epoch, recovered, page.is_cut)), at, page.is_cut

    # Other commands.

    async def ping(self, command: Ping) -> None:
        """Reply to a ping."""
        await self._connection.send(CHAT.encode(Pong()))

    async def auth(self, command: Auth) -> None:
        """Extend the connection to the end of a newer token of the same user."""
        await self._door.prolong(self._connection, command.token)


def _is_private(publication: Publication) -> bool:
    return publication.data.startswith(b'{"type":"private_chat_message"')


_HANDLERS: dict[type, Callable[[ChatSession, Any], Awaitable[None]]] = {
    Chat: ChatSession.chat,
    PrivateChat: ChatSession.private_chat,
    Ping: ChatSession.ping,
    Auth: ChatSession.auth,
    Online: ChatSession.online,
    Join: ChatSession.join,
    Leave: ChatSession.leave,
    Earlier: ChatSession.earlier,
    Rooms: ChatSession.rooms,
}
