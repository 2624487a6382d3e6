"""uWebSockets by socketify: `/{room}` broadcasts by its own topics, `/` is an echo. The argument is the port."""

from __future__ import annotations

import sys
from typing import Any

from socketify import App, AppListenOptions, CompressOptions  # type: ignore[import-untyped]

app = App()


def upgrade(response: Any, request: Any, context: Any) -> None:
    """Keep the room's name with the connection."""
    key, protocol = request.get_header("sec-websocket-key"), request.get_header("sec-websocket-protocol")
    extensions = request.get_header("sec-websocket-extensions")
    response.upgrade(key, protocol, extensions, context, request.get_url().strip("/"))


def opened(socket: Any) -> None:
    """Subscribe the connection to its room."""
    if socket.get_user_data():
        socket.subscribe(socket.get_user_data())


def received(socket: Any, message: Any, opcode: Any) -> None:
    """Publish in the room, or answer."""
    room = socket.get_user_data()
    if room:
        app.publish(room, message, opcode)
    else:
        socket.send(message, opcode)


handlers = {"upgrade": upgrade, "open": opened, "message": received}
app.ws("/*", {"compression": CompressOptions.DISABLED, "max_backpressure": 64 * 1024 * 1024, **handlers})
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda _: None)
app.run()
