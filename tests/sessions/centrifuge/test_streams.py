"""Streams, the requests beside them, and clients that only listen; against the real server, with one worker and two."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from clients.serving import Service, connection_token, serving
from contract.raw import RawSocket
from contract.serving import until
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.protobuf import decode_frame, encode_delimited, encode_message

pytestmark = pytest.mark.xdist_group("streams")

CONNECT = {"id": 1, "connect": {}}
ROOM: dict[str, Any] = {"subs": {"news:1": {}}}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("one"), limits={"ping_seconds": 2, "auth_seconds": 2}) as service:
        yield service


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("two"), workers=2) as service:
        yield service


@pytest.fixture(scope="module", params=[pytest.param("one", marks=pytest.mark.slow), "two"])
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.getfixturevalue(request.param)
    return found


class Stream:
    """An endless response, read message by message."""

    def __init__(
        self,
        service: Service,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        worker: int | None = None,
    ) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", service.server.port)
        self.http.sock = service.server.dial(worker)
        self.http.sock.settimeout(15)
        self.http.request("GET" if body is None else "POST", path, body, headers or {})
        self.response = self.http.getresponse()
        self.status = self.response.status
        self.is_events = self.header("content-type") == "text/event-stream"
        self.id = ""

    def header(self, name: str) -> str:
        return self.response.getheader(name, "")

    def line(self) -> str:
        line = self.response.readline()
        assert line, "the stream has ended"
        return line.decode().rstrip("\r\n")

    def read(self) -> Any:
        """Return the next JSON message that is no ping."""
        while True:
            line = self.line()
            if self.is_events:
                if line.startswith("id: "):
                    self.id = line.removeprefix("id: ")
                if not line.startswith("data: "):
                    continue
                line = line.removeprefix("data: ")
            message = json.loads(line)
            if message:
                return message

    def until(self, wanted: Callable[[Any], Any]) -> Any:
        """Return the first message of which something is wanted, as that."""
        while True:
            found = wanted(self.read())
            if found is not None:
                return found

    def pub(self) -> dict[str, Any]:
        """Return the next publication, of whichever kind of stream."""

        def publication(message: Any) -> Any:
            return message.get("push", message).get("pub")

        found: dict[str, Any] = self.until(publication)
        return found

    def ends(self) -> bool:
        return not self.response.read().strip()

    def close(self) -> None:
        self.response.close()
        self.http.close()


@contextlib.contextmanager
def streamed(*arguments: Any, **options: Any) -> Iterator[Stream]:
    stream = Stream(*arguments, **options)
    try:
        yield stream
    finally:
        stream.close()


def batch(*commands: Any) -> bytes:
    return "\n".join(json.dumps(command) for command in commands).encode()


def sse(request: Any) -> str:
    return "/connection/uni_sse?" + urlencode({"cf_connect": json.dumps(request)})


class Speaker:
    """A client of a stream, whose commands go over any worker."""

    def __init__(self, service: Service, stream: Stream) -> None:
        self.service = service
        connected = stream.read()["connect"]
        self.session, self.node = connected["session"], connected["node"]
        assert len(self.session) > 20
        assert self.session != connected["client"]

    def send(self, *commands: Any, worker: int | None = None, **changed: str) -> int:
        request = {"session": self.session, "node": self.node, "data": batch(*commands).decode(), **changed}
        return post(self.service, json.dumps(request).encode(), worker=worker)[0]


def post(
    service: Service, body: bytes, *, worker: int | None = None, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=15)
    connection.sock = service.server.dial(worker)
    connection.sock.settimeout(15)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, "/emulation", body, {"Connection": "close", **told})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
def test_a_stream_brings_replies_and_pushes_and_requests_bring_commands(service: Service, kind: str) -> None:
    channel = f"news:{kind}"
    subscribe = {"id": 2, "subscribe": {"channel": channel}}
    if kind == "sse":
        opened = streamed(service, "/connection/sse?" + urlencode({"cf_connect": batch(CONNECT, subscribe)}))
    else:
        opened = streamed(service, "/connection/http_stream", batch(CONNECT, subscribe))
    with opened as stream:
        assert stream.status == 200
        assert stream.header("x-accel-buffering") == "no"
        speaker = Speaker(service, stream)
        assert stream.read()["id"] == 2
        workers = service.server.worker_pids()
        for number in range(6):
            publish = {"id": 10 + number, "publish": {"channel": channel, "data": {"n": number}}}
            assert speaker.send(publish, worker=workers[number % len(workers)]) == 204
            seen: list[Any] = []
            while len(seen) < 2:
                message = stream.read()
                if "join" not in message.get("push", {}):
                    seen.append(message)
            (pushed,) = [message["push"]["pub"]["data"] for message in seen if "push" in message]
            assert pushed == {"n": number}
            assert {"id": 10 + number, "publish": {}} in seen


def test_the_binary_stream(service: Service) -> None:
    binary = {"Content-Type": "application/octet-stream"}
    first = m.Command(id=1, connect=m.ConnectRequest())
    with streamed(service, "/connection/http_stream", encode_delimited(first), binary) as stream:

        def read() -> m.Reply:
            size, shift = 0, 0
            while True:
                (byte,) = stream.response.read(1)
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            data = stream.response.read(size)
            (reply,) = decode_frame(m.Reply, bytes([*_varint(size)]) + data, depth=64)
            return reply

        connected = read().connect
        assert connected is not None
        frame = b"".join(
            encode_delimited(command)
            for command in (
                m.Command(id=2, subscribe=m.SubscribeRequest("news:b")),
                m.Command(id=3, publish=m.PublishRequest("news:b", m.raw(b'{"n":1}'))),
            )
        )
        request = encode_message(m.EmulationRequest(connected.node, connected.session, m.raw(frame)))
        assert post(service, request, Content_Type="application/octet-stream")[0] == 204
        seen = [read() for _ in range(4)]
        assert [reply.id for reply in seen if reply.id] == [2, 3]
        pushed = [reply.push.pub for reply in seen if reply.push is not None and reply.push.pub is not None]
        assert [bytes(pub.data) for pub in pushed] == [b'{"n":1}']


def _varint(number: int) -> list[int]:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return [*found, number]


def test_commands_that_reach_nobody_are_not_taken(service: Service) -> None:
    with streamed(service, "/connection/http_stream", batch(CONNECT)) as stream:
        speaker = Speaker(service, stream)
        workers = service.server.worker_pids()
        for worker in workers:
            assert speaker.send(worker=worker, session="x" * 32, data="{}") == 404
            assert speaker.send({"id": 2, "rpc": {"method": "x"}}, worker=worker) == 204
        assert speaker.send(node="0123456789ab") == 404
        assert speaker.send(node="n" * 65) == speaker.send(session="s" * 65, node="0123456789ab") == 404
        for body in (b"", b"[]", b"{", b'{"session": 1}', b'{"data": {"id": 1}}', b"\xff"):
            assert post(service, body)[0] == 400
        assert post(service, b"x" * 70_000)[0] == 413
        stream.close()
        until(lambda: speaker.send({"id": 3, "rpc": {}}) == 404, what="the session has gone with its stream")


def test_made_up_nodes_are_asked_for_a_few_at_a_time(two: Service) -> None:
    with streamed(two, "/connection/http_stream", batch(CONNECT)) as stream, ThreadPoolExecutor(48) as threads:
        speaker, workers = Speaker(two, stream), two.server.worker_pids()
        assert [speaker.send({"id": 2, "rpc": {"method": "x"}}, worker=worker) for worker in workers] == [204, 204]
        began = time.monotonic()
        flood = [threads.submit(speaker.send, node=f"{number:012x}", worker=workers[0]) for number in range(40)]
        answers = Counter(future.result() for future in flood)
        # each of 16 is waited for, for three seconds, before the next is asked for
        rounds = 1 + int((time.monotonic() - began) / 3)
        assert set(answers) <= {404, 429}
        assert 16 <= answers[404] <= 16 * rounds
        assert [speaker.send({"id": 3, "rpc": {"method": "x"}}, worker=worker) for worker in workers] == [204, 204]


def test_who_goes_is_no_member_any_more(service: Service) -> None:
    subscribe = {"id": 2, "subscribe": {"channel": "news:gone"}}
    with streamed(service, "/connection/http_stream", batch(CONNECT, subscribe)) as stream:
        stream.until(lambda message: message if message.get("id") == 2 else None)
        until(lambda: service.api("presence_stats", channel="news:gone")["num_clients"] == 1, what="it is a member")
    until(lambda: not service.api("presence", channel="news:gone")["presence"], what="it is none any more")


def test_the_server_says_why_it_ends_a_stream(service: Service) -> None:
    connect_ann = {"id": 1, "connect": {"token": connection_token("ann")}}
    with streamed(service, "/connection/http_stream", batch(connect_ann)) as stream:
        assert stream.read()["connect"]["client"]
        service.api("disconnect", user="ann")
        assert stream.read() == {"push": {"disconnect": {"code": 3503, "reason": "force disconnect"}}}
        assert stream.ends()
    with streamed(service, "/connection/http_stream", b"nonsense") as stream:
        assert stream.read()["push"]["disconnect"]["code"] == 3501
        assert stream.ends()


def test_pages_of_other_sites(service: Service) -> None:
    assert post(service, b"{}", Origin="https://evil.example")[0] == 403
    with streamed(service, "/connection/http_stream", batch(CONNECT), {"Origin": "https://evil.example"}) as stream:
        assert stream.status == 403
    friend = "http://localhost:3000"
    status, headers = post(
        service, b"", method="OPTIONS", Origin=friend, Access_Control_Request_Headers="content-type,x-own"
    )
    assert (status, headers["access-control-allow-origin"]) == (204, friend)
    assert headers["access-control-allow-headers"] == "content-type,x-own"
    assert headers["vary"] == "Origin"
    status, headers = post(service, b"x" * 70_000, Origin=friend)
    assert (status, headers["access-control-allow-origin"]) == (413, friend)
    status, headers = post(service, b"", method="OPTIONS", Origin="https://evil.example")
    assert "access-control-allow-origin" not in headers
    with streamed(service, "/connection/sse?cf_connect=" + quote(batch(CONNECT)), None, {"Origin": friend}) as stream:
        assert stream.header("access-control-allow-origin") == friend
        assert stream.header("access-control-allow-credentials") == "true"


def test_the_module_is_served(one: Service) -> None:
    answer = one.server.http.get("/connection/tidewire.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "export function connect(" in answer.text
    again = one.server.http.get("/connection/tidewire.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.headers["etag"] == answer.headers["etag"]


def test_over_a_limit_a_client_learns_why(tmp_path: Path) -> None:
    with (
        serving(tmp_path, limits={"connections": 1}) as service,
        streamed(service, "/connection/http_stream", batch(CONNECT)) as first,
    ):
        assert first.read()["connect"]
        with streamed(service, "/connection/http_stream", batch(CONNECT)) as refused:
            assert refused.status == 503
            assert int(refused.header("retry-after")) > 0
        with streamed(service, sse(ROOM)) as refused:
            assert refused.status == 200
            assert refused.read()["disconnect"]["code"] == 1013
            assert refused.ends()


def test_a_shutdown_is_told_and_does_not_wait_for_streams(tmp_path: Path) -> None:
    with (
        serving(tmp_path, limits={"drain_seconds": 1}) as service,
        streamed(service, "/connection/http_stream", batch(CONNECT)) as stream,
        streamed(service, sse(ROOM)) as events,
        connect(service.server.url("/connection/websocket"), proxy=None) as socket,
    ):
        assert stream.read()["connect"]
        began = time.monotonic()
        service.server.stop()
        assert time.monotonic() - began < 15
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=15)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (3001, "shutdown")
        assert stream.read() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert events.until(lambda message: message.get("disconnect")) == {"code": 3001, "reason": "shutdown"}
        assert "Error" not in service.server.log(), service.server.log()


def test_a_shutdown_is_told_before_a_request_that_waits_behind_a_stream(tmp_path: Path) -> None:
    with (
        serving(tmp_path, limits={"drain_seconds": 1}) as service,
        streamed(service, "/connection/http_stream", batch(CONNECT)) as stream,
    ):
        assert stream.read()["connect"]
        assert stream.http.sock is not None
        for _ in range(3):
            stream.http.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
            time.sleep(0.1)
        service.server.stop()
        assert stream.read() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}


# Those that only listen.


def test_an_event_stream_goes_on_where_it_was(service: Service) -> None:
    request = {"token": connection_token("ivy"), "subs": {"news:a&b=c": {}, "news:2": {}, "bare:1": {}}}
    with streamed(service, sse(request)) as stream:
        assert stream.line() == ""
        retry = stream.line()
        assert 1_000 <= int(retry.removeprefix("retry: ")) <= 5_000
        connected = stream.read()["connect"]
        assert set(connected["subs"]) == {"news:a&b=c", "news:2", "bare:1", "#ivy"}
        assert connected["session"]
        service.publish("news:a&b=c", 1)
        service.publish("news:2", 1)
        service.publish("#ivy", 1)
        assert [stream.pub()["data"]["n"] for _ in range(3)] == [1, 1, 1]
        place = stream.id
    for channel in ("news:a&b=c", "news:2", "#ivy"):
        service.publish(channel, 2, 3)
    with streamed(service, sse(request), None, {"Last-Event-ID": place}) as stream:
        subs = stream.read()["connect"]["subs"]
        for channel in ("news:a&b=c", "news:2", "#ivy"):
            assert subs[channel]["recovered"], channel
            assert [pub["data"]["n"] for pub in subs[channel]["publications"]] == [2, 3], channel
        again = stream.id
        service.publish("news:2", 4)
        assert stream.pub()["data"] == {"n": 4}
    with streamed(service, sse(request) + "&last_event_id=" + quote(again)) as stream:
        subs = stream.read()["connect"]["subs"]
        assert [pub["data"]["n"] for pub in subs["news:2"]["publications"]] == [4]
        assert subs["#ivy"]["recovered"]
        assert "publications" not in subs["#ivy"]


def test_what_is_not_kept_any_more_is_told(one: Service) -> None:
    request: dict[str, Any] = {"subs": {"short:1": {}}}
    with streamed(one, sse(request)) as stream:
        stream.read()
        place = stream.id
    one.publish("short:1", 1, 2, 3)
    with streamed(one, sse(request), None, {"Last-Event-ID": place}) as stream:
        told = stream.read()["connect"]["subs"]["short:1"]
        assert told["was_recovering"]
        assert "recovered" not in told


def test_event_ids_of_other_streams_name_no_positions(one: Service) -> None:
    for foreign in ("x", "news:1=5", "news:1=e:", "news:1=e:x", "news:1=e:99999999999999999", "=&=", "e:1"):
        with streamed(one, sse(ROOM), None, {"Last-Event-ID": foreign}) as stream:
            assert stream.status == 200, foreign
            assert "was_recovering" not in stream.read()["connect"]["subs"]["news:1"], foreign


def test_connect_requests_that_are_none_are_refused(one: Service) -> None:
    many: dict[str, Any] = {"subs": {f"news:{number:0200}": {} for number in range(50)}}
    with streamed(one, "/connection/uni_sse", json.dumps(many).encode()) as stream:
        assert stream.status == 400
    for wrong in ("[]", "{", '{"subs": 1}'):
        with streamed(one, "/connection/uni_sse?cf_connect=" + quote(wrong)) as stream:
            assert stream.status == 400


def test_a_channel_that_is_not_allowed_ends_it(one: Service) -> None:
    requests: list[Any] = [{"subs": {"secret:1": {}}}, {"token": "x"}, {"subs": {"x:1": {}}}]
    for request, code in zip(requests, (3507, 3500, 3501), strict=True):
        with streamed(one, sse(request)) as stream:
            assert stream.until(lambda message: message.get("disconnect"))["code"] == code
            assert stream.ends()


def test_a_channel_that_is_not_allowed_costs_the_others_nothing(one: Service) -> None:
    refused = {"secret:1": 2103, "x:1": 2102, "news:" + "n" * 300: 2107}
    with streamed(one, sse({"subs": {"news:1": {}, **{name: {} for name in refused}}})) as stream:
        assert list(stream.read()["connect"]["subs"]) == ["news:1"]
        told = [stream.until(lambda message: message.get("unsubscribe")) for _ in refused]
        assert [one_["code"] for one_ in told] == list(refused.values())
    with streamed(one, sse({"subs": {"news:" + "n" * 300: {}}})) as stream:
        assert stream.until(lambda message: message.get("disconnect"))["code"] == 3501


def test_null_is_as_good_as_nothing(one: Service) -> None:
    request = {"token": None, "name": None, "subs": {"news:1": {"recover": None, "epoch": None, "offset": None}}}
    with streamed(one, sse(request)) as stream:
        assert list(stream.read()["connect"]["subs"]) == ["news:1"]


def test_a_one_way_websocket_may_ask_in_its_query(one: Service) -> None:
    url = one.server.url("/connection/uni_websocket?" + urlencode({"cf_connect": json.dumps(ROOM)}))
    with connect(url, proxy=None) as socket:
        assert "news:1" in json.loads(socket.recv(timeout=10))["connect"]["subs"]


def test_pings_come_and_want_no_answer(one: Service) -> None:
    with streamed(one, "/connection/uni_http_stream", json.dumps(ROOM).encode()) as stream:
        connected = stream.read()["connect"]
        assert (connected["ping"], connected.get("pong")) == (2, None)
        pings = 0
        while pings < 2:
            pings += stream.line() == "{}"
        one.publish("news:1", 5)
        assert stream.pub()["data"] == {"n": 5}


def test_pushes_over_a_websocket(service: Service) -> None:
    with connect(service.server.url("/connection/uni_websocket"), proxy=None) as socket:
        socket.protocol.send_text(b'{\n"subs": {"news:ws": {}}\n}')  # which goes out with the next
        socket.send('{"id":1,"rpc":{"method":"too early, and ignored as well"}}')
        connected = json.loads(socket.recv(timeout=15))["connect"]
        assert connected["subs"]["news:ws"]["recoverable"]
        for ignored in ('{"id":1,"rpc":{"method":"x"}}', "nonsense", b"\xff"):
            socket.send(ignored)
        service.publish("news:ws", 1)
        while "pub" not in (push := json.loads(socket.recv(timeout=15))):
            assert "join" in push
        assert (push["channel"], push["pub"]["data"]) == ("news:ws", {"n": 1})
    options: Any = {"subprotocols": ["centrifuge-protobuf"], "proxy": None}
    with connect(service.server.url("/connection/uni_websocket"), **options) as socket:
        assert socket.subprotocol == "centrifuge-protobuf"
        socket.send(encode_message(m.ConnectRequest(subs={"news:ws": m.SubscribeRequest()})))
        (push,) = decode_frame(m.Push, bytes(socket.recv(timeout=15)), depth=64)
        assert push.connect is not None
        assert push.connect.subs["news:ws"].offset == 1


def test_a_websocket_that_asks_for_nothing_is_ended(one: Service) -> None:
    for first, code in (("nonsense", 3501), ("[]", 3501), (None, 3502)):
        with connect(one.server.url("/connection/uni_websocket"), proxy=None) as socket:
            if first is not None:
                socket.send(first)
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(timeout=15)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == code


def test_a_frozen_client_of_a_busy_channel_is_noticed_though_its_kernel_takes_all(tmp_path: Path) -> None:
    with (
        serving(tmp_path, limits={"ping_seconds": 1, "protocol_pong_seconds": 1}) as service,
        RawSocket(service.server, "/connection/websocket", receive_buffer=262_144) as frozen,
    ):
        subscribe = {"id": 2, "subscribe": {"channel": "news:f"}}
        frozen.send_frame(RawSocket.TEXT, batch(CONNECT, subscribe))
        until(lambda: service.api("presence_stats", channel="news:f")["num_clients"] == 1, what="it is there")
        end = time.monotonic() + 60
        while service.api("presence_stats", channel="news:f")["num_clients"]:
            for number in range(20):
                service.api("publish", channel="news:f", data=number)
            assert time.monotonic() < end
        pings = 0
        while (sent := frozen.next_frame()).opcode != RawSocket.CLOSE:
            pings += b"{}" in sent.data.split(b"\n")
        assert sent.data[:2] == (3012).to_bytes(2, "big")
        assert pings <= 5


def test_a_frozen_listener_costs_the_others_nothing(one: Service) -> None:
    frozen = socket.socket()
    frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    frozen.connect(("127.0.0.1", one.server.port))
    frozen.sendall(
        f"GET {sse({'subs': {'news:f': {}}})} HTTP/1.1\r\nHost: 127.0.0.1:{one.server.port}\r\n\r\n".encode()
    )
    with streamed(one, "/connection/uni_http_stream", json.dumps({"subs": {"news:f": {}}}).encode()) as reader:
        reader.read()
        until(lambda: one.api("presence_stats", channel="news:f")["num_clients"] == 2, what="both are there")
        for number in range(200):
            one.api("publish", channel="news:f", data={"n": number, "filler": "x" * 20_000})
            assert reader.pub()["data"]["n"] == number
        until(lambda: one.api("presence_stats", channel="news:f")["num_clients"] == 1, 30.0, what="it is cut")
    frozen.close()
