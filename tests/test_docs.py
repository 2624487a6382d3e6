"""What the pages say is true: links lead somewhere, programs run, tables are complete."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import itertools
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import BaseModel, SecretStr
from typer.main import get_command
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import tidewire
from clients.serving import connection_token, serving
from contract.serving import Server, until
from tidewire import CommandError, Disconnect, Limits, errors
from tidewire.cli import app as command_line
from tidewire.protocols import chat
from tidewire.server.namespaces import MapTable, Namespace
from tidewire.server.settings import Settings
from tidewire.testing import CommandRefused, Realtime

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted(DOCS.rglob("*.md"))
PAGES += [ROOT / "examples" / "README.md", ROOT / "deploy" / "README.md"]

pytestmark = pytest.mark.xdist_group("docs")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def program(page: str, number: int = 0) -> str:
    """Return a whole program of a page."""
    return blocks(ROOT / page, "python")[number]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_what_exists(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if found == DOCS / "bench" / "results.md":
            continue  # written by `make bench`
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_code_imports_from_here_exists(page: Path) -> None:
    """Also in the fragments, which are no programs and are not run."""
    for code in blocks(page, "py(?:thon)?"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tidewire":
                module = importlib.import_module(node.module or "")
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{node.module} has no {missing}"


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w*(?:\.py|/|\.js))`", text))
    source = ROOT / "src" / "tidewire"
    files = {path.name for path in source.rglob("*.py")}
    assert len(named) > 50
    assert not [name for name in named if not ((source / name).exists() or (ROOT / name).exists() or name in files)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_tests_that_exist(page: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / path).exists(), path
        assert f"def {name}" in (ROOT / path).read_text(), f"{path}::{name}"


def test_a_decision_is_short_and_says_what_else_was_considered() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    listed = (DOCS / "decisions" / "README.md").read_text()
    for page in pages:
        if page.name == "README.md":
            continue
        assert f"]({page.name})" in listed, f"{page.name} is not in decisions/README.md"
        text = page.read_text()
        assert len(text.splitlines()) <= 60, page.name
        heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences", "What else was considered"], page.name
        assert "\nStatus: " in text, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
    for block in blocks(page, "py"):
        compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT) if "except" not in block else None


def test_every_whole_program_is_one_of_those_that_are_run_below() -> None:
    run = {
        "README.md": 1,
        "docs/README.md": 1,
        "docs/tutorial/1-first-chat.md": 1,
        "docs/howto/authentication.md": 1,
        "docs/howto/browser.md": 1,
        "docs/howto/channel-rules.md": 2,
        "docs/howto/channels.md": 1,
        "docs/howto/ephemeral.md": 1,
        "docs/howto/streams.md": 1,
        "docs/howto/admin.md": 1,
        "docs/howto/listen.md": 2,
        "docs/howto/maps.md": 1,
        "docs/howto/observe.md": 1,
        "docs/howto/playground.md": 1,
        "docs/howto/polled-values.md": 1,
        "docs/howto/presence.md": 1,
        "docs/howto/recovery.md": 2,
        "docs/howto/python-client.md": 1,
        "docs/howto/slow-clients.md": 1,
        "docs/howto/state.md": 1,
        "docs/howto/transactions.md": 1,
        "docs/howto/events.md": 1,
        "docs/howto/typed-channels.md": 1,
        # in tests/test_doors.py
        **{f"docs/doors/{path.name}": 1 for path in (DOCS / "doors").glob("*.md") if path.name != "README.md"},
        "docs/howto/testing.md": 2,
    }
    found = {str(page.relative_to(ROOT)): len(blocks(page, "python")) for page in PAGES}
    assert {page: count for page, count in found.items() if count} == run


class App:
    """A program of a page, served by `tidewire run`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http: httpx.Client = server.http

    def open(self, path: str, **options: Any) -> contextlib.AbstractContextManager[ClientConnection]:
        return connect(self.server.url(path), proxy=None, open_timeout=20, **options)


@contextlib.contextmanager
def served(text: str, folder: Path, *, workers: int = 1) -> Iterator[App]:
    written = folder / "written"
    written.mkdir()
    (written / "app.py").write_text(text)
    run = folder / "run"
    run.mkdir()
    with Server(run, app=written / "app.py", workers=workers).running() as server:
        yield App(server)


