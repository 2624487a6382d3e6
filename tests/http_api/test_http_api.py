"""The HTTP API of a real server, over two workers, with a client that speaks the protocol by hand."""

from __future__ import annotations

import contextlib
import gzip
import html
import importlib.util
import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import requirements
from server.live_server import LiveServer, wait_for
from tidewire.http_api.calls import METHODS

pytestmark = pytest.mark.xdist_group("http-api")

CONFIG = """
[client]
insecure = true
[client.token]
hmac_secret_key = "a secret that is long enough for SHA-256"
[http_api]
key = "the key"
[channel.without_namespace]
presence = true
history_size = 100
history_ttl = "300s"
force_recovery = true
[[channel.namespaces]]
name = "bare"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "tidewire.toml").write_text(CONFIG)
    with LiveServer(folder, "--workers", "2") as server:
        yield server


class Api:
    """Calls methods of the API; `call` returns the result, `error` the number of the error."""

    def __init__(self, server: LiveServer, **headers: str) -> None:
        self._client = httpx.Client(base_url=server.url + "/api", headers=headers, timeout=20)

    def post(self, method: str, body: object = None, /, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes | str) else json.dumps(body or {})
        return self._client.post(f"/{method}", content=content, **options)

    def call(self, method: str, /, **fields: Any) -> dict[str, Any]:
        answer = self.post(method, fields)
        assert answer.status_code == 200, answer.text
        assert "result" in answer.json(), answer.text
        result: dict[str, Any] = answer.json()["result"]
        return result

    def error(self, method: str, /, **fields: Any) -> int:
        answer = self.post(method, fields)
        assert answer.status_code == 200
        code: int = answer.json()["error"]["code"]
        return code


@pytest.fixture
def api(server: LiveServer) -> Api:
    return Api(server, **{"X-API-Key": "the key"})


@pytest.fixture
def channel() -> str:
    return f"c{uuid.uuid4().hex}"


class Client:
    """Speaks JSON of the Centrifuge protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._id = 0
        self.pushes: list[dict[str, Any]] = []
        self.id: str = ""

    def ask(self, **command: Any) -> dict[str, Any]:
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, **command}))
        while (reply := self._next()).get("id") != self._id:
            pass
        return reply

    def _next(self) -> dict[str, Any]:
        for line in str(self._socket.recv(timeout=20)).splitlines():
            message: dict[str, Any] = json.loads(line)
            if "push" in message:
                self.pushes.append(message["push"])
        return message

    def push(self, kind: str) -> dict[str, Any]:
        """Wait for a push of this kind."""
        while True:
            for push in self.pushes:
                if kind in push:
                    self.pushes.remove(push)
                    return push
            self._next()

    def closed(self) -> tuple[int, str]:
        """Wait for the end, and return the server's code and reason."""
        try:
            while True:
                self._next()
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                raise
            return closed.rcvd.code, closed.rcvd.reason


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with connect(server.websocket_url + "/connection/websocket", proxy=None) as socket:
        client = Client(socket)
        client.id = client.ask(connect={})["connect"]["client"]
        yield client


# Who may call.


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"X-API-Key": "the key"}, "", 200),
        ({"Authorization": "apikey the key"}, "", 200),
        ({}, "?api_key=the+key", 200),
        ({"X-API-Key": "wrong"}, "?api_key=the+key", 200),
        ({}, "", 401),
        ({"X-API-Key": "wrong"}, "", 401),
        ({"X-API-Key": ""}, "", 401),
        ({"X-API-Key": "wrong", "Authorization": "apikey the key"}, "", 401),
        ({"Authorization": "Bearer the key"}, "", 401),
        ({"X-API-Key": "thé key"}, "", 401),
    ],
)
def test_the_key(server: LiveServer, headers: dict[str, str], query: str, status: int) -> None:
    raw = {name: value.encode() for name, value in headers.items()}
    answer = httpx.post(f"{server.url}/api/info{query}", headers=raw, content="{}", timeout=20)
    assert answer.status_code == status
    assert status == 200 or answer.content == b""


