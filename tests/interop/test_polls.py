"""Polled values with the published SDK for JavaScript, on two workers of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from contract.serving import Server, until
from helpers.node_packages import node_modules
from requirements import require

pytestmark = pytest.mark.xdist_group("interop")

HERE = Path(__file__).parent
CLIENTS = 20


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_clients_have_the_newest_values_when_a_worker_is_killed(encoding: str, tmp_path: Path) -> None:
    require(shutil.which("node"), "apt-get install nodejs")
    packages, prices, calls = node_modules(HERE), tmp_path / "prices.json", tmp_path / "calls.txt"
    prices.write_text(json.dumps({"a": {"x": 1}, "b": 1, "secret": 1}))
    store = {"STORE": f"sqlite:///{tmp_path}/store.db"}
    with Server(tmp_path, app=HERE / "polled_app.py", workers=2, environment=store).running() as server:
        command = ["node", str(HERE / "polls.mjs"), str(packages), str(server.port), encoding, str(CLIENTS)]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "shown\n"
            asked = [line.split() for line in calls.read_text().splitlines()]
            assert {keys for _, keys in asked} <= {"a,b"}, "nobody asks for a key that was not signed"
            workers = Counter(int(pid) for pid, _ in asked)
            assert len(workers) == 2, "each worker asks for its own clients"
            killed = next(iter(workers))
            os.kill(killed, signal.SIGKILL)
            prices.write_text(json.dumps({"a": {"x": 2}, "secret": 1}))
            out, _ = process.communicate("go on\n", timeout=60)
            assert process.returncode == 0, out
        clients = json.loads(out)
        assert any(one["connects"] > 1 for one in clients)
        assert any(one["connects"] == 1 for one in clients), "those of the other worker noticed nothing"
        assert {one["updates"] for one in clients} == {5}, "two values, a key that may not be tracked, and two changes"
        assert all(one["errors"] == [] for one in clients)
        size = until(lambda: _quiet(calls), what="nobody is asked any more when all have gone")
        assert size > 0


def _quiet(calls: Path) -> int:
    """Return the size of the file of calls, once it has not grown for three intervals."""
    before = calls.stat().st_size
    time.sleep(0.4)
    return before if calls.stat().st_size == before else 0
