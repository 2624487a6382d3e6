"""picows: `/{room}` broadcasts by one send for each member, `/` is an echo. The argument is the port."""

from __future__ import annotations

import sys
from collections import defaultdict

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

rooms: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Client(WSListener):
    """One connection."""

    def __init__(self, room: str) -> None:
        super().__init__()
        self._room = room

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Enter the room."""
        rooms[self._room].add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Leave it."""
        rooms[self._room].discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message to the room, or back."""
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
            return
        message = frame.get_payload_as_bytes()
        for member in rooms[self._room] if self._room else (transport,):
            member.send(WSMsgType.TEXT, message)


async def main() -> None:
    """Serve."""

    def accept(request: WSUpgradeRequest) -> WSListener:
        return Client(request.path.decode().strip("/"))

    server = await ws_create_server(accept, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


uvloop.run(main())