def test_without_a_key_the_api_is_off(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        answer = server.post("/api/publish", json={"channel": "a", "data": 1})
        assert answer.status_code == 404
        assert "http_api.key" in answer.json()["detail"]
        assert server.get("/openapi.json").status_code == 404
        assert "The HTTP API is off" in server.get("/docs").text


def test_an_insecure_api_wants_no_key(tmp_path: Path) -> None:
    with LiveServer(tmp_path, TIDEWIRE_HTTP_API__INSECURE="true") as server:
        assert server.post("/api/publish", json={"channel": "a", "data": 1}).json() == {"result": {}}
        # a page of another site could call it in the name of whoever looks at it
        foreign = {"Origin": "https://evil.example"}
        assert server.post("/api/publish", json={"channel": "a", "data": 1}, headers=foreign).status_code == 403
        own = {"Origin": server.url}
        assert server.post("/api/publish", json={"channel": "a", "data": 1}, headers=own).status_code == 200


def test_other_verbs_and_methods(api: Api, server: LiveServer) -> None:
    assert server.get("/api/publish").status_code == 405
    assert api.post("connections").status_code == 404


# Publishing.


def test_a_publication_reaches_subscribers_as_it_was_written(api: Api, client: Client, channel: str) -> None:
    client.ask(subscribe={"channel": channel})
    text = '{"one": 1.0, "big": 12345678901234567890.10, "twice": 1, "twice": 2, "escape": "\\u00e9", "é": null}'
    answer = api.post("publish", f'{{"channel": "{channel}", "data": {text}, "tags": {{"kind": "news"}}}}'.encode())
    assert answer.json()["result"]["offset"] == 1
    push = client.push("pub")
    assert push["pub"]["data"]["one"] == 1
    assert push["pub"]["tags"] == {"kind": "news"}
    assert "info" not in push["pub"]
    history = api.post("history", {"channel": channel, "limit": 1}).text
    assert text in history


def test_what_a_client_publishes_says_who_it_was(api: Api, client: Client, channel: str) -> None:
    client.ask(publish={"channel": channel, "data": [1]})
    [publication] = api.call("history", channel=channel, limit=10)["publications"]
    assert publication == {"data": [1], "offset": 1, "info": {"user": "", "client": client.id}}


def test_a_channel_without_history_has_no_position_to_tell(api: Api) -> None:
    assert api.call("publish", channel="bare:1", data=1) == {}


def test_what_skips_history_is_for_who_is_there(api: Api, client: Client, channel: str) -> None:
    client.ask(subscribe={"channel": channel})
    assert api.call("publish", channel=channel, data="now", skip_history=True) == {}
    api.call("publish", channel=channel, data="kept")
    assert [client.push("pub")["pub"]["data"] for _ in range(2)] == ["now", "kept"]
    assert [found["data"] for found in api.call("history", channel=channel, limit=-1)["publications"]] == ["kept"]


def test_the_same_key_is_published_once(api: Api, channel: str) -> None:
    first = api.call("publish", channel=channel, data=1, idempotency_key="k")
    assert api.call("publish", channel=channel, data=2, idempotency_key="k") == first
    assert api.call("publish", channel=channel, data=3)["offset"] == 2
    assert [found["data"] for found in api.call("history", channel=channel, limit=-1)["publications"]] == [1, 3]


def test_versions_only_grow(api: Api, channel: str) -> None:
    assert api.call("publish", channel=channel, data=1, version=5)["offset"] == 1
    assert api.call("publish", channel=channel, data=2, version=5) == {}
    assert api.call("publish", channel=channel, data=3, version=4) == {}
    assert api.call("publish", channel=channel, data=4, version=1, version_epoch="new")["offset"] == 2
    assert api.call("publish", channel=channel, data=5, version=2, version_epoch="new")["offset"] == 3


def test_of_the_same_version_one_is_published(api: Api, channel: str) -> None:
    commands = [{"publish": {"channel": channel, "data": number, "version": 1}} for number in range(50)]
    replies = api.post("batch", {"commands": commands, "parallel": True}).json()["replies"]
    assert [reply["publish"]["offset"] for reply in replies if reply["publish"]] == [1], "in parallel, any may be first"


def test_a_broadcast_to_many(api: Api, channel: str) -> None:
    channels = [f"{channel}{number}" for number in range(700)]
    responses = api.call("broadcast", channels=[*channels, "unknown:1"], data="x")["responses"]
    assert all(response["result"]["offset"] == 1 for response in responses[:-1])
    assert (len(responses), responses[-1]["error"]["code"]) == (701, 102)


def test_a_broadcast_answers_for_each_channel(api: Api, channel: str) -> None:
    responses = api.call("broadcast", channels=[channel, "unknown:1", "bare:1"], data="x")["responses"]
    assert responses[0]["result"]["offset"] == 1
    assert responses[1]["error"]["code"] == 102
    assert responses[2] == {"result": {}}


def test_bytes_and_json_in_base64(api: Api, channel: str) -> None:
    api.call("publish", channel=channel, b64data="eyJhIjoxfQ==")
    api.call("publish", channel=channel, b64data="/w==")
    found = api.call("history", channel=channel, limit=5)["publications"]
    assert [publication["data"] for publication in found] == [{"a": 1}, "/w=="]
    assert api.error("publish", channel=channel, b64data="?") == 107


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b'{"channel": NaN}', b'{"channel": "a", "data": "\xff"}', b'{"a":' * 5_000],
    ids=["empty", "cut", "list", "number", "nan", "bytes", "deep"],
)
def test_a_body_that_is_no_json_object(api: Api, body: bytes) -> None:
    answer = api.post("publish", body)
    if body:
        assert answer.status_code == 400
    else:
        assert answer.json()["error"]["code"] == 107


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"{}", mtime=0), "gzip"),
        (b"{'channel': 'a'}", "double ones"),
        (b'{"channel": "\xfc"}', "not UTF-8"),
        (b'{"data": NaN}', "invalid character"),
        (b"{}{}", "trailing characters"),
        (b"[]", "Expected `object`"),
    ],
)
def test_a_body_that_is_something_else_is_named(api: Api, body: bytes, problem: str) -> None:
    """PowerShell sends a BOM, other programs UTF-16 or gzip; all were "no JSON object" (centrifugo#265)."""
    answer = api.post("publish", body)
    assert (answer.status_code, problem in answer.text) == (400, True), answer.text


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("publish", {"data": 1}, 107),
        ("publish", {"channel": "a"}, 107),
        ("publish", {"channel": "", "data": 1}, 107),
        ("publish", {"channel": "a\u0007", "data": 1}, 107),
        ("publish", {"channel": "a" * 256, "data": 1}, 107),
        ("publish", {"channel": "unknown:1", "data": 1}, 102),
        ("publish", {"channel": "$user:ann", "data": 1}, 102),
        ("publish", {"channel": "$control", "data": 1}, 102),
        ("publish", {"channel": "a", "data": 1, "tags": {"a": 1}}, 107),
        ("broadcast", {"channels": [], "data": 1}, 107),
        ("history", {"channel": "bare:1"}, 108),
        ("history_remove", {"channel": "bare:1"}, 108),
        ("presence", {"channel": "bare:1"}, 108),
        ("presence_stats", {"channel": "bare:1"}, 108),
        ("history", {"channel": "a", "since": {"offset": 1, "epoch": "other"}}, 112),
        ("history", {"channel": "a", "since": {"offset": 2**60}}, 107),
        ("history", {"channel": "a", "reverse": True, "since": {"offset": 0}}, 107),
        ("subscribe", {"channel": "a"}, 107),
        ("subscribe", {"user": "u", "channel": "unknown:1"}, 102),
        ("unsubscribe", {"user": "u"}, 107),
        ("disconnect", {}, 107),
        ("disconnect", {"user": "u", "disconnect": {"code": 1}}, 107),
        ("refresh", {}, 107),
        ("rpc", {"method": "any"}, 104),
        ("batch", {}, 107),
        ("batch", {"commands": {}}, 107),
    ],
)
def test_errors_have_numbers(api: Api, method: str, fields: dict[str, Any], code: int) -> None:
    assert api.error(method, **fields) == code


