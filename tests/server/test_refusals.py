"""What anybody can be refused for as often as they like writes few lines into the log."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import HTTPConnection

from engine.support import run
from tidewire.errors import Rejected
from tidewire.rules.base import ConnectAttempt
from tidewire.server.client_settings import ClientTable
from tidewire.server.namespace_authority import NamespaceAuthority
from tidewire.server.namespaces import ChannelTable, Namespaces
from tidewire.sessions.origins import Origins


def test_refused_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        authority = NamespaceAuthority(ClientTable(), Namespaces(ChannelTable(), channel_name=255))
        for number in range(200):
            with pytest.raises(Rejected):
                await authority.connect(ConnectAttempt(token=f"{number}"), None)

    caplog.set_level(logging.INFO, "tidewire")
    run(main())
    assert len(caplog.records) <= 1  # none when another test has written it


def test_refused_origins(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2_000):
        origin = f"https://{number % 1_000}.example".encode()
        scope = {"type": "websocket", "headers": [(b"host", b"here.example"), (b"origin", origin)]}
        assert not Origins().allows(HTTPConnection(scope))
    assert len(caplog.records) <= 60
