"""The module for browsers, under Node and against the real server: cuts, restarts, tokens that end."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.serving import Cuttable, Service, connection_token, serving, subscription_token
from interop.sdk import node_modules
from requirements import require

pytestmark = pytest.mark.xdist_group("clients")

MODULE = Path(__file__).parents[2] / "src" / "tidewire" / "server" / "ui" / "tidewire.js"
DRIVER = Path(__file__).parent / "drive.mjs"


@pytest.fixture(scope="module", autouse=True)
def node() -> None:
    require(shutil.which("node"), "apt-get install nodejs")


@functools.cache
def _node_version() -> int:
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.removeprefix("v").partition(".")[0])


def _websocket_flags() -> list[str]:
    """Node 20 has a WebSocket behind this flag, later ones have it anyway."""
    return ["--experimental-websocket"] if 20 <= _node_version() < 22 else []


def _websocket_package() -> str:
    """Return where a WebSocket is for a Node that has none (Debian 12 has version 18)."""
    return "" if _node_version() >= 20 else str(node_modules() / "node_modules" / "ws" / "wrapper.mjs")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = {"ping_seconds": 1, "protocol_pong_seconds": 1}
    with serving(tmp_path_factory.mktemp("service"), limits=limits) as service:
        yield service


class Script:
    """A running program that uses the module."""

    def __init__(self, url: str, body: str) -> None:
        command = ["node", *_websocket_flags(), "--no-warnings", str(DRIVER), str(MODULE), url, _websocket_package()]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.tell(body)

    def tell(self, value: Any = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def said(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended: {self.errors()}"
        return json.loads(line)

    def errors(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(15)
        return self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def script(url: str, body: str) -> Iterator[Script]:
    running = Script(url, body)
    try:
        yield running
    finally:
        running.close()


def test_it_is_small() -> None:
    assert len(gzip.compress(MODULE.read_bytes(), 9)) <= 10_240
    assert not re.findall(r"^import ", MODULE.read_text(), re.MULTILINE)


def test_back_off_is_full_jitter_under_a_cap_and_some_codes_end_it(service: Service) -> None:
    body = """
        say([0, 1].map((draw) => Array.from({ length: 8 }, (_, attempt) => m.delay(attempt, () => draw))));
        say([1000, 1006, 1009, 1012, 3001, 3499, 3500, 3999, 4000, 4499, 4500, 4999].filter(m.isFinal));
    """
    with script(service.websocket, body) as running:
        assert running.said() == [[0] * 8, [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]]
        assert running.said() == [1009, 3500, 3999, 4500, 4999]


def test_what_a_client_asks_for(service: Service) -> None:
    body = """
        const { token } = await told();
        const client = m.connect(url.replace("ws:", "http:"), { token });
        const room = client.subscribe("news:js");
        const events = [];
        room.on("publication", ({ data, offset, info }) => events.push([data, offset, info?.user, info?.connInfo]));
        const joined = await new Promise((resolve) => room.on("join", resolve));
        say([joined.user, joined.client === client.id]);
        await client.publish("news:js", { n: 1 });
        await room.publish("two");
        await until(() => events.length === 2);
        say(events);
        say((await room.presence()).map(({ user, connInfo }) => [user, connInfo]));
        say(await room.presenceStats());
        const { publications, position } = await room.history({ limit: 1, reverse: true });
        say([publications.map(({ data }) => data), position.offset, position.epoch === room.position.epoch]);
        const attempts = [client.rpc("x", 1), client.publish("nowhere:1", 1), client.publish("secret:1", 1)];
        const refused = attempts.map((one) => one.catch(({ name, code, temporary }) => [name, code, temporary]));
        for (const refusal of refused) say(await refusal);
        const secret = client.subscribe("secret:1");
        say(await new Promise((resolve) => secret.on("unsubscribed", resolve)));
        say([secret.state, client.subscribe("news:js") === room]);
        room.unsubscribe();
        say([room.state, await client.presenceStats("news:js").catch((error) => error.code)]);
        client.disconnect();
        say([client.state, await client.publish("news:js", 1).catch(({ code }) => code)]);
    """
    with script(service.websocket, body) as running:
        running.tell({"token": connection_token("ann", info={"name": "Ann"})})
        assert running.said() == ["ann", True]
        info = {"name": "Ann"}
        assert running.said() == [[{"n": 1}, 1, "ann", info], ["two", 2, "ann", info]]
        assert running.said() == [["ann", info]]
        assert running.said() == {"clients": 1, "users": 1}
        assert running.said() == [["two"], 2, True]
        assert running.said() == ["TidewireError", 108, False]
        assert running.said() == ["TidewireError", 102, False]
        assert running.said() == ["TidewireError", 103, False]
        assert running.said() == {"code": 103, "reason": "permission denied"}
        assert running.said() == ["unsubscribed", True]
        assert running.said() == ["unsubscribed", 103]
        assert running.said() == ["disconnected", 11]


FOLLOW = """
    const client = m.connect(url, { data: { any: 1 } });
    const { channel, since } = await told();
    const room = client.subscribe(channel, ({ data }) => say(data.n), { since });
    room.on("subscribed", ({ wasRecovering, recovered, position }) => say([wasRecovering, recovered, position]));
    await new Promise(() => {});