def test_errors_may_be_told_by_the_status(api: Api) -> None:
    transport = {"X-Centrifugo-Error-Mode": "transport"}
    for method, fields, status in (
        ("publish", {"channel": "unknown:1", "data": 1}, 404),
        ("publish", {}, 400),
        ("presence", {"channel": "bare:1"}, 400),
        ("history", {"channel": "a", "since": {"offset": 1, "epoch": "other"}}, 416),
        ("rpc", {"method": "any"}, 404),
    ):
        answer = api.post(method, fields, headers=transport)
        assert answer.status_code == status
        assert set(answer.json()) == {"code", "message", "detail"}
    assert api.post("publish", {"channel": "a", "data": 1}, headers=transport).status_code == 200


def test_an_unknown_channel_is_answered_as_the_reference_does(api: Api) -> None:
    """A test of phpcent compares this error as a whole."""
    answer = api.post("publish", {"channel": "unknown:\u00e4", "data": 1})
    assert answer.json() == {"error": {"code": 102, "message": "unknown channel"}}
    assert "unknown" in answer.headers["x-error-detail"]


def test_a_body_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text(CONFIG + "[limits]\napi_bytes = 1000\n")
    with LiveServer(tmp_path) as server:
        api = Api(server, **{"X-API-Key": "the key"})
        assert api.post("publish", {"channel": "a", "data": "x" * 900}).status_code == 200
        assert api.post("publish", {"channel": "a", "data": "x" * 1_000}).status_code == 413


