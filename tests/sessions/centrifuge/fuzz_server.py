"""The fuzzer's frames over sockets, against a server that runs as a process of its own.

    python -m centrifuge.fuzz_server --frames 1000000 --seed 1     (from the folder `tests`)

Whatever comes, the server logs no fault, answers in frames that can be read, ends connections with codes that the
protocol knows, keeps no connection, grows no memory, and serves as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import struct
import tempfile
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
from websockets.frames import Frame, Opcode

from contract.serving import Server, until
from sessions.centrifuge.authority import OPTIONS
from sessions.centrifuge.fuzz import CODES, Fuzzer
from sessions.centrifuge.support import JSON, PROTOBUF
from tidewire.protocols.centrifuge.messages import Reply
from tidewire.protocols.centrifuge.protobuf import decode_frame

__all__ = ("fuzz_server",)

_SECRET = "a secret that is only for tests, 32 bytes"
_ALLOWED = "".join(
    f"allow_{action}_for_{who} = true\n"
    for action in ("subscribe", "publish", "history", "presence")
    for who in ("client", "anonymous")
)
_OPTIONS = {
    "history": "",
    "recovery": "presence = true\nforce_push_join_leave = true\nforce_recovery = true",
    "presence": "presence = true\njoin_leave = true",
    "delta": 'allowed_delta_types = ["fossil"]',
    "tags": "allow_tags_filter = true",
    "cache": 'force_recovery = true\nforce_recovery_mode = "cache"',
    "small": "",
    **dict.fromkeys(
        ("map", "tagmap", "smallmap"), 'map = true\nallow_tags_filter = true\nallowed_delta_types = ["fossil"]'
    ),
    "anew": 'subscription_type = "map"\nmap = { mode = "ephemeral", key_ttl = "1s" }',
    "owned": 'subscription_type = "map"\nmap = { remove_client_on_unsubscribe = true, client_key = "client_id" }',
    "gonemap": 'subscription_type = "map"\nephemeral = true\nallowed_delta_types = ["fossil"]\n'
    'map = { remove_client_on_unsubscribe = true, client_key = "client_id" }',
    "clients": 'subscription_type = "map_clients"',
    "users": 'subscription_type = "map_users"',
    "latest": 'slow = "latest"\nallowed_delta_types = ["fossil"]',
    "newest": 'slow = "latest"\nallow_tags_filter = true',
    "dropped": 'slow = "drop"\nallow_tags_filter = true',
    "gone": "ephemeral = true",
}
_CONFIG = f"""
[client]
allow_anonymous_connect_without_token = true
[client.token]
hmac_secret_key = "{_SECRET}"
[client.subscribe_to_user_personal_channel]
enabled = true
[http_api]
key = "key"
[channel.without_namespace]
{_ALLOWED}
"""
_HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
_PROTOBUF = b"Sec-WebSocket-Protocol: centrifuge-protobuf\r\n"
#: The most frames of one connection, and connections at a time.
_FRAMES, _AT_A_TIME = 24, 16
#: What a request may be answered with; 200 is a stream that the connection did not end.
_STATUSES = {200, 204, 400, 403, 404, 413, 415, 422}
_SECONDS = 30.0


def _config() -> str:
    sizes = {"small": 3, "cache": 1}
    tables = [
        f'[[channel.namespaces]]\nname = "{name}"\nhistory_size = {sizes.get(name, 100)}\nhistory_ttl = "60s"\n'
        f"{_OPTIONS[name]}\n{_ALLOWED}"
        for name in OPTIONS
        if name
    ]
    return _CONFIG + "\n".join(tables)


def _token(**claims: Any) -> str:
    return jwt.encode(claims, _SECRET, algorithm="HS256")


class ServerFuzzer(Fuzzer):
    """Makes frames with tokens that this server has reason to look at."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        now = int(time.time())
        users = [_token(sub=user) for user in ("ann", "bob")]
        short = [_token(sub="ann", exp=now + 3_600, info={"a": 1}, channels=["recovery:a", "nowhere:a"])]
        rooms = [_token(sub=user, channel="recovery:a", info=[1]) for user in ("ann", "")]
        self._tokens = ["", *users, *short, *rooms, _token(sub="ann", exp=now - 60), users[0][:-3] + "abc", "a.b.c"]

    def token(self) -> str:
        return self._random.choice(self._tokens)

    def _command(self) -> dict[str, Any]:
        # nobody listens to `send` here, so that it ends a connection before the rest is looked at
        command = super()._command()
        return super()._command() if "send" in command else command


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return what a server wrote, as opcodes and payloads; what is cut at the end is left out."""
    found, at = [], 0
    while at + 2 <= len(data):
        opcode, length, at = data[at] & 0x0F, data[at + 1], at + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            break
        found.append((opcode, data[at : at + length]))
        at += length
    return found


class Stranger:
    """One client after the other, all of one seed."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._fuzzer = ServerFuzzer(seed)
        #: How connections ended: the close code, the status of a response, or 0 for a cut.
        self.ends: Counter[int] = Counter()

    async def visit(self) -> int:
        """Say something over one connection; returns how many frames."""
        if self._random.random() < 0.1:
            return await self._request()
        return await self._websocket()

    async def _websocket(self) -> int:
        protocol = self._random.choice((JSON, PROTOBUF))
        said = self._fuzzer._encode([{"id": 1, "connect": self._fuzzer.connect()}], protocol is PROTOBUF)
        frames = [said if protocol is PROTOBUF else said.decode()]
        frames += [self._fuzzer.frame(protocol) for _ in range(self._random.randint(1, _FRAMES))]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(_HANDSHAKE + (_PROTOBUF if protocol is PROTOBUF else b"") + b"\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SECONDS)
            assert head.startswith(b"HTTP/1.1 101 "), head
            for frame in frames:
                self._write(writer, Opcode.TEXT if isinstance(frame, str) else Opcode.BINARY, frame)
            goodbye = Frame(Opcode.CLOSE, struct.pack("!H", 1000)).serialize(mask=True)
            answer = bytearray()
            is_said = self._random.random() < 0.5
            if is_said:
                writer.write(goodbye)
            try:
                async with asyncio.timeout(_SECONDS):
                    while data := await reader.read(65_536):
                        answer += data
                        if not is_said:  # the others say it when something is answered, which may be their end
                            is_said = True
                            writer.write(goodbye)
            except ConnectionError:
                pass
            self._look_at(bytes(answer))
        finally:
            writer.transport.abort()
        return len(frames)

    @staticmethod
    def _write(writer: asyncio.StreamWriter, opcode: Opcode, data: str | bytes) -> None:
        payload = data.encode() if isinstance(data, str) else data
        writer.write(Frame(opcode, payload).serialize(mask=True))

    def _look_at(self, answer: bytes) -> None:
        code = 0
        for opcode, payload in _frames(answer):
            if opcode == Opcode.CLOSE:
                code = int.from_bytes(payload[:2], "big")
            elif opcode == Opcode.TEXT:
                assert all(isinstance(json.loads(line), dict) for line in payload.split(b"\n")), payload
            elif opcode == Opcode.BINARY:
                assert decode_frame(Reply, payload, depth=64)
        assert code in CODES | {0, 1000, 1007}, code
        self.ends[code] += 1

    async def _request(self) -> int:
        protocol = self._random.choice((JSON, PROTOBUF))
        said = self._fuzzer.frame(protocol)
        body = said.encode() if isinstance(said, str) else said
        method, path = self._random.choice(
            (("POST", "/connection/http_stream"), ("POST", "/connection/sse"), ("POST", "/emulation"), ("GET", ""))
        )
        if method == "GET":
            path, body = f"/connection/{self._random.choice(('sse', 'uni_sse'))}?cf_connect={_quoted(body)}", b""
        kind = "application/octet-stream" if protocol is PROTOBUF else "application/json"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status = int((await asyncio.wait_for(reader.readline(), _SECONDS)).split()[1])
            assert status in _STATUSES, (status, head, body)
            self.ends[status] += 1
        finally:
            writer.transport.abort()
        return 1


def _quoted(body: bytes) -> str:
    return urllib.parse.quote_from_bytes(body[:2_000])


async def _storm(port: int, frames: int, seed: int) -> Counter[int]:
    strangers = [Stranger(port, seed * 1_000 + number) for number in range(_AT_A_TIME)]
    left = frames

    async def go(stranger: Stranger) -> None:
        nonlocal left
        while left > 0:
            said = await stranger.visit()
            left -= said

    async with asyncio.TaskGroup() as group:
        for stranger in strangers:
            group.create_task(go(stranger))
    return sum((stranger.ends for stranger in strangers), Counter())


def _check_served(server: Server) -> None:
    """Everybody is gone, and what is published is there."""
    headers = {"X-API-Key": "key"}

    def call(method: str, **parameters: Any) -> dict[str, Any]:
        told: dict[str, Any] = server.http.post(f"/api/{method}", json=parameters, headers=headers).json()
        result: dict[str, Any] = told["result"]
        return result

    def clients() -> int:
        return sum(node["num_clients"] for node in call("info")["nodes"])

    until(lambda: clients() == 0, 40.0, what="every connection is gone")
    until(lambda: not call("presence", channel="recovery:a")["presence"], 40.0, what="everybody has left")
    call("publish", channel="history:end", data={"still": "here"})
    assert call("history", channel="history:end", limit=1, reverse=True)["publications"][0]["data"] == {"still": "here"}
    assert server.http.get("/healthz").status_code == 200


def fuzz_server(folder: Path, frames: int, seed: int) -> tuple[Counter[int], float]:
    """Run a server and say so many frames to it; returns how connections ended, and the MiB that it grew.

    The growth counts from the first fifth on: until then a server fills what it keeps on purpose.
    """
    (folder / "tidewire.toml").write_text(_config())
    limits = {"rate": 10**6, "burst": 10**6, "connections_per_user": 10**6}
    server = Server(folder, "--log-level", "warning", limits=limits)
    with server.running():
        ends = asyncio.run(_storm(server.port, frames // 5, seed))
        before = server.resident()
        ends += asyncio.run(_storm(server.port, frames - frames // 5, seed + 1))
        _check_served(server)
        grown = server.resident() - before
    faults = re.findall(r"^.*(?:Traceback|ERROR|CRITICAL|Exception).*$", server.log(), re.MULTILINE)
    assert not faults, server.log()[-6_000:]
    return ends, grown


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m centrifuge.fuzz_server", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ends, grown = fuzz_server(Path(folder), options.frames, options.seed)
    took = time.monotonic() - began
    print(f"{options.frames} frames in {took:.0f} s: ends {dict(sorted(ends.items()))}, {grown:.0f} MiB grown")


if __name__ == "__main__":
    main()