"""


@pytest.mark.parametrize("channel", ["news:cut-js", "asked:cut-js"])
def test_a_cut_costs_nothing(service: Service, channel: str) -> None:
    with (
        Cuttable(service.server.port) as relay,
        script(f"ws://127.0.0.1:{relay.port}/connection/websocket", FOLLOW) as running,
    ):
        running.tell({"channel": channel})
        assert running.said()[:2] == [False, False]
        for number in range(0, 12, 3):
            service.publish(channel, number)
            relay.is_cut = True
            relay.cut()
            service.publish(channel, number + 1, number + 2)
            relay.is_cut = False
            seen = [running.said() for _ in range(4)]
            assert [value for value in seen if not isinstance(value, list)] == [number, number + 1, number + 2]
            assert [value[:2] for value in seen if isinstance(value, list)] == [[True, True]]


def test_more_than_is_kept_is_told_and_positions_may_be_given(service: Service) -> None:
    service.publish("short:js", 1)
    with (
        Cuttable(service.server.port) as relay,
        script(f"ws://127.0.0.1:{relay.port}/connection/websocket", FOLLOW) as running,
    ):
        running.tell({"channel": "short:js"})
        _, _, position = running.said()
        relay.is_cut = True
        relay.cut()
        service.publish("short:js", 2, 3, 4)
        relay.is_cut = False
        assert running.said()[:2] == [True, False]
        service.publish("short:js", 5)
        assert running.said() == 5
    with script(service.websocket, FOLLOW) as running:
        running.tell({"channel": "short:js", "since": {**position, "offset": 3}})
        assert running.said()[:2] == [True, True]
        assert [running.said(), running.said()] == [4, 5]


def test_a_fresh_state_is_no_recovery_and_a_lost_connection_says_so(service: Service) -> None:
    body = """
        const client = m.connect(url);
        client.on("connecting", ({ reason }) => say(reason));
        const room = client.subscribe("short:state", async ({ data }) => {
            client.disconnect();
            say(data.n);
            await told();
            client.connect();
        }, { getState: () => told() });
        room.on("subscribed", ({ wasRecovering, recovered }) => say([wasRecovering, recovered]));
        await new Promise(() => {});
    """

    def position() -> dict[str, Any]:
        return {key: service.api("history", channel="short:state").get(key, 0) for key in ("offset", "epoch")}

    service.publish("short:state", 1)
    with (
        Cuttable(service.server.port) as relay,
        script(f"ws://127.0.0.1:{relay.port}/connection/websocket", body) as running,
    ):
        running.tell(position())
        assert running.said() == [False, True]
        relay.cut()
        assert [running.said(), running.said()] == ["connection lost", [True, True]]
        service.publish("short:state", 2)
        assert running.said() == 2
        service.publish("short:state", 3, 4, 5)  # one more than is kept
        running.tell()
        running.tell(position())
        assert [running.said(), running.said()] == ["connect called", [False, True]]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_restart_costs_nothing(tmp_path: Path, workers: int) -> None:
    limits = {"drain_seconds": 0.5}
    with (
        serving(tmp_path, workers=workers, limits=limits) as service,
        script(service.websocket, FOLLOW) as running,
    ):
        running.tell({"channel": "news:restart"})
        assert running.said()[:2] == [False, False]
        service.publish("news:restart", 1)
        assert running.said() == 1
        service.server.kill()
        service.server.start()
        service.publish("news:restart", 2)
        seen = [running.said(), running.said()]
        assert 2 in seen
        service.server.stop()
        service.server.start()
        service.publish("news:restart", 3)
        seen = [running.said(), running.said()]
        assert 3 in seen
        assert [value[:2] for value in seen if isinstance(value, list)] == [[True, True]]


def test_tokens_are_fetched_and_refreshed(service: Service) -> None:
    body = """
        const getToken = (channel = "") => { say(["token", channel]); return told(); };
        const client = m.connect(url, { getToken: () => getToken() });
        await client.ready();
        const secret = client.subscribe("secret:js", ({ data }) => say(data.n), { getToken });
        client.on("connecting", ({ code }) => say(["connecting", code]));
        secret.on("subscribed", () => say("subscribed"));
        await new Promise(() => {});
    """

    asked: list[str] = []

    def said(running: Script) -> Any:
        """Return what is said beside questions for tokens, which are answered."""
        while isinstance(said := running.said(), list) and said[0] == "token":
            channel = str(said[1])
            asked.append(channel)
            token = subscription_token("ann", channel, seconds=2) if channel else connection_token("ann", seconds=2)
            running.tell(token)
            if len(asked) == 8:
                service.publish("secret:js", 1)
        return said

    with script(service.websocket, body) as running:
        assert [said(running), said(running)] == ["subscribed", 1]
        assert asked[:2] == ["", "secret:js"]
        assert min(asked.count(""), asked.count("secret:js")) >= 2


def test_an_expired_token_is_fetched_anew_and_none_ends_it(service: Service) -> None:
    body = """
        const tokens = await told();
        const client = m.connect(url, { getToken: () => tokens.shift() });
        client.on("connecting", ({ code }) => say(code));
        client.on("disconnected", (value) => say(value));
        client.on("connected", () => { say("connected"); client._lost(3014, "state invalidated"); });
        await new Promise(() => {});
    """
    with script(service.websocket, body) as running:
        running.tell([connection_token("ann", seconds=-10), connection_token("ann"), ""])
        assert running.said() == 109
        assert running.said() == "connected"
        assert running.said() == 3014
        assert running.said() == {"code": 101, "reason": "there is no token for this user"}
    with script(service.websocket, body) as running:
        running.tell(["nonsense"])
        assert running.said() == {"code": 3500, "reason": "invalid token"}


def test_without_an_address_it_connects_to_the_server_of_the_page(service: Service) -> None:
    body = """
        globalThis.location = { href: url.replace("ws:", "http:") };
        m.connect().on("connected", () => say("connected"));
        await new Promise(() => {});
    """
    with script(service.websocket.replace("/connection/websocket", "/a/page"), body) as running:
        assert running.said() == "connected"


def test_a_text_that_ended_while_nothing_was_recovered_is_told_of_its_end(service: Service) -> None:
    body = """
        const history = [
            { stream: "new", text: "another", at: 0 },
            { stream: "old", text: "-text", at: 3, end: "done" },
            { stream: "oldest", text: "was before", at: 0, end: "done" },
        ];
        const listeners = {};
        const room = {
            on: (event, listener) => (listeners[event] = listener),
            history: async () => ({ publications: history.map((data) => ({ data })) }),
        };
        m.readTexts(room, ({ stream, text, end }) => say([stream, text, end]));
        listeners.publication({ data: { stream: "old", text: "one-te", at: 0 } });
        listeners.subscribed({ wasRecovering: true, recovered: false });
        await new Promise(() => {});
    """
    with script(service.websocket, body) as running:
        assert running.said() == ["old", "one-te", ""]
        assert running.said() == ["old", "one-text", "done"]
        assert running.said() == ["new", "another", ""]


def test_what_the_server_does_by_itself(service: Service) -> None:
    body = """
        const client = m.connect(url, { token: await told() });
        for (const event of ["subscribed", "unsubscribed", "publication", "message"])
          client.on(event, ({ channel, data, code }) => say([event, channel, data ?? code]));
        const room = client.subscribe("news:forced");
        room.on("subscribed", () => say("room"));
        room.on("unsubscribed", ({ code }) => say(["room", code]));
        client.on("disconnected", ({ code }) => say(["disconnected", code]));
        await new Promise(() => {});
    """
    with script(service.websocket, body) as running:
        running.tell(connection_token("eve"))
        assert {json.dumps(running.said()) for _ in range(2)} == {'["subscribed", "#eve", null]', '"room"'}
        service.publish("#eve", 1)
        assert running.said() == ["publication", "#eve", {"n": 1}]
        service.api("subscribe", user="eve", channel="secret:forced")
        assert running.said() == ["subscribed", "secret:forced", None]
        service.publish("secret:forced", 2)
        assert running.said() == ["publication", "secret:forced", {"n": 2}]
        service.api("unsubscribe", user="eve", channel="secret:forced")
        assert running.said() == ["unsubscribed", "secret:forced", 2000]
        service.api("unsubscribe", user="eve", channel="news:forced")
        assert running.said() == ["room", 2000]
        service.api("disconnect", user="eve")
        assert running.said() == ["disconnected", 3503]


def test_pings_are_answered_and_their_absence_is_noticed(service: Service) -> None:
    body = """
        const client = m.connect(url);
        client.on("connected", ({ client }) => say("connected"));
        client.on("connecting", ({ code, reason }) => say([code, reason]));
        await new Promise(() => {});
    """
    with script(service.websocket, body) as running:
        assert running.said() == "connected"
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(4.5)  # over two pings and their deadlines
        service.api("disconnect", user="", disconnect={"code": 3011, "reason": "force reconnect"})
        assert running.said() == [3011, "force reconnect"]
        assert running.said() == "connected"


@pytest.mark.parametrize("channel", ["board:js", "brief:js", "fleeting:js"])
def test_a_map_has_its_entries_whatever_was_missed(service: Service, channel: str) -> None:
    many = {f"k{number:04}": number for number in range(1_001)} if channel == "board:js" else {"k": 1}
    service.set(channel, **many, a={"x": 1}, b=2)
    body = f"""
        const client = m.connect(url);
        const told_ = [];
        let shown;
        const board = client.map("{channel}", (entries, keys) => {{ shown = entries; told_.push(keys); }});
        await until(() => shown);
        say([shown.size, shown.get("a"), told_.map((keys) => keys.length)]);
        await told();
        await until(() => shown.get("e") === 6 && !shown.has("a"));
        say([shown.size, shown.get("b"), told_.slice(1).flat().sort()]);
        const refused = await board.set("f", 7).then(() => 0, (error) => error.code);
        if (!refused) await until(() => shown.get("f") === 7);
        if (!refused) await board.remove("f");
        await until(() => !shown.has("f"));
        say(refused);
    """
    with (
        Cuttable(service.server.port) as relay,
        script(f"ws://127.0.0.1:{relay.port}/connection/websocket", body) as running,
    ):
        size = len(many) + 2
        assert running.said() == [size, {"x": 1}, [size]]
        relay.refuse()
        service.set(channel, a=None, b=3, c=4, d=5, e=6)
        relay.admit()
        running.tell()
        assert running.said() == [size + 2, 3, list("abcde")]
        assert running.said() == (0 if channel == "board:js" else 103)