MANY = 2_001


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("broadcast", {"channels": ["a"] * MANY, "data": 1}),
        ("broadcast", {"channels": ["a"] * 100 * MANY, "data": 1}),
        ("publish", {"channel": "a", "data": 1, "tags": {str(number): "x" for number in range(MANY)}}),
        ("disconnect", {"user": "a", "whitelist": ["x"] * MANY}),
        ("batch", {"commands": [{"publish": {"channel": "a", "data": 1}}] * MANY}),
        ("batch", {"commands": [{"publish": {"channel": "a", "data": 1}}] * MANY, "parallel": True}),
    ],
    ids=["broadcast", "huge-broadcast", "tags", "whitelist", "batch", "parallel"],
)
def test_a_list_has_so_many_items(api: Api, method: str, fields: dict[str, Any]) -> None:
    answer = api.post(method, fields).json()["error"]
    assert answer["code"] == 106
    assert "api_items" in answer["detail"]


def test_lists_that_are_long_enough(api: Api, channel: str) -> None:
    names = [f"{channel},,{number}" for number in range(MANY - 1)]
    assert len(api.call("broadcast", channels=names, data=[1] * 10 * MANY)["responses"]) == MANY - 1
    line = json.dumps({"method": "publish", "params": {"channel": channel, "data": 1}})
    answer = api._client.post(f"{api._client.base_url}".rstrip("/"), content="\n".join([line] * MANY))
    assert (answer.status_code, "api_items" in answer.text) == (413, True)
    assert api.post("publish", {"channel": channel, "data": 1} | {f"unknown{n}": 1 for n in range(MANY)}).json() == {
        "result": {"offset": 1, "epoch": api.call("history", channel=channel)["epoch"]}
    }


# History and presence.


