"""Pipelines of the real server: viewers see everything once and in order, also over a crash; HTTP; who may."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from contract.serving import Server, until
from pipelines.support import at_work
from tidewire import ConfigurationError, StoreUnavailable
from tidewire.pipelines import NotNow, RemoteJob
from tidewire.pipelines.processes import descendants, identity, is_alive

API = "/api/pipelines"
#: Tells its progress until a file lies in its run's folder.
_TICKING = """
import os, time
part = 0
while not os.path.exists("go"):
    part += 1
    print(part, "of 100000", flush=True)
    time.sleep(0.01)
"""
_PYTHON = json.dumps([sys.executable, "-I", "-S", "-c"])[1:-1]
DEFINITION = f"""
[[steps]]
name = "first"
run = [{_PYTHON}, "open('tries', 'a').write('x')"]

[[steps]]
name = "tick"
run = [{_PYTHON}, {json.dumps(_TICKING)}]
progress = {{ pattern = '(\\d+) of (\\d+)' }}
grace = 0.5

[[steps]]
name = "silent"
needs = ["first"]
run = [{_PYTHON}, "import os, time\\nwhile not os.path.exists('go'): time.sleep(0.02)"]
grace = 0.5
"""


def serving(folder: Path, **options: Any) -> Server:
    (folder / "definitions").mkdir()
    (folder / "definitions" / "ticking.toml").write_text(DEFINITION)
    environment = {
        "TIDEWIRE_PIPELINES__FOLDER": "definitions",
        "TIDEWIRE_ALLOWED_ORIGINS": '["https://chat.example.org"]',
        **options.pop("environment", {}),
    }
    return Server(folder, broker="sqlite:///hub.db", environment=environment, **options)


def go(server: Server, run: str) -> None:
    (server.folder / "hub.db-pipelines" / "runs" / run / "work" / "go").touch()


def start(server: Server, pipeline: str = "ticking", sample: str = "S1", **more: Any) -> dict[str, Any]:
    answer = server.http.post(f"{API}/runs", json={"pipeline": pipeline, "sample": sample, **more})
    assert answer.status_code in (200, 201), answer.text
    run: dict[str, Any] = answer.json()["run"]
    return run


def wait(server: Server, run: str, *statuses: str, within: float = 40) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        with contextlib.suppress(httpx.TransportError):  # the worker that was asked has died
            answer: dict[str, Any] = server.http.get(f"{API}/runs/{run}").json()["run"]
            return answer if answer["status"] in statuses else None
        return None

    state = until(found, within, what=f"run {run} is {statuses}")
    assert state is not None
    return state


def dial(server: Server, path: str, **options: Any) -> ClientConnection:
    """Open a WebSocket that lives as long as its server."""
    return connect(server.url(path), proxy=None, open_timeout=20, max_queue=None, **options).__enter__()


def rest(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Receive until the end, and return the close code; 1006 when there was none."""
    events = []
    try:
        while True:
            events.append(json.loads(socket.recv(timeout=60)))
    except ConnectionClosed as closed:
        return events, closed.rcvd.code if closed.rcvd else 1006