def expect(socket: ClientConnection, text: str) -> None:
    """Receive until this text comes."""
    seen = []
    while not seen or seen[-1] != text:
        try:
            seen.append(socket.recv(timeout=15))
        except TimeoutError:
            raise AssertionError(f"no {text!r}; seen: {seen}") from None


def expect_after(act: Callable[[], object], socket: ClientConnection, text: str) -> None:
    """Do something again and again until its push comes: the handshake is over before the subscription is live."""
    for _ in range(30):
        act()
        with contextlib.suppress(TimeoutError):
            while socket.recv(timeout=0.5) != text:
                pass
            return
    raise AssertionError(f"no {text!r}")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/1-first-chat.md"])
def test_the_test_of_a_page_passes_beside_its_application(
    page: str, realtime: Realtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "app", ModuleType("app"))
    exec(compile(program(page), page, "exec"), vars(sys.modules["app"]))
    (test,) = [block for block in blocks(ROOT / page, "py") if "def test_chat" in block]
    names: dict[str, Any] = {}
    exec(compile(test, page, "exec"), names)
    names["test_chat"](realtime)


def test_readme_has_the_example_as_it_was_designed() -> None:
    lines = program("README.md").splitlines()
    assert lines[
        lines.index('hub = Hub("sqlite:///chat.db")            # memory:// redis:// postgresql:// nats://') :
    ] == [
        'hub = Hub("sqlite:///chat.db")            # memory:// redis:// postgresql:// nats://',
        "app = FastAPI(lifespan=hub.lifespan)      # or `async with hub:` inside your own lifespan",
        "",
        '@app.websocket("/ws/{client_id}")',
        "async def chat(websocket: WebSocket, client_id: int):",
        "    async with hub.connect(websocket, user=str(client_id)) as connection:",
        '        await connection.subscribe("lobby", history=100, leave=f"Client #{client_id} left the chat")',
        "        async for text in connection.iter_text():",
        '            await connection.publish("lobby", f"Client #{client_id} says: {text}")',
    ]


def test_readme_runs_with_two_workers_and_is_published_to_from_outside(tmp_path: Path) -> None:
    with served(program("README.md"), tmp_path, workers=2) as app, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(app.open(f"/ws/{client}")) for client in range(1, 6)]
        sockets[0].send("hello")
        for socket in sockets:
            expect(socket, "Client #1 says: hello")
        done = app.server.tidewire("publish", "lobby", '{"text": "hello"}', "--broker", "sqlite:///chat.db")
        assert done.returncode == 0, done.stderr
        with tidewire.Publisher(f"sqlite:///{app.server.folder}/chat.db") as publisher:
            publisher.publish("lobby", "from a script")
        for socket in sockets:
            expect(socket, '{"text":"hello"}')
            expect(socket, "from a script")
        sockets[4].close()
        expect(sockets[0], "Client #5 left the chat")


def test_the_first_page_of_the_documentation(tmp_path: Path) -> None:
    with served(program("docs/README.md"), tmp_path, workers=2) as app:
        with app.open("/ws/ann") as ann:
            ann.send("hello")
            expect(ann, "ann: hello")
        with app.open("/ws/bob") as bob:
            expect(bob, "ann: hello")
            expect(bob, "ann left the chat")


def test_a_broker_that_is_none_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(tidewire.ConfigurationError, match="not known; write memory://"):
        tidewire.Hub("mysql://localhost/x")
    with pytest.raises(tidewire.ConfigurationError, match=r"broker 'chat\.db' is not known"):
        tidewire.Hub("chat.db")
    with pytest.raises(tidewire.ConfigurationError, match=r"takes it in parentheses, as \('room:{room}'\)"):
        tidewire.Hub().channel(test_a_broker_that_is_none_says_what_to_write)  # type: ignore[arg-type]
    with pytest.raises(tidewire.ConfigurationError) as caught:
        tidewire.Hub(channels=tidewire.ChannelOptions())  # type: ignore[arg-type]
    assert len(str(caught.value)) < 150