def test_history_in_both_directions(api: Api, channel: str) -> None:
    for number in range(1, 6):
        position = api.call("publish", channel=channel, data=number)
    epoch = position["epoch"]

    def read(**fields: Any) -> list[int]:
        page = api.call("history", channel=channel, **fields)
        assert (page["offset"], page["epoch"]) == (5, epoch)
        return [publication["data"] for publication in page["publications"]]

    assert read() == []
    assert read(limit=2) == [1, 2]
    assert read(limit=-1, reverse=True) == [5, 4, 3, 2, 1]
    assert read(limit=2, since={"offset": 2, "epoch": epoch}) == [3, 4]
    assert read(limit=2, since={"offset": 2}) == [3, 4]
    assert read(limit=5, since={"offset": 3, "epoch": epoch}, reverse=True) == [2, 1]
    assert api.call("history_remove", channel=channel) == {}
    assert read(limit=5) == []


def test_who_is_in_a_channel(api: Api, server: LiveServer, client: Client, channel: str) -> None:
    assert api.call("presence", channel=channel) == {"presence": {}}
    client.ask(subscribe={"channel": channel})
    wait_for(lambda: api.call("presence", channel=channel)["presence"], what="the member")
    assert api.call("presence", channel=channel) == {"presence": {client.id: {"user": "", "client": client.id}}}
    assert api.call("presence_stats", channel=channel) == {"num_clients": 1, "num_users": 1}


def test_channels_and_nodes_of_all_workers(api: Api, server: LiveServer, channel: str) -> None:
    with connections(server, "many", 8) as clients:
        for client in clients:
            client.ask(subscribe={"channel": channel})
        assert api.call("channels", pattern=f"{channel[:-1]}*") == {"channels": {channel: {"num_clients": 8}}}
        assert api.call("channels", pattern="nothing*") == {"channels": {}}
        nodes = api.call("info")["nodes"]
        assert len(nodes) == 2
        assert sum(node["num_clients"] for node in nodes) >= 8
        assert all(node["num_subs"] >= node["num_channels"] for node in nodes)
        assert {node["version"] for node in nodes} != {""}


# Connections, on whichever worker they are.


@contextlib.contextmanager
def connections(server: LiveServer, user: str, count: int) -> Iterator[list[Client]]:
    """Connect a user so many times."""
    token = jwt.encode({"sub": user}, "a secret that is long enough for SHA-256", "HS256")
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            socket = stack.enter_context(connect(server.websocket_url + "/connection/websocket", proxy=None))
            client = Client(socket)
            client.id = client.ask(connect={"token": token})["connect"]["client"]
            clients.append(client)
        yield clients


def test_a_user_is_subscribed_and_unsubscribed_everywhere(api: Api, server: LiveServer, channel: str) -> None:
    with connections(server, "sub", 4) as clients:
        position = api.call("publish", channel=channel, data="before")
        since = {"offset": 0, "epoch": position["epoch"]}
        assert api.call("subscribe", user="sub", channel=channel, data={"welcome": 1}, recover_since=since) == {}
        for client in clients:
            push = client.push("subscribe")
            assert (push["channel"], push["subscribe"]["data"]) == (channel, {"welcome": 1})
            assert client.push("pub")["pub"]["data"] == "before"
        api.call("publish", channel=channel, data="after")
        for client in clients:
            assert client.push("pub")["pub"]["data"] == "after"
        assert api.call("unsubscribe", user="sub", channel=channel) == {}
        for client in clients:
            push = client.push("unsubscribe")
            assert (push["channel"], push["unsubscribe"]["code"]) == (channel, 2000)


def test_a_user_is_disconnected_but_for_some(api: Api, server: LiveServer, channel: str) -> None:
    with connections(server, "gone", 4) as (spared, *others):
        api.call("disconnect", user="gone", whitelist=[spared.id], disconnect={"code": 4001, "reason": "moved"})
        for client in others:
            assert client.closed() == (4001, "moved")
        assert "subscribe" in spared.ask(subscribe={"channel": channel})
        api.call("disconnect", user="gone", client=spared.id)
        assert spared.closed()[0] == 3503


def test_connections_are_given_more_time_or_none(api: Api, server: LiveServer) -> None:
    with connections(server, "ref", 2) as (one, two):
        api.call("refresh", user="ref", client=one.id, expire_at=4_000_000_000)
        assert one.push("refresh")["refresh"]["expires"] is True
        api.call("refresh", user="ref", client=two.id, expired=True)
        assert two.closed()[0] == 3005