class Viewer:
    """Sees one run, and checks that its events follow each other."""

    def __init__(self, server: Server, path: str) -> None:
        self.socket = dial(server, path)
        self.events: list[dict[str, Any]] = []

    def until(self, status: str, *, seconds: float = 30) -> dict[str, Any]:
        """Receive until an event of the run, or the state, has this status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            event = json.loads(self.socket.recv(timeout=seconds))
            self.events.append(event)
            run = event["run"] if event["type"] == "state" else event
            if event["type"] in ("run", "state") and run["status"] == status:
                return event
        raise AssertionError(f"no {status}: {self.events[-3:]}")

    def check(self) -> None:
        numbers = [event["seq"] for event in self.events if event["type"] != "log"]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a gap, or something twice"


def test_a_crash_in_the_middle_of_a_step_is_told_and_resumed(tmp_path: Path) -> None:
    server = serving(tmp_path)
    with server.running():
        run = start(server)["id"]
        early = Viewer(server, f"{API}/runs/{run}/events")
        early.until("running")
        logs = tmp_path / "hub.db-pipelines" / "runs" / run / "logs"
        until((logs / "silent.log").exists, what="the silent step runs, too")
        until(
            lambda: len(early.events) > 20 or early.events.append(json.loads(early.socket.recv(timeout=9))), what="20"
        )
        assert server.process is not None
        below = [identity(pid) for pid in at_work(server.process.pid)]
        assert len(below) == 4  # two programs with their guards
        seen = early.events[-1]["seq"] if early.events[-1]["type"] != "log" else 0
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
        server.process = None
        early.events += rest(early.socket)[0]
        early.check()
        until(lambda: not any(map(is_alive, below)), 15, what="no program has outlived the server")
        server.start()
        late = Viewer(server, f"{API}/runs/{run}/events?log=0")
        state = late.until("interrupted")
        assert state["seq"] >= seen
        told = wait(server, run, "interrupted")
        assert "resume" in told["error"]
        assert [step["status"] for step in told["steps"]] == ["done", "stopped", "stopped"]
        simple = Viewer(server, "/pipeline/S1?pipeline=ticking")
        simple.until("interrupted")
        assert server.http.post(f"{API}/runs/{run}/resume").status_code == 202
        late.until("running")
        go(server, run)
        late.until("finished")
        late.check()
        simple.until("finished")
        assert all(event["run"] == run for event in simple.events)
        work = tmp_path / "hub.db-pipelines" / "runs" / run / "work"
        assert (work / "tries").read_text() == "x", "a step that was done ran twice"
        progress = [event["total"] for event in late.events if event["type"] == "step"]
        assert progress == sorted(progress)


def test_two_workers_one_of_them_dies(tmp_path: Path) -> None:
    server = serving(tmp_path, workers=2)
    with server.running():
        runs = [start(server, sample=f"S{number}")["id"] for number in range(2)]
        for run in runs:
            wait(server, run, "running")
        log = [tmp_path / "hub.db-pipelines" / "runs" / run / "logs" / "tick.log" for run in runs]
        until(lambda: all(path.exists() for path in log), what="both run")
        owner = next(pid for pid in server.worker_pids() if descendants(pid))
        os.kill(owner, signal.SIGKILL)
        until(
            lambda: any(wait(server, run, "interrupted", "running")["status"] == "interrupted" for run in runs),
            20,
            what="the survivor says that a run is interrupted",
        )
        for run in runs:
            again = "cancel" if wait(server, run, "interrupted", "running")["status"] == "running" else "resume"
            assert server.http.post(f"{API}/runs/{run}/{again}").status_code == 202
            wait(server, run, "cancelled" if again == "cancel" else "running")
            go(server, run)
            wait(server, run, "cancelled", "finished")
            assert (tmp_path / "hub.db-pipelines" / "runs" / run / "work" / "tries").read_text() == "x"


def test_ten_viewers_one_of_them_slow(tmp_path: Path) -> None:
    server = serving(tmp_path)
    with server.running():
        run = start(server)["id"]
        wait(server, run, "running")
        with slow_reader(server, f"{API}/runs/{run}/events"):
            viewers = [Viewer(server, f"{API}/runs/{run}/events") for _ in range(9)]
            for viewer in viewers:
                viewer.until("running")
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                for viewer in viewers:
                    viewer.events.append(json.loads(viewer.socket.recv(timeout=5)))
            go(server, run)
            for viewer in viewers:
                viewer.until("finished")
                viewer.check()
            text = server.http.get(f"{API}/runs/{run}/log", params={"step": "tick", "limit": 1_000_000})
            for viewer in viewers:
                for event in viewer.events:
                    if event["type"] == "log" and event["step"] == "tick":
                        assert text.content[event["from"] : event["to"]].decode() == event["text"]


@contextlib.contextmanager
def slow_reader(server: Server, path: str) -> Iterator[None]:
    """A client that reads nothing after its handshake."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", server.port))
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        client.sendall(head.encode())
        assert b"101" in client.recv(64)
        yield


