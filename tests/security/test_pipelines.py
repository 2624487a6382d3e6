"""Pipelines of a real server, attacked: files of others, names that are no names, events that nobody may forge."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from server.live_server import LiveServer, wait_for

API = "/api/pipelines"
#: A name by which this machine does not call itself: whoever uses it has to log in.
NAME = "server.example"
SETTINGS = """
allowed_origins = ["https://server.example"]
[client]
allow_anonymous_connect_without_token = true

[[channel.namespaces]]
name = "pipeline"
allow_publish_for_client = true
allow_publish_for_anonymous = true

[pipelines]
folder = "pipelines"
inputs = "inputs"
concurrency = 50
"""
SLOW = """
name = "slow"
[inputs.reads]
optional = true
[inputs.more]
optional = true
[[steps]]
name = "sleep"
run = ["sleep", "60"]
"""
MESS = """
name = "mess"
[[steps]]
name = "names"
run = ["sh", "-c", '''cd "$1" && touch "$(printf 'a\\377b')" good && mkdir "$(printf 'd\\377')" &&
touch "$(printf 'd\\377/x')" && mkfifo pipe && ln -s /etc/passwd link && ln -s /etc folder''', "sh", "{results}"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text(SETTINGS)
    for name in ("inputs", "pipelines"):
        (folder / name).mkdir()
    (folder / "pipelines" / "slow.toml").write_text(SLOW)
    (folder / "pipelines" / "mess.toml").write_text(MESS)
    for number in range(500):
        (folder / "inputs" / f"S{number}.fastq").write_text("@r\nA\n+\nI\n")
    with LiveServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def users(server: LiveServer) -> dict[str, dict[str, str]]:
    """The headers of two users."""
    found = {}
    for name in ("ann", "bob"):
        answer = server.post("/signup", json={"username": name, "password": "correct horse"})
        found[name] = {"Host": NAME, "Authorization": f"Bearer {answer.json()['token']}"}
    return found


def start(server: LiveServer, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return server.post(f"{API}/runs", json={"pipeline": "slow", "sample": "S1", "new": True, **body}, headers=headers)


def upload(server: LiveServer, data: bytes, headers: dict[str, str] | None = None, name: str = "x.fastq") -> str:
    answer = server.post(f"{API}/uploads", params={"name": name}, content=data, headers=headers)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["upload"]
    return found


def test_an_upload_is_its_users_alone(server: LiveServer, users: dict[str, dict[str, str]]) -> None:
    name = upload(server, b"what ann has", users["ann"])
    stolen = start(server, users["bob"], inputs={"reads": {"upload": name}})
    assert stolen.status_code == 404, stolen.text
    # the same content, sent by another, takes nothing away
    upload(server, b"what ann has", users["bob"], "other.fastq")
    own = start(server, users["ann"], inputs={"reads": {"upload": name}})
    assert own.status_code == 201, own.text
    assert own.json()["run"]["inputs"][0]["name"] == "x.fastq"


def test_one_upload_for_two_inputs_and_two_of_one_name(server: LiveServer) -> None:
    name = upload(server, b"given twice")
    assert start(server, inputs={"reads": {"upload": name}, "more": {"upload": name}}).status_code == 201
    first, second = upload(server, b"the first"), upload(server, b"the second")
    answer = start(server, inputs={"reads": {"upload": first}, "more": {"upload": second}})
    run = server.folder / "tidewire.db-pipelines" / "runs" / answer.json()["run"]["id"]
    assert {path.read_bytes() for path in run.glob("inputs/*/x.fastq")} == {b"the first", b"the second"}


def test_two_runs_that_want_one_upload(server: LiveServer) -> None:
    name = upload(server, b"wanted by many")

    def one(number: int) -> int:
        return start(server, sample=f"W{number}", inputs={"reads": {"upload": name}}).status_code

    with ThreadPoolExecutor(8) as executor:
        found = Counter(executor.map(one, range(8)))
    assert found[201] == 1
    assert set(found) <= {201, 400, 404, 409}, found


def test_many_uploads_at_once(server: LiveServer) -> None:
    def one(number: int) -> int:
        data = b"the same" if number % 2 else b"%d" % number
        return server.post(f"{API}/uploads", params={"name": f"{number % 3}.fastq"}, content=data).status_code

    with ThreadPoolExecutor(16) as executor:
        found = Counter(executor.map(one, range(60)))
    assert set(found) <= {201, 409}, found
    assert found[201] >= 45


def test_a_request_with_thousands_of_inputs_delays_nobody(server: LiveServer) -> None:
    inputs = {f"i{number}": {"name": "S1.fastq"} for number in range(2_000)}
    slowest, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal slowest
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not done.is_set():
                began = time.monotonic()
                client.get("/healthz")
                slowest = max(slowest, time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answer = httpx.post(f"{server.url}{API}/runs", json={"pipeline": "slow", "sample": "S1", "inputs": inputs},
                            timeout=60)  # fmt: skip
    finally:
        done.set()
        watcher.join()
    assert answer.status_code == 400
    assert slowest < 1.0


def test_results_whose_names_are_no_text(server: LiveServer) -> None:
    run = server.post(f"{API}/runs", json={"pipeline": "mess", "sample": "S1"}).json()["run"]["id"]
    wait_for(lambda: server.get(f"{API}/runs/{run}").json()["run"]["status"] not in ("queued", "running"))
    answer = server.get(f"{API}/runs/{run}/results")
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [file["name"] for file in results if not file.get("problem")] == ["a\xffb", "d\xff/x", "good"]
    for name in ("link", "folder/passwd", "pipe", "..%2F..%2F..%2Fruns.db", "%00", "a" * 5_000):
        assert server.get(f"{API}/runs/{run}/results/{name}").status_code == 404, name


def test_a_namespace_named_pipeline_opens_no_run(server: LiveServer) -> None:
    run = start(server).json()["run"]["id"]
    with connect(f"{server.websocket_url}/connection/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "connect": {}}))
        socket.recv(timeout=10)
        for channel in (f"$pipeline:{run}", f"$pipeline-log:{run}"):
            for method, more in (("publish", {"data": {"forged": True}}), ("history", {}), ("subscribe", {})):
                socket.send(json.dumps({"id": 2, method: {"channel": channel, **more}}))
                reply = json.loads(socket.recv(timeout=10))
                assert reply["error"]["code"] == 103, (channel, method, reply)


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via"]
)
def test_who_comes_through_a_proxy_of_this_machine_is_not_this_machine(server: LiveServer, header: str) -> None:
    assert server.get(f"{API}/runs").status_code == 200
    for value in ("203.0.113.9", "127.0.0.1", ""):
        assert server.get(f"{API}/runs", headers={header: value}).status_code == 401
