"""A server with namespaces, keys and an HTTP API, for clients of the Centrifuge protocol; and a relay to cut them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt

from contract.serving import Server

__all__ = ("Cuttable", "connection_token", "serving", "subscription_token")

_SECRET = "a secret that is only for tests, 32 bytes"
_CONFIG = f"""
[client]
allow_anonymous_connect_without_token = true
allow_accounts = true
[client.token]
hmac_secret_key = "{_SECRET}"
[client.subscribe_to_user_personal_channel]
enabled = true
[http_api]
key = "key"
[channel.without_namespace]
history_size = 100
history_ttl = "300s"
force_recovery = true
allow_user_limited_channels = true
"""
_ROOM = """
[[channel.namespaces]]
name = "news"
presence = true
join_leave = true
force_push_join_leave = true
history_size = 1000
history_ttl = "300s"
force_recovery = true
delta_publish = true
allowed_delta_types = ["fossil"]
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_subscriber = true
allow_publish_for_anonymous = true
allow_history_for_subscriber = true
allow_history_for_anonymous = true
allow_presence_for_subscriber = true
allow_presence_for_anonymous = true
[[channel.namespaces]]
name = "short"
history_size = 2
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
[[channel.namespaces]]
name = "asked"  # whoever does not ask for what it has missed is not given it
history_size = 1000
history_ttl = "300s"
allow_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
[[channel.namespaces]]
name = "bare"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
[[channel.namespaces]]
name = "secret"
[[channel.namespaces]]
name = "board"
subscription_type = "map"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_client = true
allow_publish_for_anonymous = true
[[channel.namespaces]]
name = "brief"
subscription_type = "map"
map = { stream_size = 3 }
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
[[channel.namespaces]]
name = "fleeting"
subscription_type = "map"
ephemeral = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
"""


class Service:
    """The server, and what its application would ask of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.websocket = server.url("/connection/websocket")
        self.base = f"http://127.0.0.1:{server.port}"

    def api(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the HTTP API."""
        answer = self.server.http.post(f"/api/{method}", json=parameters, headers={"X-API-Key": "key"})
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    def set(self, channel: str, **entries: Any) -> None:
        """Set entries of a map; None removes one."""
        commands: list[dict[str, Any]] = [
            {"map_remove": {"channel": channel, "key": key}}
            if value is None
            else {"map_publish": {"channel": channel, "key": key, "data": value}}
            for key, value in entries.items()
        ]
        body = {"commands": commands, "parallel": True}
        answer = self.server.http.post("/api/batch", json=body, headers={"X-API-Key": "key"})
        assert not [reply for reply in answer.json()["replies"] if "error" in reply]

    def publish(self, channel: str, *numbers: int) -> None:
        """Publish `{"n": …}` for each number."""
        for number in numbers:
            self.api("publish", channel=channel, data={"n": number})


@contextlib.contextmanager
def serving(
    folder: Path, *, workers: int = 1, config: str = "", broker: str = "sqlite:///tidewire.db", **options: Any
) -> Iterator[Service]:
    """Run a server in a folder; it keeps what it is told over its restarts."""
    (folder / "tidewire.toml").write_text(_CONFIG + _ROOM + config)
    with Server(folder, broker=broker, workers=workers, **options).running() as server:
        yield Service(server)


def connection_token(user: str, *, seconds: float | None = 300.0, **claims: Any) -> str:
    """Sign a token that says who connects."""
    return _sign({"sub": user, **claims}, seconds)


def subscription_token(user: str, channel: str, *, seconds: float | None = 300.0, **claims: Any) -> str:
    """Sign a token that lets a user into a channel."""
    return _sign({"sub": user, "channel": channel, **claims}, seconds)


def _sign(claims: dict[str, Any], seconds: float | None) -> str:
    if seconds is not None:
        claims["exp"] = int(time.time() + seconds)
    return jwt.encode(claims, _SECRET, algorithm="HS256")


class Cuttable:
    """A TCP relay before a server, whose connections a test cuts without a word."""

    def __init__(self, port: int, dial: Callable[[], socket.socket] | None = None) -> None:
        """`dial` opens the connections to the server, if not each worker will do."""
        self._dial = dial or partial(socket.create_connection, ("127.0.0.1", port), timeout=10)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        #: Nobody gets through; who tries is cut.
        self.is_cut = False
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Cuttable:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # its thread does not wait for ever
        self._listener.close()
        self.cut()

    def refuse(self) -> None:
        """Cut every connection, and those that come until `admit`."""
        self.is_cut = True
        self.cut()

    def admit(self) -> None:
        """Let connections through again."""
        self.is_cut = False

    def cut(self) -> None:
        """Cut every connection that there is."""
        for half in tuple(self._sockets):
            with contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                if self.is_cut:
                    client.close()
                    continue
                try:
                    server = self._dial()
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._sockets |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for half in (source, target):
            with contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()