def test_targeting_nobody_is_success(api: Api) -> None:
    for method in ("disconnect", "refresh"):
        assert api.call(method, user="nobody at all") == {}
    for method in ("subscribe", "unsubscribe"):
        assert api.call(method, user="nobody at all", channel="a") == {}


# Batches.


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_answers_each_command_in_order(api: Api, channel: str, parallel: bool) -> None:
    commands = [
        {"publish": {"channel": channel, "data": 1.0}},
        {"nothing": {}},
        {"publish": {"channel": "unknown:1", "data": 1}},
        {"presence": {"channel": channel}},
        {"batch": {"commands": []}},
        {},
    ]
    answer = api.post("batch", {"commands": commands, "parallel": parallel})
    replies = answer.json()["replies"]
    assert replies[0]["publish"]["offset"] == 1
    assert [reply.get("error", {}).get("code") for reply in replies] == [None, 104, 102, None, 107, 104]
    assert replies[3] == {"presence": {"presence": {}}}


# The description.


def test_the_api_is_described_and_nothing_else(server: LiveServer) -> None:
    described = server.get("/openapi.json").json()
    assert set(described["paths"]) == {f"/api/{method}" for method in METHODS}
    publish = described["paths"]["/api/publish"]["post"]
    schema = publish["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["channel"]
    assert schema["properties"]["data"]["examples"] == [{"text": "hello"}]
    assert publish["security"] == [{"APIKeyHeader": []}]
    assert "$defs" not in json.dumps(described)
    page = server.get("/docs")
    assert all(f"POST /api/{method}</h2>" in page.text for method in METHODS)
    assert re.findall(r'(?:src|href)="(?!/|#)[^"]*"', page.text) == [], "nothing is loaded from elsewhere"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert server.get("/redoc").status_code == 404


# The published client.


def test_the_published_client_speaks_to_it(server: LiveServer, channel: str) -> None:
    requirements.require(importlib.util.find_spec("cent"), "pip install cent==5.2.0")
    import cent

    client = cent.Client(server.url + "/api", "the key")
    try:
        assert client.publish(cent.PublishRequest(channel=channel, data={"n": 1})).offset == 1
        broadcast = client.broadcast(cent.BroadcastRequest(channels=[channel, "b"], data=2))
        assert [response.error for response in broadcast.responses] == [None, None]
        history = client.history(cent.HistoryRequest(channel=channel, limit=10))
        assert [publication.data for publication in history.publications] == [{"n": 1}, 2]
        assert client.presence(cent.PresenceRequest(channel=channel)).presence == {}
        assert client.presence_stats(cent.PresenceStatsRequest(channel=channel)).num_clients == 0
        client.history_remove(cent.HistoryRemoveRequest(channel=channel))
        override = cent.ChannelOptionsOverride(presence=cent.BoolValue(value=True))
        since = cent.StreamPosition(offset=1, epoch=history.epoch)
        client.subscribe(
            cent.SubscribeRequest(user="u", channel=channel, info={"a": 1}, recover_since=since, override=override)
        )
        client.unsubscribe(cent.UnsubscribeRequest(user="u", channel=channel))
        client.disconnect(cent.DisconnectRequest(user="u", disconnect=cent.Disconnect(code=4000, reason="x")))
        client.refresh(cent.RefreshRequest(user="u", expire_at=1))
        assert channel not in client.channels(cent.ChannelsRequest(pattern="*")).channels
        assert len(client.info(cent.InfoRequest()).nodes) == 2
        replies = client.batch(
            cent.BatchRequest(
                requests=[cent.PublishRequest(channel=channel, data=3), cent.PresenceRequest(channel=channel)]
            )
        ).replies
        assert (replies[0].offset, replies[1].presence) == (3, {})
        with pytest.raises(cent.CentApiResponseError, match="unknown channel") as caught:
            client.publish(cent.PublishRequest(channel="unknown:1", data=1))
        assert caught.value.code == 102
        with pytest.raises(cent.CentTransportError):
            client.connections(cent.ConnectionsRequest(user="u", expression=""))
        with pytest.raises(cent.CentUnauthorizedError):
            cent.Client(server.url + "/api", "wrong").info(cent.InfoRequest())
    finally:
        client.close()


def test_lines_of_commands_are_answered_line_by_line(server: LiveServer) -> None:
    lines = [
        {"method": "publish", "params": {"channel": "lines", "data": {"a": 1}}},
        {"method": "presence_stats", "params": {"channel": "lines"}},
        {"method": "publish", "params": {"channel": ""}},
        {"method": "none", "params": {}},
        {"method": "info"},
    ]
    body = "\n".join(map(json.dumps, lines))
    headers = {"Authorization": "apikey the key"}
    answer = httpx.post(server.url + "/api", content=body, headers=headers, timeout=20)
    assert answer.status_code == 200
    replies = [json.loads(line) for line in answer.text.splitlines()]
    assert replies[0]["result"]["offset"] == 1
    assert replies[1]["result"] == {"num_clients": 0, "num_users": 0}
    assert [reply["error"]["code"] for reply in replies[2:4]] == [107, 104]
    assert replies[4]["result"]["nodes"]
    assert httpx.post(server.url + "/api", content=body, timeout=20).status_code == 401
    assert httpx.post(server.url + "/api", content="x", headers=headers, timeout=20).status_code == 400


def test_half_a_character_is_replaced_as_it_is_over_websockets(api: Api) -> None:
    assert api.post("publish", '{"channel": "half", "data": "a\\ud83d b"}').json()["result"]["offset"] == 1
    assert api.call("history", channel="half", limit=1)["publications"][0]["data"] == "a\ufffd b"


# Tokens.


def signed(user: str, **claims: object) -> str:
    return jwt.encode({"sub": user, **claims}, "a secret that is long enough for SHA-256", "HS256")


@contextlib.contextmanager
def dialled(server: LiveServer) -> Iterator[Client]:
    with connect(server.websocket_url + "/connection/websocket", proxy=None) as socket:
        yield Client(socket)


def admitted(server: LiveServer, token: str) -> bool:
    """Return whether a token opens a connection."""
    with dialled(server) as client:
        try:
            return "connect" in client.ask(connect={"token": token})
        except ConnectionClosed:
            return False


def test_tokens_are_ended_before_they_expire(server: LiveServer, api: Api) -> None:
    user, now = uuid.uuid4().hex, time.time()
    before, other = signed(user, iat=now - 60, jti="one"), signed(user, iat=now - 60, jti="two")
    for fields in ({"jti": "one"}, {"user": user}):
        with dialled(server) as client:
            assert "connect" in client.ask(connect={"token": before if "jti" in fields else other})
            assert api.call("revoke", **fields) == {}
            with pytest.raises(ConnectionClosed):
                client.push("nothing")
        wait_for(lambda: not any(admitted(server, before) for _ in range(4)), what="both workers refuse it")
        assert admitted(server, other) is ("jti" in fields)
    assert admitted(server, signed(user, iat=time.time() + 1))
    assert admitted(server, signed("another" + user, iat=now - 60))
    for wrong in ({}, {"user": user, "jti": "one"}, {"user": user, "issued_before": now + 3_600}, {"user": 1}):
        assert api.error("revoke", **wrong) == 107


def test_the_examples_of_the_page_can_be_pasted(server: LiveServer) -> None:
    page = html.unescape(server.get("/docs").text)
    found = re.findall(r"curl -H 'X-API-Key: …' -d '(.*)' (http://\S+)</code>", page)
    assert [address for _, address in found] == [f"{server.url}/api/{name}" for name in METHODS]
    for body, address in found:
        answer = httpx.post(address, headers={"X-API-Key": "the key"}, content=body, timeout=20).json()
        refusal = answer.get("error", {}).get("message", "")
        assert refusal not in ("bad request", "internal server error"), (address, body, answer)