def test_the_sample_socket_speaks_the_contract(tmp_path: Path) -> None:
    with serving(tmp_path).running() as server:
        events, code = rest(dial(server, "/pipeline/S1"))
        assert code == 1000
        assert (events[-1]["status"], events[-1]["progress"]) == ("finished", 100)
        by_step: dict[str, list[tuple[int, str]]] = {}
        for event in events[:-1]:
            assert event["status"] in ("running", "done", "failed")
            assert 0 <= event["progress"] <= 100
            by_step.setdefault(event["step"], []).append((event["progress"], event["status"]))
        assert set(by_step) == {"queue", "simulate", "quality", "kmers", "assemble"}
        for seen in by_step.values():
            assert [progress for progress, _ in seen] == sorted(progress for progress, _ in seen)
            assert seen[-1] == (100, "done")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/pipeline/--help", "cannot be used"),
        ("/pipeline/%2e%2e%2fetc", "cannot be used"),
        ("/pipeline/S1%3Brm%20-rf%20x", "cannot be used"),
        ("/pipeline/S1?pipeline=nothing", "there is no pipeline"),
        ("/pipeline/S1?pipeline=readqc", "is missing"),
        (f"{API}/runs/nothing/events", "there is no run"),
    ],
)
def test_what_cannot_be_started_is_told(tmp_path: Path, path: str, problem: str) -> None:
    with serving(tmp_path).running() as server:
        (event,), code = rest(dial(server, path))
        assert event["type"] == "error"
        assert problem in event["content"]
        assert code == 1008


def test_http(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "S7.fastq").write_text("@1\nACGT\n+\nIIII\n")
    environment = {
        "TIDEWIRE_PIPELINES__INPUTS": "inputs",
        "TIDEWIRE_PIPELINES__UPLOAD_BYTES": "1000",
        "TIDEWIRE_PIPELINES__RUNS": "elsewhere",
    }
    with serving(tmp_path, environment=environment).running() as server:
        http = server.http
        listed = http.get(f"{API}/").json()
        assert {"readqc", "demo", "ticking"} == {found["name"] for found in listed["pipelines"]}
        assert [found["name"] for found in http.get(f"{API}/inputs").json()["inputs"]] == ["S7.fastq"]

        sent = http.post(f"{API}/uploads", params={"name": "../my reads.fastq"}, content=b"@1\nACGT\n+\nIIII\n")
        assert sent.status_code == 201, sent.text
        assert sent.json()["name"] == "my_reads.fastq"
        assert http.post(f"{API}/uploads", params={"name": "x"}, content=bytes(1001)).status_code == 413
        assert http.post(f"{API}/uploads", params={"name": "x"}, content=b"").status_code == 400

        run = start(server, "readqc", "up", inputs={"reads": {"upload": sent.json()["upload"]}})
        done = wait(server, run["id"], "finished", "failed")
        assert done["status"] == "finished", done
        assert done["inputs"] == [{"input": "reads", "name": "my_reads.fastq", "size": 15}]
        named = start(server, "readqc", "S7", inputs={"reads": {"name": "S7.fastq"}})
        wait(server, named["id"], "finished")
        for given in ({"upload": "u" + "0" * 40}, {"upload": "../x"}, {"name": "../hub.db"}, {"name": ""}):
            body = {"pipeline": "readqc", "sample": "S1", "inputs": {"reads": given}}
            assert http.post(f"{API}/runs", json=body).status_code in (400, 404)
        assert http.post(f"{API}/runs", content=b"{").status_code == 400

        first = http.get(f"{API}/runs", params={"limit": 1}).json()
        assert [found["id"] for found in first["runs"]] == [named["id"]]
        rest = http.get(f"{API}/runs", params={"before": first["next"]}).json()
        assert [found["id"] for found in rest["runs"]] == [run["id"]]
        assert http.get(f"{API}/runs", params={"status": "failed"}).json()["runs"] == []

        results = http.get(f"{API}/runs/{run['id']}/results").json()["results"]
        assert results
        answer = http.get(f"{API}/runs/{run['id']}/results/{results[0]['name']}")
        assert len(answer.content) == results[0]["size"]
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        for name in ("..%2f..%2fruns.db", "%2Fetc%2Fpasswd", "nothing"):
            assert http.get(f"{API}/runs/{run['id']}/results/{name}").status_code == 404
        log = http.get(f"{API}/runs/{run['id']}/log", params={"step": "look", "from": -10})
        assert log.headers["log-next"] == log.headers["log-size"]
        assert len(log.content) == 10
        assert http.post(f"{API}/runs/{run['id']}/cancel").status_code == 409
        assert http.post(f"{API}/runs/{run['id']}/resume").status_code == 409
        assert http.delete(f"{API}/runs/{run['id']}").status_code == 204
        assert http.get(f"{API}/runs/{run['id']}").status_code == 404
        assert (tmp_path / "elsewhere" / "runs.db").exists()