def test_the_first_chat_survives_a_crash(tmp_path: Path) -> None:
    with served(program("docs/tutorial/1-first-chat.md"), tmp_path) as app:
        assert "new WebSocket" in app.http.get("/").text
        with app.open("/ws/1") as socket:
            socket.send("before the crash")
            expect(socket, "Client #1 says: before the crash")
            app.server.kill()
        app.server.start()
        with app.open("/ws/2") as socket:
            expect(socket, "Client #1 says: before the crash")
            expect(socket, "Client #1 left the chat")


def test_authentication(tmp_path: Path) -> None:
    with served(program("docs/howto/authentication.md"), tmp_path) as app:
        with pytest.raises(InvalidStatus, match="401"):
            app.open("/ws?token=wrong").__enter__()
        with pytest.raises(InvalidStatus, match="403"):
            app.open("/ws?token=s3cret", origin="https://evil.example").__enter__()
        cookie = {"Cookie": "session=s3cret"}
        with app.open("/ws?token=s3cret") as one, app.open("/ws", additional_headers=cookie) as two:
            for device in (one, two):
                expect_after(
                    lambda: app.http.post("/notify/ann", params={"text": "hello"}).raise_for_status(),
                    device,
                    '{"text":"hello"}',
                )


def test_channels(tmp_path: Path) -> None:
    with served(program("docs/howto/channels.md"), tmp_path) as app:
        with app.open("/ws") as several, app.open("/channels/room:1") as subscriber:
            subscriber.send("from a served protocol")
            expect(several, "from a served protocol")
            several.send("from an endpoint")
            expect(subscriber, "from an endpoint")
        with app.open("/channels/feed") as reader:
            reader.send("not allowed")
            assert "do not publish" in str(reader.recv(timeout=15))


def test_ephemeral(tmp_path: Path) -> None:
    with served(program("docs/howto/ephemeral.md"), tmp_path) as app:
        with app.open("/rooms/1/ann") as ann, app.open("/rooms/1/bob") as bob:
            ann.send("typing")
            assert json.loads(bob.recv(timeout=15)) == {"typing": "ann"}
            ann.send("hello")
            for socket in (ann, bob):
                assert json.loads(socket.recv(timeout=15)) == {"from": "ann", "text": "hello"}
        with app.open("/rooms/1/carl") as late:
            assert json.loads(late.recv(timeout=15)) == {"from": "ann", "text": "hello"}


def test_maps(tmp_path: Path) -> None:
    with served(program("docs/howto/maps.md"), tmp_path) as app:
        offset = app.http.put("/boards/1/notes/a", params={"text": "hello"}).json()
        with app.open("/boards/1/ann") as ann:
            assert json.loads(ann.recv(timeout=15)) == {"a": {"text": "hello"}}
            assert app.http.put("/boards/1/notes/a", params={"text": "new", "version": offset}).status_code == 200
            assert json.loads(ann.recv(timeout=15))["value"] == {"text": "new"}
            assert app.http.put("/boards/1/notes/a", params={"text": "late", "version": offset}).status_code == 409
            ann.send("a")
            change = json.loads(ann.recv(timeout=15))
            assert (change["key"], change["value"]) == ("editing:ann", "a")
            assert app.http.get("/boards/1").json() == {"a": {"text": "new"}, "editing:ann": "a"}
        deadline = time.monotonic() + 15
        while app.http.get("/boards/1").json() != {"a": {"text": "new"}}:
            assert time.monotonic() < deadline


def test_members_as_a_map(tmp_path: Path) -> None:
    """The rule of the page matched no channel with a colon, and its rules let nobody in."""
    page = "docs/howto/maps.md"
    (rules,) = [block for block in blocks(ROOT / page, "py") if "clients_map" in block]
    text = program(page) + rules + "app.include_router(hub.client_router(user=lambda: 'ann'))\n"
    with served(text, tmp_path) as app, app.open("/connection/websocket") as client:
        state = {"phase": 2, "limit": 10}
        replies = speak(
            client,
            {"connect": {}},
            {"subscribe": {"channel": "board:1", "type": 1, **state}},
            {"subscribe": {"channel": "here:board:1", "type": 2, **state}},
        )
        assert [entry["info"]["user"] for entry in replies[3]["subscribe"]["state"]] in ([], ["ann"])


