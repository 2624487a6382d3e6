"""A server that is stopped and started again: its clients are not there twice, and not before they are back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from contract.serving import Server, until
from faults.serving import STORES, store


@pytest.mark.parametrize(
    "name", ["sqlite", *(pytest.param(n, marks=pytest.mark.slow) for n in STORES if n != "sqlite")]
)
def test_a_graceful_stop_leaves_nobody_in_presence(tmp_path: Path, name: str) -> None:
    """Its clients were listed for 6 to 7 s of the next start, and those that came back twice."""
    limits = {"drain_seconds": 0.2}
    with store(name, tmp_path) as used:
        server = Server(
            tmp_path, app=Path(__file__).with_name("restart_app.py"), environment={"STORE": used.url}, limits=limits
        )

        def members() -> list[str]:
            found: list[str] = server.http.get("/members").json()
            return found

        with server.running(), ExitStack() as clients:
            for user in ("ann", "ann", "bob"):
                clients.enter_context(connect(server.url(f"/ws/{user}")))
            until(lambda: sorted(members()) == ["ann", "ann", "bob"], what="all three are there")
            server.stop()
            server.start()
            assert members() == []
            with connect(server.url("/ws/ann")) as back:
                assert until(members, what="ann is back") == ["ann"]
                until(lambda: back.recv(20) == "bob left", 25, what="who does not come back leaves, after a while")
                assert members() == ["ann"]
