"""What our own pages may do over `/connection/websocket`, and that nobody gets more by taking their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from server.live_server import LiveServer, wait_for

SECRET = "a secret that is long enough for SHA-256"
TALK = """
[client]
allow_anonymous_connect_without_token = true
[[channel.namespaces]]
name = "talk"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_client = true
allow_publish_for_anonymous = true
"""
KEYS = f'[client.token]\nhmac_secret_key = "{SECRET}"\n'
LIST = {"tidewire": "pipelines"}
PLAYGROUND = {"tidewire": "playground", "name": "Ann"}


class Page:
    """One connection, which lives as long as its server; `told` is the answer to its connect."""

    def __init__(
        self,
        server: LiveServer,
        data: object,
        *,
        token: str = "",
        since: dict[str, Any] | None = None,
        origin: Origin | None = None,
    ) -> None:
        url = server.websocket_url.replace("0.0.0.0", "127.0.0.1") + "/connection/websocket"
        self._socket = connect(url, proxy=None, origin=origin, open_timeout=20).__enter__()
        self._lines: list[dict[str, Any]] = []
        self._news: list[dict[str, Any]] = []
        self._number = 0
        self.told = self.ask("connect", data=data, token=token, subs=since or {})

    def ask(self, method: str, **parameters: Any) -> Any:
        """Return the result of a command, the code of its error, or the code that ended the connection."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, method: parameters}))
        try:
            while "id" not in (reply := self._next()):
                self._news.append(reply["push"])
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0
        return reply["error"]["code"] if "error" in reply else reply[method]

    def news(self) -> dict[str, Any]:
        """Return the next publication's data, and note the offset."""
        while True:
            push = self._news.pop(0) if self._news else self._next()["push"]
            if "pub" in push:
                self.offset = push["pub"]["offset"]
                data: dict[str, Any] = push["pub"]["data"]
                return data

    def until(self, run: str, status: str) -> list[str]:
        """Receive until the list says that a run has this status, and return whatever runs were told of."""
        seen: list[str] = []
        while True:
            for notice in self.news().get("changed", ()):
                seen.append(notice["run"])
                if (notice["run"], notice["status"]) == (run, status):
                    return seen

    def _next(self) -> dict[str, Any]:
        while not self._lines:
            self._lines += [line for line in map(json.loads, str(self._socket.recv(timeout=30)).splitlines()) if line]
        return self._lines.pop(0)


def start(server: LiveServer, sample: str, **headers: str) -> str:
    url = "/api/pipelines/runs"
    answer = server.post(url, json={"pipeline": "demo", "sample": sample}, headers=headers)
    assert answer.status_code == 201, answer.text
    run: str = answer.json()["run"]["id"]
    return run


def sign_up(server: LiveServer, name: str) -> str:
    token: str = server.post("/signup", json={"username": name, "password": "correct horse"}).json()["token"]
    return token


def test_the_list_of_runs_on_every_worker_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    with LiveServer(tmp_path, "--workers", "2") as server:
        pages = [Page(server, LIST) for _ in range(6)]
        assert [list(page.told["subs"]) for page in pages] == [["$pipeline-list:"]] * 6
        told = pages[0].told["subs"]["$pipeline-list:"]
        assert told["recoverable"] is True
        run = start(server, "S1")
        for page in pages:
            page.until(run, "finished")
        back = {"recover": True, "epoch": told["epoch"], "offset": told.get("offset", 0)}
        again = Page(server, LIST, since={"$pipeline-list:": back}).told["subs"]["$pipeline-list:"]
        assert again["recovered"] is True
        last = again["publications"][-1]["data"]["changed"][0]
        assert (last["status"], last["progress"], last["position"]) == ("finished", 100, None)
        assert {step["status"] for step in last["steps"].values()} == {"done"}
        # released, it may be removed
        url = f"{server.url}/api/pipelines/runs/{run}"
        wait_for(lambda: httpx.delete(url).status_code == 204, what="the run is removed")
        for page in pages:
            while "removed" not in (news := page.news()):
                pass
            assert news["removed"] == [run]


