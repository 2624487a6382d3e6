"""An application is told when its server cannot notice frozen clients."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.links.test_server_exit import open_stream, serving
from tests.links.wire import wait_for

from tidewire.links.server_pings import warn_without_pings


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_a_server_without_pings_is_named_with_a_remedy(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("hypercorn", "granian"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    warn_without_pings()
    assert caplog.text == ""
    monkeypatch.setitem(sys.modules, server, ModuleType(server))
    warn_without_pings()
    assert f"{server} waits for no answer to a WebSocket ping" in caplog.text
    assert "tidewire run" in caplog.text


@pytest.mark.parametrize(("kind", "warned"), [("hypercorn", True), ("granian", True), ("uvicorn", False)])
def test_it_is_said_at_start(kind: str, warned: bool, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as (_, port):
        stream = wait_for(lambda: open_stream(port), 20, "the server answers")
        stream.close()
        assert ("waits for no answer" in Path(tmp_path, "log").read_text()) is warned