def test_transactions(tmp_path: Path) -> None:
    with served(program("docs/howto/transactions.md"), tmp_path) as app:
        for what in ("tea", "coffee"):
            app.http.post("/shops/7", params={"what": what}).raise_for_status()

        async def published() -> list[Any]:
            async with tidewire.Hub(f"sqlite:///{app.server.folder}/messages.db") as hub:
                return [publication.json() for publication in (await hub.history("orders:7", limit=5)).publications]

        until(lambda: asyncio.run(published()) == [{"what": "tea"}, {"what": "coffee"}], what="both messages")


def test_polled_values(tmp_path: Path) -> None:
    with (
        served(program("docs/howto/polled-values.md"), tmp_path) as app,
        app.open("/connection/websocket") as client,
    ):
        for command in (
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "prices:eu", "type": 4}},
            {"id": 3, "sub_refresh": {"channel": "prices:eu", "type": 1, "track": [{"items": [{"key": "ACME"}]}]}},
        ):
            client.send(json.dumps(command))
            assert json.loads(client.recv(timeout=15))["id"] == command["id"]
        assert json.loads(client.recv(timeout=15))["push"]["pub"]["data"] == 10.5
        app.http.put("/prices/eu/ACME", params={"price": 11}).raise_for_status()
        assert json.loads(client.recv(timeout=15))["push"]["pub"]["data"] == 11


def test_streams(tmp_path: Path) -> None:
    with served(program("docs/howto/streams.md"), tmp_path) as app:
        assert app.http.post("/ask/1", json={"text": "why?"}).status_code == 202
        text, end = "", ""
        with app.http.stream("GET", "/ask/1", timeout=20) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    text = chunk["text"] if chunk.get("at") == 0 else text + chunk["text"]
                    end = chunk.get("end", "")
                    if end:
                        break
        assert (text, end) == ("You asked: why? I do not know. ", "done")