def test_progress_by_http(tmp_path: Path) -> None:
    text = """
import os, time
from tidewire.pipelines import RemoteJob
RemoteJob.from_environment().progress(0.42, "from elsewhere")
while not os.path.exists("go"): time.sleep(0.02)
"""
    (tmp_path / "definitions").mkdir()
    steps = f'[[steps]]\nname = "one"\nrun = ["{sys.executable}", "-c", {json.dumps(text)}]\n'
    (tmp_path / "definitions" / "far.toml").write_text(steps)
    environment = {"TIDEWIRE_PIPELINES__FOLDER": "definitions"}
    with Server(tmp_path, broker="sqlite:///hub.db", workers=2, environment=environment).running() as server:
        run = start(server, "far")["id"]

        def at() -> tuple[int, str]:
            step = server.http.get(f"{API}/runs/{run}").json()["run"]["steps"][0]
            return step["progress"], step["message"]

        until(lambda: at() == (42, "from elsewhere"), 20, what="the progress was told")
        wrong = server.http.post(
            f"{API}/runs/{run}/progress", json={"step": "one", "progress": 0.5}, headers={"Authorization": "Bearer x"}
        )
        assert wrong.status_code == 403
        go(server, run)
        wait(server, run, "finished")
        with pytest.raises(NotNow, match="was refused"):
            RemoteJob(f"http://127.0.0.1:{server.port}{API}", run, "x", "one").progress(0.5)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        RemoteJob(f"http://127.0.0.1:{server.port}{API}", run, "x", "one").progress(0.5)
    with pytest.raises(ConfigurationError, match="is not set"):
        RemoteJob.from_environment()


def test_who_may(tmp_path: Path) -> None:
    with serving(tmp_path).running() as server:
        http = server.http
        # a proxy on this machine asks for others; a page may reach this machine under a name of its own
        for name, status in (("chat.example.org", 401), ("rebound.example:8000", 403)):
            assert http.get(f"{API}/runs", headers={"Host": name}).status_code == status
        evil = {"Origin": "https://evil.example"}
        assert http.post(f"{API}/runs", json={"pipeline": "demo", "sample": "S1"}, headers=evil).status_code == 403
        with pytest.raises(InvalidStatus):
            dial(server, "/pipeline/S1", origin="https://evil.example")
        with pytest.raises(InvalidStatus):
            dial(server, "/pipeline/S1", additional_headers={"Host": "chat.example.org"})


