"""Every example is started as its first lines say, and talked to over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from contract.serving import free_port

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

pytestmark = pytest.mark.xdist_group("examples")


def wait_for(condition: Callable[[], Any], seconds: float = 20.0, why: str = "") -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {why}"
        time.sleep(0.05)
    return value


class Example:
    """A running example."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)

    def open(self, path: str) -> contextlib.AbstractContextManager[ClientConnection]:
        return connect(f"ws://127.0.0.1:{self.port}{path}", open_timeout=20, proxy=None, compression=None)

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait(10)


@contextlib.contextmanager
def running(name: str, folder: Path, *arguments: str, server: str = "tidewire") -> Iterator[Example]:
    """Start an example in a folder of its own."""
    port = free_port()
    command = [sys.executable, "-m", *(("tidewire", "run") if server == "tidewire" else ("uvicorn",)), f"{name}:app"]
    paths = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEWIRE_")}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    log = folder / "server.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *arguments], cwd=folder, env=environment, stdout=out, stderr=out, text=True
        )
    example = Example(process, folder, port)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return example.http.get("/").status_code == 200
        return False

    try:
        wait_for(answers, 30, "the example answers")
        yield example
    finally:
        example.stop()


def receive(socket: ClientConnection, count: int) -> list[str]:
    return [str(socket.recv(timeout=20)) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_names_what_it_needs(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert 40 <= len(text.splitlines()) <= 120
    assert f"tidewire run {name}:app" in text
    assert f"{name}.py" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_takes_nothing_from_elsewhere_and_text_for_no_html(name: str) -> None:
    page = (EXAMPLES / "pages" / f"{name}.html").read_text()
    script = (EXAMPLES / "pages" / "socket.js").read_text()
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|\son\w+=", page + script)
    for path in re.findall(r'"/pages/([\w.]+)"', page):
        assert (EXAMPLES / "pages" / path).exists()


def test_chat_works_across_workers(tmp_path: Path) -> None:
    with running("chat", tmp_path, "--workers", "2") as chat, contextlib.ExitStack() as stack:
        assert "text/javascript" in chat.http.get("/pages/socket.js").headers["content-type"]
        sockets = []
        for client in range(1, 7):
            sockets.append(stack.enter_context(chat.open(f"/ws/{client}")))
            # its own joining is the last of what it is shown: it is in the room
            wait_for(lambda: sockets[-1].recv(timeout=20) == f"Client #{client} joined the chat")  # noqa: B023
        sockets[0].send("hello")
        for other in sockets:
            wait_for(lambda: other.recv(timeout=20) == "Client #1 says: hello")  # noqa: B023
        assert sorted(chat.http.get("/online").json()) == ["1", "2", "3", "4", "5", "6"]
        sockets[5].close()
        assert receive(sockets[0], 1) == ["Client #6 left the chat"]
        with chat.open("/ws/7") as late:
            assert "Client #1 says: hello" in receive(late, 8)


def test_chat_runs_under_plain_uvicorn_too(tmp_path: Path) -> None:
    with running("chat", tmp_path, server="uvicorn") as chat, chat.open("/ws/1") as first, chat.open("/ws/2") as second:
        first.send("hello")
        wait_for(lambda: second.recv(timeout=20) == "Client #1 says: hello")


def test_dashboard_pushes_every_price_and_those_that_are_asked_for(tmp_path: Path) -> None:
    with running("dashboard", tmp_path) as dashboard:
        with dashboard.open("/ws") as everything:
            seen = {json.loads(text)["symbol"] for text in receive(everything, 60)}
            assert seen == {"TIDE", "WAVE", "REEF", "SAND", "GULL", "KELP"}
        with dashboard.open("/ws?symbols=TIDE,NONE") as one:
            quotes = [json.loads(text) for text in receive(one, 20)]
            assert {quote["symbol"] for quote in quotes} == {"TIDE"}
            assert all(quote["price"] > 0 for quote in quotes)
        assert dashboard.http.get("/statistics").json()["pushed"] >= 60


def test_notifications_reach_every_device_and_wait_for_who_is_away(tmp_path: Path) -> None:
    with running("notifications", tmp_path, "--workers", "2") as app:

        def notify(user: str, **notification: str) -> dict[str, Any]:
            return dict(app.http.post(f"/notify/{user}", json=notification).json())

        with contextlib.ExitStack() as stack:
            devices = [stack.enter_context(app.open("/ws/ann")) for _ in range(4)]
            other = stack.enter_context(app.open("/ws/bob"))
            for device in devices:
                wait_for(lambda: notify("ann", text="ready?")["online"] and _came(device))  # noqa: B023
            assert notify("ann", text="first", id="1") == notify("ann", text="first", id="1")
            notify("ann", text="second", id="2")
            for device in devices:
                wait_for(lambda: json.loads(device.recv(timeout=20)) == {"text": "first", "id": "1"})  # noqa: B023
                assert json.loads(receive(device, 1)[0])["text"] == "second"
            with pytest.raises(TimeoutError):
                other.recv(timeout=0.2)
        assert notify("cleo", text="while you were away")["online"] is False
        assert [notification["text"] for notification in app.http.get("/inbox/cleo").json()] == ["while you were away"]
        assert app.http.post("/notify/ann", json={"text": ""}).status_code == 422
        assert app.http.post("/notify/a%20b", json={"text": "x"}).status_code == 422


def _came(device: ClientConnection) -> bool:
    with contextlib.suppress(TimeoutError):
        return bool(device.recv(timeout=0.5))
    return False


def test_game_everybody_sees_the_same_one(tmp_path: Path) -> None:
    sys.path.insert(0, str(EXAMPLES))
    from game import Game, Move

    def play(events: list[str]) -> Game:
        game = Game()
        for event in events:
            game.apply(Move(**json.loads(event)))
        return game

    with running("game", tmp_path, "--workers", "2") as app, contextlib.ExitStack() as stack:
        ann, bob, onlooker = (stack.enter_context(app.open(f"/ws/t/{name}")) for name in ("ann", "bob", "eve"))
        # both want the middle: whoever comes first has it, and nobody disagrees about who that is
        ann.send('{"square": 4}')
        bob.send('{"square": 4}')
        seen = receive(onlooker, 1)
        first = json.loads(seen[0])["player"]
        winner, loser = (ann, bob) if first == "ann" else (bob, ann)
        for player, square in ((loser, 0), (winner, 1), (loser, 2), (winner, 7)):
            player.send(json.dumps({"square": square}))
            event = wait_for(lambda: _accepted(onlooker.recv(timeout=20), square))  # noqa: B023
            seen.append(event)
        game = play(seen)
        assert game.is_over()
        assert "".join(mark or "." for mark in game.squares) == "OXO.X..X."
        loser.send('{"square": 0}')
        assert json.loads(onlooker.recv(timeout=20)) == {
            "game": 2,
            "player": "bob" if first == "ann" else "ann",
            "square": 0,
        }
        loser.send('{"square": 1}')
        wait_for(lambda: "not your turn" in str(loser.recv(timeout=20)))
        loser.send("nonsense")
        wait_for(lambda: "not JSON" in str(loser.recv(timeout=20)))
        with app.open("/ws/t/late") as late:
            history = receive(late, 6)
            while json.loads(history[-1])["game"] == 1:
                history += receive(late, 1)
            assert play(history).squares == ["X", *[""] * 8]


def _accepted(event: str | bytes, square: int) -> str:
    return str(event) if json.loads(event)["square"] == square else ""


def test_logs_each_line_once_though_each_worker_follows_the_file(tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    with running("logs", tmp_path, "--workers", "2") as app, app.open("/ws") as reader:
        with file.open("a") as log:
            for number in range(50):
                log.write(f"line {number} <b>ä</b>\n")
                log.flush()
            log.write("half a line")
        assert receive(reader, 50) == [f"line {number} <b>ä</b>" for number in range(50)]
        with file.open("a") as log:
            log.write(", now whole\n")
        assert receive(reader, 1) == ["half a line, now whole"]
        file.write_text("after a truncation\n")
        assert receive(reader, 1) == ["after a truncation"]
        with pytest.raises(TimeoutError):
            reader.recv(timeout=0.5)
        with app.open("/ws") as late:
            assert receive(late, 52)[-1] == "after a truncation"


def test_jobs_show_all_steps_to_who_watches_and_to_who_comes_late(tmp_path: Path) -> None:
    with running("jobs", tmp_path) as app:
        job = app.http.post("/jobs").json()["job"]
        with app.open(f"/ws/{job}") as watcher:
            seen = [json.loads(watcher.recv(timeout=30))]
            while seen[-1]["status"] not in ("finished", "failed"):
                seen.append(json.loads(watcher.recv(timeout=30)))
        assert seen[-1] == {"status": "finished", "progress": 100}
        steps = {event["step"]: event for event in seen if "step" in event}
        assert [steps[name]["status"] for name in ("read", "hash", "verify")] == ["done", "done", "done"]
        with app.open(f"/ws/{job}") as late:
            assert [json.loads(text) for text in receive(late, len(seen))] == seen
        with pytest.raises(InvalidStatus):
            app.open("/ws/no-job").__enter__()


def test_a_job_ends_with_the_application_and_says_so(tmp_path: Path) -> None:
    with running("jobs", tmp_path) as app:
        jobs = [app.http.post("/jobs").json()["job"] for _ in range(4)]
        assert app.http.post("/jobs").status_code == 429
        children = Path(f"/proc/{app.process.pid}/task/{app.process.pid}/children").read_text().split()
        app.process.send_signal(signal.SIGTERM)
        app.process.wait(20)
        assert children
        assert not any(Path(f"/proc/{child}").exists() for child in children)
    with running("jobs", tmp_path) as app, app.open(f"/ws/{jobs[-1]}") as watcher:
        last = {}
        while last.get("status") not in ("failed", "finished"):
            last = json.loads(watcher.recv(timeout=20))
        assert last == {"status": "failed", "reason": "the server was stopped"}
