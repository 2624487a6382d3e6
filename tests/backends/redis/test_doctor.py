"""`tidewire doctor` on a Redis that is there, one that wants a password, and none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contract.serving import free_port
from helpers.stores import start_redis


def doctor(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tidewire", "doctor", "--broker", url]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def test_doctor_says_what_the_store_is_and_what_to_change(tmp_path: Path) -> None:
    with start_redis(tmp_path / "redis", "--requirepass", "s3cret") as server:
        seen = doctor(f"redis://:s3cret@127.0.0.1:{server.port}?wait=1", tmp_path)
        assert seen.returncode == 0, seen.stderr
        assert not seen.stderr, "a warning is said once, under `to change`"
        for part in ("answers in", "accepted by Redis, and by 1 of its replicas", "Redis 7.", "its clock is 0."):
            assert part in seen.stdout
        changes = seen.stdout.partition("to change")[2]
        assert "appendonly is no" in changes
        assert "more replicas than are connected (0)" in changes
        refused = doctor(f"redis://:wr0ng@127.0.0.1:{server.port}", tmp_path)
        assert refused.returncode == 2
        assert "refuses the login" in refused.stderr
    gone = doctor(f"redis://:s3cret@127.0.0.1:{server.port}", tmp_path)
    assert gone.returncode == 1
    assert "reachable  no: Redis at" in gone.stdout
    for text in (seen, refused, gone):
        assert "s3cret" not in text.stdout + text.stderr
        assert "wr0ng" not in text.stdout + text.stderr


def test_a_sentinel_and_a_server_of_a_cluster_are_named_as_what_they_are(tmp_path: Path) -> None:
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with (
        start_redis(tmp_path / "sentinel", is_sentinel=True) as sentinel,
        start_redis(tmp_path / "cluster", *cluster) as one,
    ):
        for server, advice in ((sentinel, "redis+sentinel://HOST:PORT/SERVICE"), (one, "write redis+cluster://")):
            refused = doctor(f"redis://127.0.0.1:{server.port}", tmp_path)
            assert (refused.returncode, advice in refused.stderr) == (2, True), refused.stdout + refused.stderr