def test_users_see_their_own_runs(tmp_path: Path) -> None:
    with serving(tmp_path).running() as server:
        remote = {"Host": "chat.example.org"}
        (_, ann), (_, bob) = server.sign_up("ann"), server.sign_up("bob")

        def ask(method: str, path: str, token: str, **more: Any) -> httpx.Response:
            headers = {**remote, "Authorization": f"Bearer {token}"}
            return server.http.request(method, API + path, headers=headers, **more)

        body = {"pipeline": "ticking", "sample": "S1"}
        answer = ask("POST", "/runs", ann, json=body)
        assert answer.status_code == 201, answer.text
        run = answer.json()["run"]["id"]
        assert ask("GET", f"/runs/{run}", ann).json()["run"]["user"] == "ann"
        for method, path in (("GET", ""), ("GET", "/log"), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
            assert ask(method, f"/runs/{run}{path}", bob).status_code == 404
        assert ask("GET", "/runs", bob).json()["runs"] == []
        assert not ask("POST", "/runs", bob, json=body).json()["joined"]
        assert ask("GET", "/runs", "wrong").status_code == 401
        cookie = {**remote, "Cookie": f"token={ann}"}
        assert server.http.post(f"{API}/runs/{run}/cancel", headers=cookie).status_code == 401
        assert server.http.get(f"{API}/runs", headers=cookie).status_code == 200
        assert server.http.get(f"{API}/runs", headers={**cookie, "Sec-Fetch-Site": "cross-site"}).status_code == 401
        ours = {**cookie, "Origin": "https://chat.example.org"}
        assert server.http.post(f"{API}/runs/{run}/cancel", headers=ours).status_code == 202


def test_the_cookie_is_the_servers_and_no_script_reads_it(tmp_path: Path) -> None:
    with serving(tmp_path).running() as server:
        _, token = server.sign_up("ann")
        far = {"Host": "chat.example.org"}
        answer = server.http.post(f"{API}/session", headers={**far, "Authorization": f"Bearer {token}"})
        assert answer.status_code == 204, answer.text
        said = answer.headers["Set-Cookie"]
        assert said.startswith(f"token={token};")
        assert {"HttpOnly", "Path=/api/pipelines", "SameSite=strict"} <= set(said.split("; "))
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Cookie": f"token={token}", "Origin": "https://chat.example.org"}, 401),
            ({"Authorization": f"Bearer {token}", "Origin": "https://evil.example"}, 403),
        ):
            refused = server.http.post(f"{API}/session", headers={**far, **headers})
            assert (refused.status_code, "Set-Cookie" in refused.headers) == (status, False)
        assert server.http.delete(f"{API}/session", headers={"Origin": "https://evil.example"}).status_code == 403
        gone = server.http.delete(f"{API}/session", headers=far).headers["Set-Cookie"]
        assert gone.startswith('token="";')
        assert {"Max-Age=0", "Path=/api/pipelines"} <= set(gone.split("; "))


def test_only_what_a_pipeline_names_is_opened_in_place(tmp_path: Path) -> None:
    with serving(tmp_path).running() as server:
        body = "@1\nACGT\n+\nIIII\n" * 50
        upload = server.http.post(f"{API}/uploads", params={"name": "a.fastq"}, content=body).json()["upload"]
        run = start(server, "readqc", inputs={"reads": {"upload": upload}})["id"]
        wait(server, run, "finished")
        results = server.http.get(f"{API}/runs/{run}/results").json()["results"]
        assert [result["name"] for result in results if result.get("show")] == ["readqc.html"]
        for name, query, is_shown in (
            ("readqc.html", "?show=1", True),
            ("readqc.html", "", False),
            ("readqc.json", "?show=1", False),
        ):
            answer = server.http.get(f"{API}/runs/{run}/results/{name}{query}")
            policy = answer.headers["Content-Security-Policy"].split("; ")
            assert {"sandbox", "default-src 'none'"} <= set(policy)
            assert not [rule for rule in policy if "script" in rule]
            assert ("attachment" in answer.headers.get("Content-Disposition", "")) is not is_shown


def test_nothing_falls_between_the_state_and_what_follows(tmp_path: Path) -> None:
    with Server(tmp_path, app=Path(__file__).parent / "racing_app.py").running() as server:
        run = start(server, "racing")["id"]
        until(lambda: server.http.get(f"{API}/runs/{run}").json()["run"]["steps"][0]["started"], what="the step runs")
        viewers = [Viewer(server, f"{API}/runs/{run}/events?log=0") for _ in range(5)]
        for viewer in viewers:
            viewer.until("running")
        server.http.post("/done")
        for viewer in viewers:
            viewer.until("finished")
            viewer.check()
            assert viewer.events[-1]["seq"] > viewers[0].events[0]["seq"] + 5
