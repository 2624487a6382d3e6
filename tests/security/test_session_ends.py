"""What is under way when a session ends, with two workers: an upload and a download end in about a second."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from server.live_server import LiveServer, tidewire, wait_for

API = "/api/pipelines"
NAME = "server.example"
SETTINGS = 'allowed_origins = ["https://server.example"]\n[pipelines]\nfolder = "pipelines"\n'
BIG = 'name = "big"\n[[steps]]\nname = "make"\nrun = ["truncate", "--size=256M", "{results}/big.bin"]\n'
WITHIN = 6.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text(SETTINGS)
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "big.toml").write_text(BIG)
    with LiveServer(folder, "--workers", "2") as running:
        yield running


def sign_up(server: LiveServer, name: str) -> dict[str, str]:
    token = server.post("/signup", json={"username": name, "password": "correct horse"}).json()["token"]
    return {"Host": NAME, "Authorization": f"Bearer {token}"}


def open_request(server: LiveServer, line: str, headers: dict[str, str], *more: str) -> socket.socket:
    url = httpx.URL(server.url)
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    opened.settimeout(WITHIN)
    opened.connect((url.host, url.port or 80))
    lines = [f"{line} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()), *more]
    opened.sendall("".join(f"{one}\r\n" for one in lines).encode() + b"\r\n")
    return opened


def log_out(server: LiveServer, name: str, headers: dict[str, str]) -> None:
    assert server.post("/logout", headers=headers).json() == {"ended": 1}


def revoke(server: LiveServer, name: str, headers: dict[str, str]) -> None:
    done = tidewire("user", "revoke", name, folder=server.folder)
    assert done.returncode == 0, done.stderr


def remove(server: LiveServer, name: str, headers: dict[str, str]) -> None:
    done = tidewire("user", "remove", name, folder=server.folder)
    assert done.returncode == 0, done.stderr


WAYS = pytest.mark.parametrize("end", [log_out, revoke, remove])
End = Callable[[LiveServer, str, dict[str, str]], None]


@WAYS
def test_a_silent_upload_ends_with_its_session(server: LiveServer, end: End) -> None:
    """Not with the time of a body only: until then it would keep one of the user's places."""
    name = f"up-{end.__name__}"
    headers = sign_up(server, name)
    with open_request(server, f"POST {API}/uploads?name=S1.fastq", headers, "Content-Length: 1000000") as uploading:
        uploading.sendall(b"A" * 1_000)
        wait_for(lambda: list(server.folder.rglob(".[0-9a-f]*")), what="the draft of the upload")
        end(server, name, headers)
        began = time.monotonic()
        assert uploading.recv(4_096).startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < WITHIN
    wait_for(lambda: not list(server.folder.rglob(".[0-9a-f]*")), what="the end of the draft")


@WAYS
def test_a_download_ends_with_its_session(server: LiveServer, end: End) -> None:
    """So somebody who has taken a token gets no more of a large file than what was sent by then."""
    name = f"down-{end.__name__}"
    headers = sign_up(server, name)
    start = server.post(f"{API}/runs", json={"pipeline": "big", "sample": name}, headers=headers)
    run = f"{API}/runs/{start.json()['run']['id']}"

    def is_done() -> bool:
        return bool(server.get(run, headers=headers).json()["run"]["status"] == "finished")

    wait_for(is_done, what="the end of the run")
    (result,) = server.get(f"{run}/results", headers=headers).json()["results"]
    path = f"{run}/results/{result['name']}"
    size = 256 << 20
    with open_request(server, f"GET {path}", headers) as downloading:
        received = len(downloading.recv(65_536))
        end(server, name, headers)
        began = time.monotonic()
        while chunk := downloading.recv(65_536):
            received += len(chunk)
            time.sleep(0.001)  # some 50 MB/s: all of it would take longer than the end
        assert time.monotonic() - began < WITHIN
        assert received < size / 2


def test_a_download_of_a_session_that_goes_on_is_whole(server: LiveServer) -> None:
    headers = sign_up(server, "goes-on")
    start = server.post(f"{API}/runs", json={"pipeline": "big", "sample": "S9"}, headers=headers)
    run = f"{API}/runs/{start.json()['run']['id']}"
    wait_for(lambda: server.get(run, headers=headers).json()["run"]["status"] == "finished", what="the end of the run")
    with httpx.stream("GET", f"{server.url}{run}/results/big.bin", headers=headers, timeout=30) as answer:
        assert sum(map(len, answer.iter_raw())) == 256 << 20
