"""Polled values with the published SDK for JavaScript, on two workers of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from clients.serving import Cuttable
from contract.serving import Server, until
from helpers.node_packages import node_modules
from requirements import require

pytestmark = pytest.mark.xdist_group("interop")

HERE = Path(__file__).parent
MODULE = HERE.parents[1] / "src" / "tidewire" / "server" / "ui" / "tidewire.js"
CLIENTS = 8


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_clients_have_the_newest_values_when_a_worker_is_killed(encoding: str, tmp_path: Path) -> None:
    require(shutil.which("node"), "apt-get install nodejs")
    packages, prices, calls = node_modules(HERE), tmp_path / "prices.json", tmp_path / "calls.txt"
    prices.write_text(json.dumps({"a": {"x": 1}, "b": 1, "secret": 1}))
    store = {"STORE": f"sqlite:///{tmp_path}/store.db"}
    with (
        Server(tmp_path, app=HERE / "polled_app.py", workers=2, environment=store).running() as server,
        ExitStack() as stack,
    ):
        doomed, safe = server.worker_pids()
        places: list[int | None] = [doomed, safe]
        ways = [stack.enter_context(Cuttable(server.port, partial(_dial, server, places, n))) for n in range(2)]
        ports = ",".join(str(way.port) for way in ways)
        command = ["node", str(HERE / "polls.mjs"), str(packages), ports, encoding, str(CLIENTS), str(MODULE)]
        process = stack.enter_context(
            subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "shown\n"
        asked = [line.split() for line in calls.read_text().splitlines()]
        assert {keys for _, keys in asked} <= {"a,b"}, "nobody asks for a key that was not signed"
        assert {int(pid) for pid, _ in asked} == {doomed, safe}, "each worker asks for its own clients"
        places[0] = None
        os.kill(doomed, signal.SIGKILL)
        prices.write_text(json.dumps({"a": {"x": 2}, "secret": 1}))
        out, _ = process.communicate("go on\n", timeout=60)
        assert process.returncode == 0, out
        clients = json.loads(out)
        assert [one["connects"] > 1 for one in clients] == [True, False] * (CLIENTS // 2), "the other worker's noticed"
        assert {one["updates"] for one in clients} == {5}, "two values, a key that may not be tracked, and two changes"
        assert all(one["errors"] == [] for one in clients)
        size = until(lambda: _quiet(calls), what="nobody is asked any more when all have gone")
        assert size > 0


def _dial(server: Server, places: list[int | None], number: int) -> socket.socket:
    """Connect to the worker that a way leads to; to any, when it has been killed."""
    return server.dial(places[number])


def _quiet(calls: Path) -> int:
    """Return the size of the file of calls, once it has not grown for three intervals."""
    before = calls.stat().st_size
    time.sleep(0.4)
    return before if calls.stat().st_size == before else 0
