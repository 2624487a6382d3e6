"""The sockets that a server listens on: what they refuse, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tidewire.errors import ConfigurationError
from tidewire.links.listener import listening_socket, unix_listener


def test_the_listening_socket_gives_up_unacknowledged_peers_and_explains_itself() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        if sys.platform == "linux":
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is taken"):
            listening_socket("127.0.0.1", port)
    for host, text in (("192.0.2.1", "is not an address of this machine"), ("no such host", "cannot be resolved")):
        with pytest.raises(ConfigurationError, match=text):
            listening_socket(host, 0)
    if os.geteuid() != 0:
        with pytest.raises(ConfigurationError, match="needs more rights"):
            listening_socket("127.0.0.1", 80)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a short path: that of a Unix socket has at most some hundred bytes."""
    monkeypatch.chdir(tmp_path)
    return Path("app.sock")


def test_everybody_may_open_a_unix_socket_and_nothing_is_left_of_it(path: Path) -> None:
    with unix_listener(path):
        assert path.stat().st_mode & 0o777 == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced_and_that_of_a_running_one_is_not(path: Path) -> None:
    """uvicorn takes the address away from a server that still listens there, which nobody reaches any more."""
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with unix_listener(path), pytest.raises(ConfigurationError, match=r"'app\.sock' is taken"), unix_listener(path):
        pass


def test_of_two_servers_that_start_at_once_one_listens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one took the address of the first, which nobody reached any more, if that did not listen yet."""
    chmod = Path.chmod

    def start() -> None:
        with unix_listener(path):
            pass

    def start_another(bound: Path, mode: int) -> None:
        monkeypatch.setattr(Path, "chmod", chmod)
        started.append(pool.submit(start))
        wait(started, timeout=0.05)
        bound.chmod(mode)

    started: list[Future[None]] = []
    monkeypatch.setattr(Path, "chmod", start_another)
    taken = pytest.raises(ConfigurationError, match=r"'app\.sock' is taken")
    with ThreadPoolExecutor(1) as pool, unix_listener(path), taken:
        started[0].result(5)


def test_a_server_that_ends_leaves_the_socket_of_its_successor(path: Path) -> None:
    with contextlib.ExitStack() as successor:
        with unix_listener(path) as listener:
            listener.close()  # as at the beginning of a drain
            successor.enter_context(unix_listener(path))
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file", "is no socket"),
        ("missing/app.sock", "No such file or directory"),
        ("x" * 200, "path too long"),
        ("nul\0", "null (byte|character)"),
    ],
)
def test_a_path_where_no_socket_can_be_is_one_line(path: Path, name: str, problem: str) -> None:
    Path("file").write_text("of somebody")
    with pytest.raises(ConfigurationError, match=problem), unix_listener(Path(name)):
        pass
    assert Path("file").read_text() == "of somebody"
