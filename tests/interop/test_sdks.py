"""The published SDKs against the real server, over one worker and two."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from clients.serving import Cuttable, Service, connection_token, serving, subscription_token
from contract.serving import Server, until
from helpers.stores import start_redis
from interop.sdk import KINDS, Sdk, driving, driving_all

pytestmark = pytest.mark.xdist_group("interop")

APP = """
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tidewire import Hub

hub = Hub("memory://")
app = FastAPI(lifespan=hub.lifespan)


def who(connection: HTTPConnection) -> str:
    return "known"


@hub.rpc("double")
async def double(data: dict, user: str) -> dict:
    return {"doubled": data["n"] * 2, "user": user}


@hub.channel("news:{room}", presence=True)
async def room(room: str, user: str) -> bool:
    return bool(user) and room != "locked"


app.include_router(hub.client_router(user=who))
"""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module", params=[pytest.param(1, id="one", marks=pytest.mark.slow), pytest.param(2, id="two")])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=request.param) as service:
        yield service


def test_what_a_client_asks_for(service: Service, kind: str) -> None:
    channel = f"news:{kind}"
    with driving(kind, service.server.port) as sdk:
        sdk.tokens[""] = lambda: connection_token("ann")
        sdk.do("connect", asksToken=True)
        sdk.next("connected")
        assert sdk.subscribe(channel)["channel"] in (channel, "#ann")
        until(lambda: "ann" in sdk.joins, what="its own join")
        for value in ({"n": 1, "text": "é日本 \u2028 ✓"}, {"n": 1e300, "deep": [[{"a": None}]]}):
            assert sdk.ask("publish", channel=channel, data=value) is None
            assert sdk.data(1) == [value]
        assert sdk.ask("presence", channel=channel) == ["ann"]
        assert sdk.ask("stats", channel=channel) == [1, 1]
        assert [value["n"] for value in sdk.ask("history", channel=channel, limit=10)] == [1, 1e300]
        assert sdk.ask("rpc", method="x", data={}) == ("error", 108)
        assert sdk.ask("publish", channel="secret:1", data={}) == ("error", 103)
        assert sdk.ask("publish", channel="nowhere:1", data={}) == ("error", 102)
        sdk.do("unsubscribe", channel=channel)
        assert sdk.next("unsubscribed")["channel"] == channel
        until(lambda: not service.api("presence", channel=channel)["presence"], what="it has left")


def test_a_cut_and_what_is_not_kept_any_more(service: Service, kind: str) -> None:
    kept, short = f"news:cut-{kind}", f"short:cut-{kind}"
    with Cuttable(service.server.port) as relay, driving(kind, relay.port) as sdk:
        sdk.do("connect")
        sdk.next("connected")
        sdk.subscribe(kept)
        sdk.subscribe(short)
        service.publish(kept, 1)
        assert sdk.data(1) == [{"n": 1}]
        relay.is_cut = True
        relay.cut()
        sdk.next("connecting")
        service.publish(kept, 2, 3)
        service.publish(short, 1, 2, 3, 4)
        relay.is_cut = False
        told: dict[str, Any] = {}
        seen: list[Any] = []
        while len(told) < 2 or len(seen) < 2:
            event = sdk.next("subscribed", "publication")
            if event["event"] == "subscribed":
                told[event["channel"]] = (event["wasRecovering"], event["recovered"])
            else:
                seen.append(event["data"])
        assert told == {kept: (True, True), short: (True, False)}
        assert seen == [{"n": 2}, {"n": 3}]


def test_deltas(service: Service, kind: str) -> None:
    channel = f"news:delta-{kind}"
    values = [{"text": "the same words ü ✓ " * 20, "n": number} for number in range(8)]
    with Cuttable(service.server.port) as relay, driving(kind, relay.port) as sdk:
        sdk.do("connect")
        sdk.next("connected")
        sdk.subscribe(channel, delta=True)
        for value in values[:3]:
            service.api("publish", channel=channel, data=value, delta=True)
        assert sdk.data(3) == values[:3]
        relay.is_cut = True
        relay.cut()
        sdk.next("connecting")
        for value in values[3:6]:
            service.api("publish", channel=channel, data=value, delta=True)
        relay.is_cut = False
        assert sdk.data(3) == values[3:6]
        for value in values[6:]:
            service.api("publish", channel=channel, data=value, delta=True)
        assert sdk.data(2) == values[6:]


def test_tokens_are_refreshed(service: Service) -> None:
    with driving_all(service.server.port) as sdks:
        for kind, sdk in sdks.items():
            sdk.tokens[""] = lambda: connection_token("ann", seconds=2)
            sdk.tokens[f"secret:{kind}"] = functools.partial(subscription_token, "ann", f"secret:{kind}", seconds=2)
            sdk.do("connect", asksToken=True)
        for kind, sdk in sdks.items():
            sdk.next("connected")
            sdk.do("subscribe", channel=f"secret:{kind}", asksToken=True)
        for kind, sdk in sdks.items():
            asked = functools.partial(_have_asked, sdk, "", f"secret:{kind}")
            until(asked, 20.0, what=f"{kind} asks again and again")
            lost = ("connecting", "disconnected", "unsubscribed")
            assert not [event for event in sdk.events if event["event"] in lost]
            service.publish(f"secret:{kind}", 1)
            assert sdk.data(1) == [{"n": 1}]


def _have_asked(sdk: Sdk, *channels: str) -> bool:
    return all(sdk.asked.count(channel) >= 3 for channel in channels)


def test_what_the_application_does(service: Service, kind: str) -> None:
    user, channel = f"eve-{kind}", f"news:api-{kind}"
    with driving(kind, service.server.port) as sdk:
        sdk.tokens[""] = lambda: connection_token(user)
        sdk.do("connect", asksToken=True)
        sdk.next("connected")
        sdk.do("subscribe", channel=channel)
        assert {sdk.next("subscribed")["channel"] for _ in range(2)} == {f"#{user}", channel}
        service.publish(f"#{user}", 1)
        assert sdk.data(1) == [{"n": 1}]
        service.api("unsubscribe", user=user, channel=channel)
        assert sdk.next("unsubscribed") == {"event": "unsubscribed", "channel": channel, "code": 2000}
        service.api("disconnect", user=user, disconnect={"code": 3011, "reason": "force reconnect"})
        assert sdk.next("connecting")["code"] == 3011
        sdk.next("connected")
        service.api("disconnect", user=user)
        assert sdk.next("disconnected")["code"] == 3503


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_restart_costs_nothing(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, workers=workers) as service, driving_all(service.server.port) as sdks:
        _follow(sdks, "news:restart")
        service.publish("news:restart", 1)
        assert all(sdk.data(1) == [{"n": 1}] for sdk in sdks.values())
        for number, end in ((2, service.server.kill), (3, service.server.stop)):
            end()
            service.server.start()
            service.publish("news:restart", number)
            for sdk in sdks.values():
                assert sdk.next("subscribed")["recovered"]
                assert sdk.data(1) == [{"n": number}]
        assert sdks[KINDS[0]].ask("publish", channel="news:restart", data={"n": 4}) is None
        assert all(sdk.data(1) == [{"n": 4}] for sdk in sdks.values())


def test_a_store_that_has_forgotten_is_told_as_insufficient_state(tmp_path: Path) -> None:
    with (
        start_redis(tmp_path / "redis") as store,
        serving(tmp_path, workers=2, broker=f"redis://127.0.0.1:{store.port}") as service,
        driving_all(service.server.port) as sdks,
    ):
        _follow(sdks, "news:forgotten")
        service.publish("news:forgotten", 1)
        assert all(sdk.data(1) == [{"n": 1}] for sdk in sdks.values())
        with redis.Redis(port=store.port) as client:
            client.flushall()
        until(lambda: _is_kept(service, "news:forgotten", 2), what="the store takes publications again")
        for sdk in sdks.values():
            told = sdk.next("subscribed")
            assert (told["wasRecovering"], told["recovered"]) == (True, False)
        service.publish("news:forgotten", 3)
        for sdk in sdks.values():
            while sdk.data(1) != [{"n": 3}]:
                pass


def _is_kept(service: Service, channel: str, number: int) -> bool:
    parameters = {"channel": channel, "data": {"n": number}}
    answer = service.server.http.post("/api/publish", json=parameters, headers={"X-API-Key": "key"})
    return "error" not in answer.json()


def _follow(sdks: dict[str, Sdk], channel: str) -> None:
    for sdk in sdks.values():
        sdk.do("connect")
    for sdk in sdks.values():
        sdk.next("connected")
        sdk.subscribe(channel)


def test_an_application_with_rules_and_calls(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "rules.py").write_text(APP)
    with Server(tmp_path, app=tmp_path / "made" / "rules.py").running() as server:
        for kind in KINDS:
            with driving(kind, server.port) as sdk:
                sdk.do("connect")
                sdk.next("connected")
                assert sdk.ask("rpc", method="double", data={"n": 21}) == {"doubled": 42, "user": "known"}
                assert sdk.ask("rpc", method="nothing", data={}) == ("error", 104)
                sdk.subscribe(f"news:{kind}")
                assert sdk.ask("publish", channel=f"news:{kind}", data="hi") is None
                assert sdk.data(1) == ["hi"]
                assert sdk.ask("presence", channel=f"news:{kind}") == ["known"]
                sdk.do("subscribe", channel="news:locked")
                assert sdk.next("unsubscribed")["code"] == 103