def speak(socket: ClientConnection, *commands: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Send commands of the Centrifuge protocol in one frame, and return the replies by their ids."""
    numbered = [{"id": number, **command} for number, command in enumerate(commands, 1)]
    socket.send("\n".join(map(json.dumps, numbered)))
    replies: dict[int, dict[str, Any]] = {}
    while len(replies) < len(commands):
        for message in map(json.loads, str(socket.recv(timeout=15)).splitlines()):
            if "id" in message:
                replies[message["id"]] = message
    return replies


def test_channel_rules(tmp_path: Path) -> None:
    with served(program("docs/howto/channel-rules.md"), tmp_path) as app:
        path = "/connection/websocket?session="
        with app.open(path + "s3cret") as host, app.open(path + "0ther") as guest, app.open(path) as nobody:
            order = {"rpc": {"method": "order", "data": {"symbol": "tea", "count": 2}}}
            publish = {"publish": {"channel": "room:1", "data": "hello"}}
            replies = speak(host, {"connect": {}}, {"subscribe": {"channel": "room:1"}}, publish, order)
            assert "error" not in str(replies)
            assert replies[4]["rpc"]["data"] == {"thanks": "ann"}
            replies = speak(
                guest,
                {"connect": {}},
                {"subscribe": {"channel": "room:1"}},
                publish,
                {"presence": {"channel": "room:1"}},
                {"subscribe": {"channel": "room:one"}},
                {"subscribe": {"channel": "room:100"}},
                {"rpc": {"method": "order", "data": {"symbol": "tea"}}},
            )
            assert [reply.get("error", {}).get("code") for _, reply in sorted(replies.items())] == [
                *(None, None, 103, None, 102, 103, 107)
            ]
            infos = replies[4]["presence"]["presence"].values()
            assert sorted((info["user"], info.get("chan_info")) for info in infos) == [
                ("ann", None),
                ("bob", {"role": "guest"}),
            ]
            replies = speak(
                nobody,
                {"connect": {}},
                {"subscribe": {"channel": "room:1"}},
                {"subscribe": {"channel": "price:tea"}},
                {"history": {"channel": "price:tea", "limit": 1}},
            )
            assert replies[2]["error"]["code"] == 103
            assert replies[4]["history"]["publications"][0]["data"] == {"sold": 2}
        key = {"X-API-Key": "a long random word"}
        body = {"channel": "room:1", "limit": 10}
        found = app.http.post("/api/history", json=body, headers=key).json()["result"]["publications"]
        assert [publication["data"] for publication in found] == ["hello"]


def test_admin(tmp_path: Path) -> None:
    with served(program("docs/howto/admin.md"), tmp_path, workers=2) as app:
        assert app.http.get("/admin").status_code == 403
        cookies = {"Cookie": "session=the session of an administrator"}
        assert "tidewire" in app.http.get("/admin", headers=cookies).text

        def nodes() -> int:
            return len(app.http.post("/admin/api/status", json={}, headers=cookies).json()["result"]["nodes"])

        until(lambda: nodes() == 2, what="both workers")


def test_playground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    with served(program("docs/howto/playground.md"), tmp_path, workers=2) as app:
        assert "room:demo" in app.http.get("/playground").text
        with app.open("/playground/connection?user=ann") as socket:
            speak(socket, {"connect": {}}, {"subscribe": {"channel": "room:demo"}})
            app.http.post("/playground/api/cut", json={"user": "ann", "seconds": 0.2}).raise_for_status()
            with pytest.raises(ConnectionClosed, match="no close frame"):
                socket.recv(timeout=15)


def test_observe(tmp_path: Path) -> None:
    with served(program("docs/howto/observe.md"), tmp_path, workers=2) as app:
        assert app.http.get("/metrics").status_code == 401
        key = {"Authorization": "Bearer a long random word"}
        until(lambda: app.http.get("/metrics", headers=key).text.count("tidewire_node_info{") == 2, what="both workers")
        ready = app.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"degraded": False})


def test_presence(tmp_path: Path) -> None:
    with served(program("docs/howto/presence.md"), tmp_path, workers=2) as app, app.open("/rooms/a/ann") as ann:
        expect(ann, '{"type":"join","user":"ann"}')
        with app.open("/rooms/a/bob") as bob, app.open("/rooms/a/bob") as tab:
            expect(ann, '{"type":"join","user":"bob"}')
            with tidewire.Publisher(f"sqlite:///{app.server.folder}/rooms.db") as publisher:
                for device in (bob, tab):
                    expect_after(lambda: publisher.publish("room:a", "both are in"), device, "both are in")
            assert app.http.get("/rooms/a").json() == ["ann", "bob"]
            assert app.http.get("/online/bob").json() is True
            tab.close()
            bob.close()
            events = [ann.recv(timeout=15)]
            while events[-1] == "both are in":
                events.append(ann.recv(timeout=15))
            assert events[-1] == '{"type":"leave","user":"bob"}'
        assert app.http.get("/rooms/a").json() == ["ann"]


def test_events(realtime: Realtime, capsys: pytest.CaptureFixture[str]) -> None:
    module: dict[str, Any] = {"__name__": "events"}
    exec(compile(program("docs/howto/events.md"), "app.py", "exec", dont_inherit=True), module)
    with realtime(module["app"]) as rt:
        ann = rt.connect("/ws/1/ann")
        rt.advance(2)
        ann.close()
        rt.advance(20)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("ann joined room 1")
    assert said[1:] == ["ann is offline"]


def test_typed_channels(realtime: Realtime) -> None:
    module: dict[str, Any] = {"__name__": "typed_channels"}
    exec(compile(program("docs/howto/typed-channels.md"), "main.py", "exec", dont_inherit=True), module)
    with realtime(module["app"]) as rt:
        ann = rt.subscriber("room:1", path="/connection/websocket", params={"user": "ann"}, name="ann")
        ann.publish({"text": "hello"})
        ann.expect({"type": "said", "sender": "ann", "text": "hello"})
        with pytest.raises(CommandRefused):
            ann.publish({"text": ""})


def test_listening_in_a_route(tmp_path: Path) -> None:
    def events(app: App, count: int, **headers: str) -> list[tuple[str, str]]:
        with app.http.stream("GET", "/news", headers=headers) as stream:
            fields = [
                line.partition(": ")[2] for line in itertools.islice(filter(None, stream.iter_lines()), 2 * count)
            ]
        return list(zip(fields[::2], fields[1::2], strict=True))

    with served(program("docs/howto/listen.md"), tmp_path) as app:
        for text in ("one", "two", "three"):
            app.http.post("/news", params={"text": text}).raise_for_status()
        found = events(app, 3)
        assert [json.loads(data)["text"] for data, _ in found] == ["one", "two", "three"]
        assert events(app, 2, **{"Last-Event-ID": found[0][1]}) == found[1:]


def test_storing_publications_in_a_database(tmp_path: Path) -> None:
    with served(program("docs/howto/listen.md"), tmp_path) as app:
        folder = app.server.folder
        (folder / "archive.py").write_text(program("docs/howto/listen.md", 1))

        def stored() -> list[str]:
            with (
                contextlib.suppress(sqlite3.OperationalError),
                contextlib.closing(sqlite3.connect(folder / "archive.db")) as database,
            ):
                return [json.loads(text)["text"] for (text,) in database.execute("SELECT text FROM news")]
            return []

        texts = [str(number) for number in range(6)]
        for half in (texts[:3], texts[3:]):
            for text in half:
                app.http.post("/news", params={"text": text}).raise_for_status()
            expected = texts[: texts.index(half[-1]) + 1]
            with subprocess.Popen([sys.executable, "archive.py"], cwd=folder) as process:
                try:
                    until(lambda expected=expected: len(stored()) >= len(expected), 20, what="all stored")
                finally:
                    process.kill()
            assert stored() == expected


def test_a_state_joined_with_the_stream(tmp_path: Path) -> None:
    with served(program("docs/howto/state.md"), tmp_path) as app:
        app.http.post("/shops/7", params={"what": "tea"}).raise_for_status()
        with app.open("/shops/7/live") as socket:
            expect(socket, '{"orders":["tea"]}')
            app.http.post("/shops/7", params={"what": "cake"}).raise_for_status()
            expect(socket, "cake")
        found = app.http.get("/shops/7").json()
        assert found["orders"] == ["tea", "cake"]
        assert found["position"].endswith(":2")


def test_recovery_in_an_endpoint_of_ones_own(tmp_path: Path) -> None:
    page = program("docs/howto/recovery.md")
    with served(page, tmp_path) as app:
        with app.open("/ws/tea/ann") as ann, app.open("/ws/tea/bob") as bob:
            answers = [json.loads(bob.recv(timeout=15)) for _ in range(3)]  # history: ann has joined
            assert answers[0]["recovered"] is False
            assert [one["data"] for one in answers[1:]] == [{"joined": "ann"}, {"joined": "bob"}]
            ann.send('{"id": "1", "text": "one"}')
            heard = json.loads(bob.recv(timeout=15))
            assert heard["data"] == {"user": "ann", "id": "1", "text": "one"}
        with app.open(f"/ws/tea/bob?since={heard['position']}") as socket:
            assert json.loads(socket.recv(timeout=15))["recovered"] is True
            missed = [json.loads(socket.recv(timeout=15))["data"] for _ in range(2)]
            assert {"left": "ann"} in missed
            assert {"left": "bob"} in missed
        with app.open("/ws/tea/bob?since=another:1") as socket:
            assert json.loads(socket.recv(timeout=15))["recovered"] is False
    (tmp_path / "test_recovery.py").write_text(page)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_recovery.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_recovery_with_the_python_client(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(program("docs/howto/recovery.md", 1))
    with Server(tmp_path, broker=f"sqlite:///{tmp_path}/tidewire.db").running() as server:
        server.sign_up("ann")
        token = server.tidewire("token", "ann").stdout.strip()
        command = [sys.executable, "client.py", server.url("/ws/auth"), token]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == "ann: hello\n", done.stderr


def test_python_client(tmp_path: Path) -> None:
    (tmp_path / "subscribe.py").write_text(program("docs/howto/python-client.md"))
    with serving(tmp_path) as service:
        command = [sys.executable, "subscribe.py", service.websocket, connection_token("ann")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == "hello\n", done.stderr


@pytest.mark.parametrize(
    ("page", "number"), [("testing", 0), ("testing", 1), ("channel-rules", 1), ("slow-clients", 0)]
)
def test_the_tests_of_a_program_pass(page: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "test_chat.py").write_text(program(f"docs/howto/{page}.md", number))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realtime: Realtime) -> None:
    page = tmp_path / "page" / "index.html"
    page.parent.mkdir()
    page.write_text(blocks(DOCS / "howto" / "browser.md", "html")[0])
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(program("docs/howto/browser.md"), made)
    with realtime(made["app"]) as rt:
        assert 'from "/connection/tidewire.js"' in rt.http.get("/").text
        assert rt.http.get("/connection/tidewire.js").status_code == 200
        reader = rt.subscriber("news:1", path="/connection/websocket")
        reader.publish({"text": "hello"})
        reader.expect({"text": "hello"})


def test_the_page_of_nginx_shows_what_is_shipped() -> None:
    assert blocks(DOCS / "howto" / "nginx.md", "nginx") == [(ROOT / "deploy" / "nginx.conf").read_text()]


# Reference pages are complete.


def rows(page: str) -> dict[str, list[str]]:
    """Return the rows of a page's tables by the names in their first cell."""
    found = {}
    for line in (DOCS / "reference" / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for name in re.findall(r"`([^`]+)`", cells[0]) if cells else ():
            found[name] = cells
    return found


def defaults(path: str, table: BaseModel) -> dict[str, object]:
    """Return the settings of a table and of those in it, by their dotted names."""
    found: dict[str, object] = {}
    for name in type(table).model_fields:
        value = getattr(table, name)
        found |= defaults(f"{path}{name}.", value) if isinstance(value, BaseModel) else {path + name: value}
    return found


def test_every_setting_and_limit_is_listed_with_its_default() -> None:
    listed = rows("settings.md")
    expected: dict[str, object] = {
        name: value for name, value in defaults("", Settings()).items() if not name.startswith("channel.")
    }
    del expected["limits"]
    expected |= {field.name: field.default for field in msgspec.structs.fields(Limits)}
    expected |= defaults("", Namespace()) | defaults("map.", MapTable())
    for name, default in expected.items():
        assert name in listed, f"{name} is not in settings.md"
        if default is None:
            shown = "by itself"
        elif default in ("", []) or isinstance(default, SecretStr):
            shown = ""
        elif isinstance(default, list):
            shown = ", ".join(f"`{item}`" for item in default)
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        else:
            shown = f"`{default:.10g}`" if isinstance(default, float) else f"`{default}`"
        assert listed[name][1] == shown, f"{name} has the default {shown}"
    names = {name for name in listed if re.fullmatch(r"[a-z_.]+", name) and "=" not in name}
    assert names == set(expected)


def _cell(text: str) -> str:
    return f" {text} " if text else " "


def test_every_close_code_and_error_code_is_listed() -> None:
    text = (DOCS / "reference" / "codes.md").read_text()
    listed = [line.split("|") for line in text.splitlines()]
    for name, value in vars(errors).items():
        if isinstance(value, Disconnect):
            found = [
                cells[3]
                for cells in listed
                if len(cells) > 3 and cells[1:3] == [f" {value.code} ", _cell(value.reason)]
            ]
            assert found, f"{name} is not in codes.md: {value.code} {value.reason!r}"
            assert found[0].strip().startswith("yes" if value.reconnect else "no"), f"{name} in codes.md"
    for error in CommandError.__subclasses__():
        if error.__module__ == errors.__name__:
            assert f"| `{error.code}` | `{error.__name__}` |" in text


def test_every_type_of_the_chat_dialect_is_listed() -> None:
    text = (DOCS / "reference" / "chat-dialect.md").read_text()
    for value in vars(chat).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_config__.tag:
            tag = str(value.__struct_config__.tag)
            if tag.startswith("_"):
                continue
            assert f'"type": "{tag}"' in text, f"{tag} is not in chat-dialect.md"


def test_every_command_is_listed() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    for name, command in get_command(command_line).commands.items():  # type: ignore[attr-defined]
        for path in [f"{name} {inner}" for inner in getattr(command, "commands", ())] or [name]:
            assert f"`tidewire {path}" in text, f"{path} is not in command-line.md"


def test_every_verb_of_the_api_is_listed() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    for class_ in (tidewire.Hub, tidewire.HubConnection, tidewire.Publisher):
        verbs = {name for name in vars(class_) if not name.startswith("_")} - {
            "node",
            "connection",
            "serve",
            "send",
            "id",
        }
        for verb in verbs - {"user"}:
            assert re.search(rf"`{verb}[`(]", text), f"{class_.__name__}.{verb} is not in api.md"


def test_troubleshooting_has_the_words_that_people_search_for() -> None:
    text = (DOCS / "howto" / "troubleshooting.md").read_text()
    for word in ("1006", "403", "pings", "reload hangs", "Messages come twice", "works with one worker only"):
        assert word in text