def test_each_user_sees_their_own_list_and_strangers_none(tmp_path: Path) -> None:
    # the accounts are no users of `/connection` here, for strangers may sign up as anybody's user
    (tmp_path / "tidewire.toml").write_text(KEYS)
    with LiveServer(tmp_path, "--host", "0.0.0.0", "--tutorial") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        ann, bob = sign_up(server, "ann"), sign_up(server, "bob")
        assert Page(server, LIST).told == 3501
        assert Page(server, LIST, token="wrong").told == 3500
        assert Page(server, LIST, token=jwt.encode({"sub": "ann"}, SECRET, "HS256")).told == 3500
        assert Page(server, {}, token=ann).told == 3500
        hers, his = Page(server, LIST, token=ann), Page(server, LIST, token=bob)
        assert list(hers.told["subs"]) == ["$pipeline-list:ann~account"]
        assert hers.told["expires"] is True
        assert hers.ask("refresh", token=ann)["expires"] is True
        first = start(server, "S1", Authorization=f"Bearer {ann}")
        hers.until(first, "finished")
        second = start(server, "S2", Authorization=f"Bearer {bob}")
        assert set(his.until(second, "finished")) == {second}
        assert hers.ask("refresh", token=bob) == 3500


def test_a_foreign_name_or_page_is_not_this_machines_own(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        answer = server.post("/connection/uni_http_stream", json={"data": LIST}, headers={"Host": "evil.example"})
        assert answer.status_code == 403
        with pytest.raises(InvalidStatus) as refused:
            Page(server, LIST, origin=Origin("https://evil.example"))
        assert refused.value.response.status_code == 403


def test_who_takes_a_pages_name_may_do_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text(TALK)
    with LiveServer(tmp_path) as server:
        stranger = Page(server, {"tidewire": ["no", "page"]})
        assert isinstance(stranger.ask("subscribe", channel="talk:1"), dict)
        for channel in ("$pipeline-list:", "$pipeline-list:ann"):
            assert stranger.ask("subscribe", channel=channel) == 103
            assert stranger.ask("publish", channel=channel, data={}) == 103
            assert stranger.ask("history", channel=channel) == 103
        for data in (LIST, PLAYGROUND):
            page = Page(server, data)
            assert page.ask("subscribe", channel="talk:1") == 103
            assert page.ask("publish", channel="talk:1", data={}) == 103
        assert page.ask("subscribe", channel="$pipeline-list:") == 103
        viewer = Page(server, LIST)
        assert viewer.ask("publish", channel="$pipeline-list:", data={"removed": ["r"]}) == 103
        assert viewer.ask("subscribe", channel="playground:tea") == 103


def test_the_playground_is_open_where_the_tutorial_is(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        assert Page(server, {}).told == 3501
        assert Page(server, PLAYGROUND | {"name": "A" * 41}).told == 3501
        ann, bob = (Page(server, PLAYGROUND | {"name": name}) for name in ("Ann", "Bob"))
        assert ann.ask("publish", channel="playground:tea", data={"n": 1}) == 103
        for page in (ann, bob):
            assert page.ask("subscribe", channel="playground:tea")["recoverable"] is True
        assert bob.ask("publish", channel="playground:tea", data={"n": 1}) == {}
        assert ann.news() == {"n": 1}
        members = ann.ask("presence", channel="playground:tea")["presence"]
        assert sorted(member["conn_info"]["name"] for member in members.values()) == ["Ann", "Bob"]
        assert len(ann.ask("history", channel="playground:tea", limit=10)["publications"]) == 1
        assert ann.ask("subscribe", channel="playground:Not this") == 107
    with LiveServer(tmp_path, "--no-tutorial") as server:
        assert Page(server, PLAYGROUND).told == 3501
