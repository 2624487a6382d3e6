"""The HTTP API of a real server, given what no caller should send: each is answered, and none is a failure of ours."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from server.live_server import LiveServer

SETTINGS = """
[http_api]
key = "the key"
[[channel.namespaces]]
name = "talk"
history_size = 10
history_ttl = "1h"
presence = true
"""
METHODS = {
    "publish": ("channel", "data", "tags", "idempotency_key", "version", "version_epoch", "b64data", "skip_history"),
    "broadcast": ("channels", "data", "version"),
    "history": ("channel", "limit", "since", "reverse"),
    "subscribe": ("user", "channel", "client", "session", "b64info", "expire_at", "recover_since", "override"),
    "unsubscribe": ("user", "channel", "client"),
    "refresh": ("user", "client", "expire_at", "info"),
    "disconnect": ("user", "whitelist", "disconnect"),
    "presence": ("channel",),
    "channels": ("pattern",),
    "batch": ("commands", "parallel"),
}
GOOD = {"channel": "talk:1", "data": 1, "user": "ann", "channels": ["talk:1"], "commands": []}
VALUES: tuple[object, ...] = (2**63, 2**70, 10**400, -(2**70), 1e308, "", "x" * 70_000, "\0", "a\nINFO forged", [], {},
          None, True, "$control", {"offset": 2**60, "epoch": "x" * 70_000}, {"a": "\0"},
          {"code": 4_000, "reason": "\r\nx"})  # fmt: skip
BODIES = (b'{"channel":"talk:1","data":NaN}', b"\0", b"[]",
          b'{"channel":"\xff"}', b'{"channel":"talk:1","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")  # fmt: skip


def test_values_that_nobody_should_send(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text(SETTINGS)
    headers = {"X-API-Key": "the key"}
    with LiveServer(tmp_path) as server, httpx.Client(base_url=f"{server.url}/api", headers=headers) as client:
        for method, fields in METHODS.items():
            for field in fields:
                for value in VALUES:
                    body = {name: good for name, good in GOOD.items() if name in fields} | {field: value}
                    answer = client.post(f"/{method}", content=json.dumps(body))
                    assert answer.status_code == 200, (method, field, value)
                    assert '"code":100' not in answer.text, (method, field, value, answer.text)
        for raw in BODIES:
            assert client.post("/publish", content=raw).status_code == 400, raw[:40]
        assert "forged" not in server.err.replace("a\\nINFO forged", "")
        assert "ERROR" not in server.err
